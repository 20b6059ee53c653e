#!/usr/bin/env bash
# The crates as crates.io would have them: complete, without warnings, each built from
# what is uploaded of it and of the others, and `cargo install` makes a program of them.
# Nothing is uploaded. Publishing several crates at once needs Cargo 1.90.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo publish --dry-run --workspace --locked 2>&1 | tee "$work/log"
# What cargo says of a real upload is the one warning that belongs there.
if grep '^warning' "$work/log" | grep -v 'aborting upload due to dry run'; then
    echo "cargo publish has something to say, see above" >&2
    exit 1
fi
for manifest in crates/*/Cargo.toml Cargo.toml; do
    grep -q '^publish = false' "$manifest" && continue
    echo "$(sed -n 's/^name = "\(.*\)"/\1/p' "$manifest" | head -1) has:"
    cargo package --list --locked --manifest-path "$manifest"
done

cargo install --locked --path . --root "$work/root" --no-track
"$work/root/bin/knockpipe" --version
"$work/root/bin/knockpipe" keygen "$work/key"
scripts/pair.sh "$work/key" "$work/root/bin/knockpipe"
