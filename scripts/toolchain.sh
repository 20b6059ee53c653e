#!/usr/bin/env bash
# What building needs: cargo, which the user chooses how to install, and a C
# compiler, because the default feature aws-lc compiles C.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo >/dev/null; then
    rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    echo "missing: cargo; install Rust $rust or newer from https://rustup.rs, then run this again:" >&2
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
    exit 1
fi
exec scripts/apt-need.sh cc=gcc,libc6-dev
