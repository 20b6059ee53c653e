#!/usr/bin/env bash
# Counts the instructions of seal, open and handshake with callgrind, and fails
# when one needs 3 % more than recorded in docs/BENCHMARKS.md. With --write it
# records the counts there instead, between their markers.
set -euo pipefail
cd "$(dirname "$0")/.."

# In percent. The counts of one build are the same in every run, those of another compiler are not quite.
may_grow=3
document=docs/BENCHMARKS.md

scripts/apt-need.sh valgrind=valgrind

# The benchmark speaks to a program of exactly the version of the crate.
version=$(grep -A1 '^name = "gungraun"$' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
if [[ $(gungraun-runner --version 2>/dev/null) != *" $version" ]]; then
    cargo install gungraun-runner --version "$version" --locked
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo bench --locked --bench instructions | tee "$work/output"

awk '
    /^instructions::/ { split($1, path, "::"); split($2, name, ":"); what = path[3] " " name[1] }
    /^ *Instructions:/ { split($2, count, "|"); gsub("_", " ", what)
                         print "| " what " | " count[1] " |" }
' "$work/output" >"$work/rows"

# Nothing is recorded unless that is asked for: otherwise a count could creep up
# without end, a little each time.
compare() {
    awk -F ' *[|] *' -v may_grow="$may_grow" '
        function fail(row, what) { print "bench-instructions: " row ": " what; failed = 1 }
        FNR == NR { if (/^<!-- bench-instructions:/) inside = !inside
                    if (inside && $3 ~ /^[0-9]+$/) recorded[$2] = $3
                    next }
        !($2 in recorded) { fail($2, "is not recorded"); next }
        $3 > recorded[$2] * (1 + may_grow / 100) {
            fail($2, sprintf("%d instructions, recorded are %d: %.1f %% more, and %d %% are allowed",
                             $3, recorded[$2], ($3 / recorded[$2] - 1) * 100, may_grow)) }
        { delete recorded[$2] }
        END { for (row in recorded) fail(row, "is recorded and was not counted")
              exit failed }
    ' "$document" "$work/rows" >&2
}

record() {
    {
        printf '%s, %s, valgrind %s:\n\n    make bench-instructions WRITE=yes\n\n' \
            "$(date -u +%F)" "$(rustc --version | cut -d' ' -f1,2)" \
            "$(valgrind --version | cut -d- -f2)"
        printf '| what | instructions |\n|---|---|\n'
        cat "$work/rows"
    } >"$work/table"
    awk -v table="$work/table" '
        /^<!-- bench-instructions: to here/ { skip = 0 }
        !skip
        /^<!-- bench-instructions: written/ { skip = 1; while ((getline line < table) > 0) print line }
    ' "$document" >"$work/document"
    cat "$work/document" >"$document"
}

if [[ ${1-} == --write ]]; then
    record
elif compare; then
    echo "bench-instructions: no count grew by more than $may_grow %"
else
    echo "bench-instructions: make it cheaper, or accept it with: make bench-instructions WRITE=yes" >&2
    exit 1
fi
