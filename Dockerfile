# knockpipe in a container. Built and run by docs/operating/containers.md;
# `make check-image` shows that every stage builds, and that the image runs a pair.
#
#   docker build -t knockpipe .
#   docker build -t knockpipe:debug --target debug .    # the same with a shell
#
# A release gives the bases by digest, so that it can be built again (docs/RELEASE.md).
# The builder is Debian 12 like the bases, so that all have the same glibc.
ARG BUILDER=docker.io/library/rust:1.95.0-bookworm
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
ARG DEBUG_BASE=gcr.io/distroless/cc-debian12:debug-nonroot

FROM ${BUILDER} AS build
WORKDIR /build
COPY . .
# The caches hold what cargo can make again; the binary is copied out of them
# because a cache is not part of a layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked \
    && install -m 0755 target/release/knockpipe /knockpipe

# To look around: with the shell and the tools of busybox, otherwise the same.
FROM ${DEBUG_BASE} AS debug
COPY --from=build /knockpipe /usr/local/bin/knockpipe
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/knockpipe"]
CMD ["--help"]

# libc, libm and libgcc_s, which the binary links, and no shell or package
# manager. The user is said by number, because Kubernetes cannot tell from a
# name that it is not root; knockpipe needs root for nothing but -u.
FROM ${BASE} AS runtime
COPY --from=build /knockpipe /usr/local/bin/knockpipe
USER 65532:65532
# SIGTERM, the default stop signal, drains. There is no HEALTHCHECK, because
# there is no program in here that could ask: --metrics answers from outside.
ENTRYPOINT ["/usr/local/bin/knockpipe"]
CMD ["--help"]
