#!/usr/bin/env bash
# Runs every test program, in two lanes at once: those that mostly wait (for a ban
# to end, a peer to vanish, a pool to be renewed) need no processor meanwhile. The
# lines of the second lane come when the first one is through.
set -euo pipefail
cd "$(dirname "$0")/.."

waiting=(gate gate_store mariadb network pool)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

cargo test --locked --tests --no-run

others=()
for file in tests/*.rs; do
    name=$(basename "$file" .rs)
    if [[ ! " ${waiting[*]} " == *" $name "* ]]; then others+=(--test "$name"); fi
done

cargo test --locked "${waiting[@]/#/--test=}" >"$log" 2>&1 &
second=$!
first_status=0
cargo test --locked --lib --bins "${others[@]}" || first_status=$?
# Most of these wait for a process now and then.
cargo test --locked --test suite -- --test-threads=4 || first_status=$?
second_status=0
wait "$second" || second_status=$?
echo "The programs that mostly wait: ${waiting[*]}"
cat "$log"
exit $((first_status > 0 ? first_status : second_status))
