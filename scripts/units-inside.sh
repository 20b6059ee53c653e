#!/usr/bin/env bash
# What scripts/check-units.sh does in the Debian that it boots, as root. The package
# is installed there, and the configuration is in place. /root/good is written last.
set -euxo pipefail
trap 'journalctl --no-pager -u knockpipe -u knockpipe@office -u knockpipe@door; systemctl poweroff' EXIT
shopt -s inherit_errexit

# The service behind the tunnel: it says everything back.
perl -MIO::Socket::INET -e '
    $SIG{CHLD} = "IGNORE";
    my $listener = IO::Socket::INET->new(Listen => 500, LocalAddr => "127.0.0.1:7000") or die $!;
    while (my $client = $listener->accept) {
        if (!fork) { $client->autoflush(1); print $client $_ while <$client>; exit }
    }' &

# A client with a session that lasts until the file is there, and never goes unanswered.
session() {
    perl -MIO::Socket::INET -e '
        my $there = IO::Socket::INET->new(PeerAddr => "127.0.0.1:6381") or die "refused: $!";
        do {
            print $there "still here\n";
            alarm 20;
            <$there> eq "still here\n" or die "cut off";
            select(undef, undef, undef, 0.1);
        } until -e $ARGV[0];' "$1"
}
# Fifty clients a second, one after the other, until the file is there, at the port
# that knockpipe itself opened or another, and twenty at least. Prints what became of
# them; fails if any was refused or had no answer.
crowd() {
    perl -MIO::Socket::INET -e '
        my ($served, $refused, $failed) = (0, 0, 0);
        until (-e $ARGV[0] && $served + $refused + $failed >= 20) {
            my $there = IO::Socket::INET->new(PeerAddr => $ARGV[1]);
            if (!$there) { $refused++ } else {
                my $answer = eval {
                    local $SIG{ALRM} = sub { die };
                    alarm 20;
                    print $there "hello\n";
                    my $line = <$there>;
                    alarm 0;
                    $line
                };
                ($answer // "") eq "hello\n" ? $served++ : $failed++;
            }
            select(undef, undef, undef, 0.02);
        }
        print "$served served, $refused refused, $failed failed\n";
        exit($refused + $failed > 0)' "$1" "${2:-127.0.0.1:6381}"
}
fails() { if "$@"; then return 1; fi; }
talk() { touch /run/at-once && session /run/at-once; }
talk_as() {
    setpriv --reuid "$1" --regid "$1" --init-groups perl -MIO::Socket::UNIX -e '
        my $there = IO::Socket::UNIX->new(Peer => "/run/knockpipe/redis.sock") or die "$!\n";
        alarm 20;
        print $there "hello\n";
        print scalar <$there>' 2>&1
}
until_true() { for _ in {1..300}; do "$@" && return; sleep 0.1; done; false; }
says() { [[ $(systemctl show -P StatusText knockpipe) == "$1" ]]; }
main() { systemctl show -P MainPID "$1"; }
has_ended() { [[ ! -e /proc/$1 ]]; }
told() { journalctl --no-pager -u "$1" | grep -c -- "$2" >/dev/null; }
both=(knockpipe knockpipe@office)

systemctl start knockpipe@office knockpipe.socket knockpipe
talk
[[ $(talk_as application) == hello ]]
[[ $(talk_as stranger) == 'Permission denied' ]]
pid=$(main knockpipe)
user=$(stat -c %U "/proc/$pid")
grep -q '^CapBnd:.*0000000000000000$' "/proc/$pid/status"
grep -q '^Seccomp:.*2$' "/proc/$pid/status"
[[ $user != root ]]
knockpipe status | grep -c client

: 'the keys: root has them, the service has copies, and no other user sees either'
[[ $(stat -c '%U %a' /etc/knockpipe/keys/redis.key /run/knockpipe.keys) == $'root 600\nroot 711' ]]
[[ $(stat -c '%u %a' /run/knockpipe.keys/redis.key) == "$(stat -c %u "/proc/$pid") 400" ]]
for file in {/etc/knockpipe/keys,/run/knockpipe.keys}/redis.key; do
    fails setpriv --reuid stranger --regid stranger --clear-groups cat "$file"
done

: 'what root checks is what the service does'
sh -c 'knockpipe check -c /etc/knockpipe/knockpipe.toml && systemctl reload knockpipe'
sh -c 'knockpipe check -c /etc/knockpipe/office.toml && systemctl reload knockpipe@office'
says serving
[[ $(main knockpipe) == "$pid" ]]

: 'a mistake is told, by the command as well'
echo 'nonsense = 1' >>/etc/knockpipe/knockpipe.toml
fails knockpipe check -c /etc/knockpipe/knockpipe.toml
fails systemctl reload knockpipe
says 'serving, not reloaded'
told knockpipe 'knockpipe: not reloaded: .*nonsense'
sed -i /nonsense/d /etc/knockpipe/knockpipe.toml
systemctl reload knockpipe
says serving

: 'another key, with reloads alone'
crowd /run/rotated &
crowd=$!
knockpipe keygen /etc/knockpipe/keys/new.key
cp /etc/knockpipe/keys/new.key /etc/knockpipe/office/
inode=$(stat -c %i /run/knockpipe.keys)
sed -i 's|^key = .*|key = ["office/redis.key", "office/new.key"]|' /etc/knockpipe/office.toml
systemctl reload knockpipe@office
sed -i 's|^key = .*|key = "keys/new.key"|' /etc/knockpipe/knockpipe.toml
systemctl reload knockpipe
sed -i 's|^key = .*|key = "office/new.key"|' /etc/knockpipe/office.toml
rm /etc/knockpipe/{keys,office}/redis.key
systemctl reload "${both[@]}"
[[ $(ls /run/knockpipe.keys) == new.key && $(stat -c %i /run/knockpipe.keys) == "$inode" ]]
touch /run/rotated
wait "$crowd"
[[ $(main knockpipe) == "$pid" ]]

: 'an upgrade: no client is refused, and a session that was open goes on'
before=("$(main knockpipe)" "$(main knockpipe@office)")
crowd /run/upgraded &
crowd=$!
session /run/ended &
session=$!
dpkg --install /root/newer.deb
for at in 0 1; do
    unit=${both[at]}
    [[ $(main "$unit") != "${before[at]}" ]]
    [[ $(readlink "/proc/$(main "$unit")/exe") == /usr/bin/knockpipe ]]
    [[ ! -e /proc/${before[at]} ]] || [[ $(readlink "/proc/${before[at]}/exe") == *'(deleted)' ]]
    # The memory of first messages, which now the new one has systemd keep.
    [[ $(systemctl show -P NFileDescriptorStore "$unit") == 1 ]]
    [[ $(stat -c %U "/proc/$(main "$unit")") == "$(stat -c %U "/proc/${before[at]}")" ]]
done
pid=$(main knockpipe)
# Longer than the watchdog would wait for the new one, twice.
for _ in {1..10}; do sleep 1; talk; done
[[ $(main knockpipe) == "$pid" && $(systemctl show -P NRestarts "${both[@]}") == $'0\n\n0' ]]
kill -0 "$session" "${before[@]}"
touch /run/ended
wait "$session"
until_true has_ended "${before[0]}"
until_true has_ended "${before[1]}"
touch /run/upgraded
wait "$crowd"
fails told knockpipe 'reception only permitted for main PID'
knockpipe check -c /etc/knockpipe/knockpipe.toml
systemctl reload "${both[@]}"
[[ $(main knockpipe) == "$pid" ]]
says serving
talk

: 'one that cannot start leaves the other where it is'
echo 'nonsense = 1' >>/etc/knockpipe/knockpipe.toml
dpkg --install /root/knockpipe.deb
[[ $(main knockpipe) == "$pid" ]]
sed -i /nonsense/d /etc/knockpipe/knockpipe.toml
talk

: 'a stop lets all sessions finish, those of a program before as well'
session /run/done &
first=$!
until_true bash -c '[[ $(knockpipe who | grep -c client) == 1 ]]'
systemctl reload knockpipe
[[ $(main knockpipe) != "$pid" ]]
session /run/done &
second=$!
until_true bash -c '[[ $(knockpipe who | grep -c client) == 1 ]]'
systemctl stop knockpipe.socket
systemctl stop knockpipe &
stop=$!
until_true told knockpipe 'stopping: no new connections signal="\?SIGTERM'
sleep 2
kill -0 "$first" "$second" "$stop"
touch /run/done
wait "$first"
wait "$second"
wait "$stop"
[[ $(systemctl show -P Result knockpipe) == success ]]
[[ ! -e /run/knockpipe.keys ]]

: 'while it restarts behind a socket of systemd, every client gets a connection'
systemctl start knockpipe.socket knockpipe
crowd /run/restarted 127.0.0.1:6379 &
crowd=$!
systemctl restart knockpipe
touch /run/restarted
wait "$crowd"

: 'one that stands still is started again'
kill -STOP "$(main knockpipe)"
until_true bash -c '[[ $(systemctl show -P NRestarts knockpipe) != 0 ]]'
until_true says serving
talk

: 'one of a version that cannot be asked is restarted by an upgrade'
rm /run/knockpipe/handover
pid=$(main knockpipe)
dpkg --install /root/newer.deb
[[ $(main knockpipe) != "$pid" ]]
talk

systemctl stop knockpipe knockpipe.socket knockpipe@office

: 'the unit of a user keeps a gate open for as long as it runs'
# A connection that the gate lets in stays, and one that it does not is closed at once.
is_open() {
    perl -MIO::Socket::INET -MIO::Select -e '
        my $there = IO::Socket::INET->new(PeerAddr => "127.0.0.1:6390") or die "refused: $!";
        exit(IO::Select->new($there)->can_read(1) ? 1 : 0)'
}
anna() {
    setpriv --reuid anna --regid anna --init-groups \
        env HOME=/home/anna XDG_RUNTIME_DIR="/run/user/$(id -u anna)" "$@"
}
unit=knockpipe-knock@redis
of_anna() { anna systemctl --user show -P "$1" "${2:-$unit}"; }
noted() { journalctl --no-pager "_UID=$(id -u anna)" | grep -c -- "$1" >/dev/null; }
is_closed() { ! is_open; }
is_another() { [[ $(of_anna MainPID) != 0 && $(of_anna MainPID) != "$1" ]]; }
systemctl start knockpipe@door
loginctl enable-linger anna
until_true anna systemctl --user is-active default.target
fails is_open
anna systemctl --user enable --now "$unit"
until_true is_open
until_true told knockpipe@door 'knock granted .*label="\?laptop'
pid=$(of_anna MainPID)
[[ $(stat -c %U "/proc/$pid") == anna ]]
grep -q '^Seccomp:.*2$' "/proc/$pid/status"
grep -q '^NoNewPrivs:.*1$' "/proc/$pid/status"
anna systemctl --user reload "$unit"
until_true noted 'knocked .*reason="\?request'
# Longer than a grant lasts.
for _ in {1..15}; do is_open; done
[[ $(of_anna MainPID) == "$pid" ]]
kill -KILL "$pid"
until_true is_another "$pid"
until_true is_open
anna systemctl --user stop "$unit"
[[ $(of_anna Result) == success ]]
until_true is_closed
: 'and one whose key is missing is not tried again'
unit=knockpipe-knock@wrong
anna systemctl --user start "$unit" || true
has_failed() { [[ $(of_anna ActiveState) == failed ]]; }
until_true has_failed
[[ $(of_anna ExecMainStatus) == 2 && $(of_anna NRestarts) == 0 ]]
systemctl stop knockpipe@door
touch /root/good
