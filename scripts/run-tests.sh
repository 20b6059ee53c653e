#!/usr/bin/env bash
# Runs every test program, in two lanes at once: those that mostly wait (for a ban
# to end, a peer to vanish, a pool to be renewed) need no processor meanwhile. The
# lines of the second lane come when the first one is through.
set -euo pipefail
cd "$(dirname "$0")/.."

waiting=(gate gate_store mariadb network pool)
working=()
for file in tests/*.rs tests/*/main.rs; do
    name=${file#tests/}
    name=${name%/main.rs}
    name=${name%.rs}
    if [[ " ${waiting[*]} suite " != *" $name "* ]]; then working+=(--test "$name"); fi
done

log=$(mktemp)
lanes=()
# Each lane is a process group: a job of a script hears no Ctrl-C of its own, and
# what the tests start ends with them.
start() {
    set -m
    "$@" </dev/null &
    lanes+=($!)
    set +m
}
finish() {
    for lane in "${lanes[@]}"; do kill -TERM -- "-$lane" || true; done
    wait || true
    # Who was asked and went on.
    for lane in "${lanes[@]}"; do kill -KILL -- "-$lane" || true; done
    rm -f "$log"
}
trap 'finish 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

work() {
    local status=0
    cargo test --locked --lib --bins "${working[@]}" || status=$?
    # Most of these wait for a process now and then.
    cargo test --locked --test suite -- --test-threads=4 || status=$?
    return "$status"
}
mostly_wait() { cargo test --locked "${waiting[@]/#/--test=}" >"$log" 2>&1; }

cargo test --locked --tests --no-run
start work
start mostly_wait
status=0
for lane in "${lanes[@]}"; do wait "$lane" || status=$?; done
echo "The programs that mostly wait: ${waiting[*]}"
cat "$log"
exit "$status"
