#!/usr/bin/env bash
# A line there and back through two running knockpipes and an echo server, for
# the programs that cargo does not start: those of a package and of an image.
#
#   scripts/pair.sh KEY COMMAND...
#
# COMMAND runs knockpipe with the arguments that follow; KEY is the key file as
# it sees it. Everything listens on loopback, on ports of the system's choice.
set -euo pipefail
key=$1
shift

work=$(mktemp -d)
children=()
# The commands may be wrappers, so their whole process groups end.
finish() {
    for child in "${children[@]}"; do
        kill -KILL -- "-$child" || true
        wait "$child" || true
    done
    rm -rf "$work"
}
trap 'finish 2>/dev/null' EXIT
set -m

# Prints what `$2` matches in the log of `$1`, once it is there.
wait_for() {
    local found
    for _ in {1..300}; do
        found=$(sed -nE "s/.*$2.*/\1/p" "$work/$1" | head -n 1)
        if [[ -n $found ]]; then
            echo "$found"
            return
        fi
        sleep 0.1
    done
    echo "$1 never said $2; it said:" >&2
    cat "$work/$1" >&2
    exit 1
}

: >"$work/echo"
perl -MIO::Socket::INET -e '
    $| = 1;
    my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1") or die $!;
    print "port ", $listener->sockport, "\n";
    while (my $client = $listener->accept) { print $client $_ while <$client>; close $client }
' >"$work/echo" &
children+=($!)
echo_port=$(wait_for echo 'port ([0-9]+)')

# Starts an end with the other arguments and prints nothing; its log is `$1`.
start() {
    local end=$1
    shift
    : >"$work/$end"
    "$@" -s 127.0.0.1:0 -k "$key" --log-format json >"$work/$end" 2>&1 &
    children+=($!)
    wait_for "$end" '"message":"(ready)"' >/dev/null
}
port() { wait_for "$1" '"listening".*127\.0\.0\.1:([0-9]+)'; }

start decrypt "$@" decrypt -t "127.0.0.1:$echo_port"
start encrypt "$@" encrypt -t "127.0.0.1:$(port decrypt)"

exec 3<>"/dev/tcp/127.0.0.1/$(port encrypt)"
echo 'hello through the tunnel' >&3
answer='nothing within 10 seconds'
read -r -t 10 answer <&3 || true
exec 3>&-
if [[ $answer != 'hello through the tunnel' ]]; then
    echo "another line came back: $answer" >&2
    exit 1
fi

# The program itself, below its wrappers.
innermost() {
    local below
    below=$(pgrep -P "$1") && innermost "$below" || echo "$1"
}
# SIGTERM drains, and that ends with 0.
for child in "${children[@]:1}"; do
    kill -TERM "$(innermost "$child")"
    status=0
    wait "$child" || status=$?
    if ((status != 0)); then
        echo "an end did not stop with 0 but with $status" >&2
        exit 1
    fi
done
echo "a pair carried a line there and back, and both ends stopped with 0"
