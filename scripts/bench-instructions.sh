#!/usr/bin/env bash
# Counts the instructions of seal, open and handshake with callgrind, and puts
# the table between its markers in docs/BENCHMARKS.md.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/apt-need.sh valgrind=valgrind

# The benchmark speaks to a program of exactly the version of the crate.
version=$(grep -A1 '^name = "gungraun"$' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
if [[ $(gungraun-runner --version 2>/dev/null) != *" $version" ]]; then
    cargo install gungraun-runner --version "$version" --locked
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo bench --locked --bench instructions | tee "$work/output"

{
    printf '%s, %s, valgrind %s:\n\n    make bench-instructions\n\n' \
        "$(date -u +%F)" "$(rustc --version | cut -d' ' -f1,2)" \
        "$(valgrind --version | cut -d- -f2)"
    printf '| what | instructions |\n|---|---|\n'
    awk '
        /^instructions::/ { split($1, path, "::"); split($2, name, ":"); what = path[3] " " name[1] }
        /^ *Instructions:/ { split($2, count, "|"); gsub("_", " ", what)
                             print "| " what " | " count[1] " |" }
    ' "$work/output"
} >"$work/table"

awk -v table="$work/table" '
    /^<!-- bench-instructions: to here/ { skip = 0 }
    !skip
    /^<!-- bench-instructions: written/ { skip = 1; while ((getline line < table) > 0) print line }
' docs/BENCHMARKS.md >"$work/document"
cat "$work/document" >docs/BENCHMARKS.md
