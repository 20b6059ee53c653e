#!/usr/bin/env bash
# The crate as crates.io would have it: complete, without warnings, and
# `cargo install` makes a program of it. Nothing is uploaded.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo publish --dry-run --locked 2>&1 | tee "$work/log"
# What cargo says of a real upload is the one warning that belongs there.
if grep '^warning' "$work/log" | grep -v 'aborting upload due to dry run'; then
    echo "cargo publish has something to say, see above" >&2
    exit 1
fi
echo "it has:"
cargo package --list --locked

cargo install --locked --path . --root "$work/root" --no-track
"$work/root/bin/knockpipe" --version
"$work/root/bin/knockpipe" keygen "$work/key"
scripts/pair.sh "$work/key" "$work/root/bin/knockpipe"
