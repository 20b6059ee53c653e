# knockpipe in a container. Built and run by docs/OPERATING.md, "In a container".

# Debian 12 like the final image, so that both have the same glibc.
FROM rust:1-bookworm AS build
WORKDIR /build
COPY . .
# The caches hold what cargo can make again; the binary is copied out of them
# because a cache is not part of a layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked \
    && install -m 0755 target/release/knockpipe /knockpipe

# libc, libm and libgcc_s, which the binary links, and no shell or package
# manager. The tag's default user is nonroot (uid 65532); knockpipe
# needs root for nothing but ports below 1024 and -u.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /knockpipe /usr/local/bin/knockpipe
# SIGTERM, the default stop signal, drains. There is no HEALTHCHECK: a
# connection from outside without the key must get no answer, so there is
# nothing yet that one could ask.
ENTRYPOINT ["/usr/local/bin/knockpipe"]
CMD ["--help"]
