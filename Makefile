# Every command that a developer, a CI machine or a newcomer runs, by name.
# CI runs these targets and nothing else, so what passes here passes there.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo quick test fuzz build deps msrv publish-check pages packages check-packages check-image \
	bench-gate bench-http bench-peers bench-instructions install-test-tools toolchain fmt clean

# rustup does not put cargo on the path of a shell that was already open.
export PATH := $(PATH):$(HOME)/.cargo/bin

# The build without aws-lc shares everything but the package itself with the
# other. Its program is put aside, so that the tests can start one against the other.
PURE := --no-default-features
PURE_PROGRAM := $(CURDIR)/target/knockpipe-pure

MSRV = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) \
	| awk -F ':.*## ' '{ printf "  make %-20s %s\n", $$1, $$2 }'

demo: toolchain ## Show the tunnel at work on this machine; needs no set-up
	@cargo run --release --locked -- demo

quick: toolchain ## Formatting, lints, unit tests and a report on style; two minutes, no root
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked --lib --test floors
	@scripts/measure-style.sh

test: toolchain install-test-tools ## Formatting, lints and every test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --all-targets --locked $(PURE) -- -D warnings
	cargo test --workspace --locked --lib --test floors $(PURE) --no-run
	cp target/debug/knockpipe $(PURE_PROGRAM)
	ulimit -n "$$(ulimit -Hn)"; KNOCKPIPE_PURE=$(PURE_PROGRAM) scripts/run-tests.sh

fuzz: toolchain ## Twenty million random PROXY headers and knocks that no run had before
	KNOCKPIPE_FUZZ_CASES=20000000 cargo test --release --locked --lib proxy_protocol::incoming -- --nocapture
	KNOCKPIPE_FUZZ_CASES=20000000 cargo test --release --locked -p knockpipe-proto --lib knock::random -- --nocapture

bench-gate: toolchain install-test-tools ## Measure the gate with a million members, release build
	cargo bench --locked --bench gate

bench-http: toolchain ## Measure the gate in front of a web server against haproxy, nginx and caddy
	@scripts/install-test-tools.sh http
	ulimit -n "$$(ulimit -Hn)"; cargo bench --locked --bench http

build: toolchain ## Build target/release/knockpipe
	cargo build --release --locked

deps: toolchain ## Check licenses, sources, duplicates and, with a network, advisories of all dependencies
	command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny --locked check bans licenses sources
	@scripts/check-advisories.sh

msrv: toolchain ## Check with the oldest Rust that Cargo.toml promises
	rustup toolchain install $(MSRV) --profile minimal --no-self-update
	cargo +$(MSRV) check --locked
	cargo +$(MSRV) check --locked $(PURE)

publish-check: toolchain ## What `cargo publish` would upload, built from that; and `cargo install`
	@scripts/check-crate.sh

# Cargo and cargo-deb look for what they package below target, wherever that is.
pages: toolchain ## Write man pages and completions to target/packaging
	rm -rf target/packaging
	cargo run --quiet --locked --example generate -- target/packaging "$$(git log -1 --format=%cs || date -u +%F)"
	gzip -9n target/packaging/man/*.[15]

packages: build pages ## Build target/debian/*.deb
	@scripts/apt-need.sh dpkg-shlibdeps=dpkg-dev
	command -v cargo-deb >/dev/null || cargo install cargo-deb --locked
	rm -rf target/debian
	cargo deb --no-build --locked

check-packages: packages ## Try the .deb in a clean Debian, and its units in one that boots; root and network
	@scripts/check-deb.sh target/debian/*.deb
	@scripts/check-units.sh target/debian/*.deb

check-image: toolchain ## Build every stage of the Dockerfile and run a pair of the image; root and network
	@scripts/check-image.sh

bench-peers: build ## Measure against haproxy, spiped and stunnel; a quarter of an hour, wants a quiet machine
	@scripts/install-test-tools.sh peers
	ulimit -n "$$(ulimit -Hn)"; cargo bench --locked --bench peers -- --write

bench-instructions: toolchain ## Fail if seal, open or handshake need more instructions; WRITE=yes accepts
	@scripts/bench-instructions.sh $(if $(WRITE),--write)

install-test-tools: ## Install the Redis, MariaDB and HAProxy that the tests start
	@scripts/install-test-tools.sh

toolchain:
	@scripts/toolchain.sh

fmt: toolchain ## Format the code
	cargo fmt --all

clean: ## Remove everything that was built
	rm -rf target
