#!/usr/bin/env bash
# Runs every test program, in three lanes at once: one works, one waits for real
# servers, and one waits for minutes to pass (for a peer to vanish, a pool to be
# renewed) and needs no processor meanwhile. The lines of the other lanes come when
# the first one is through.
#
# With KNOCKPIPE_PURE, the program without aws-lc, the unit tests of that build run too.
set -euo pipefail
cd "$(dirname "$0")/.."

with_servers=(firewall firewalld gate gate_store knock mariadb nftables pages)
for_minutes=(network pool)
working=()
for file in tests/*.rs tests/*/main.rs crates/*/tests/*.rs; do
    name=${file#*tests/}
    name=${name%/main.rs}
    name=${name%.rs}
    if [[ " ${with_servers[*]} ${for_minutes[*]} suite " != *" $name "* ]]; then
        working+=(--test "$name")
    fi
done

logs=$(mktemp -d)
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
    # Those that were asked and went on.
    for lane in "${lanes[@]}"; do kill -KILL -- "-$lane" || true; done
    rm -rf "$logs"
}
trap 'finish 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

run() { cargo test --locked --workspace "$@"; }
work() {
    local status=0
    run --lib "${working[@]}" || status=$?
    # Most of these wait for a process now and then, and the other lanes are through by then.
    run --test suite -- --test-threads=6 || status=$?
    return "$status"
}
wait_for_servers() { run "${with_servers[@]/#/--test=}" >"$logs/servers" 2>&1; }
wait_for_minutes() {
    local status=0
    run "${for_minutes[@]/#/--test=}" || status=$?
    if [[ ${KNOCKPIPE_PURE-} ]]; then run --lib --no-default-features || status=$?; fi
    return "$status"
} >"$logs/minutes" 2>&1

run --tests --no-run
start work
start wait_for_servers
start wait_for_minutes
status=0
for lane in "${lanes[@]}"; do wait "$lane" || status=$?; done
echo "The programs that wait for servers: ${with_servers[*]}"
cat "$logs/servers"
echo "The programs that wait for minutes: ${for_minutes[*]}"
cat "$logs/minutes"
exit "$status"
