#!/usr/bin/env bash
# Shows that the units of the Debian package run under the systemd of Debian:
# locked up as they are, with a key handed over as a credential, reload, watchdog,
# a unix socket for a group, and a restart behind a socket unit that refuses
# nobody. Boots a Debian in systemd-nspawn, without a network; needs root, and the
# network for debootstrap.
#
#   scripts/check-units.sh PACKAGE.deb
set -euo pipefail
cd "$(dirname "$0")/.."
deb=$(realpath "$1")
scripts/apt-need.sh systemd-nspawn=systemd-container

work=$(mktemp -d)
root=$work/root
trap 'rm -rf --one-file-system "$work"' EXIT

scripts/debian-root.sh "$root" --include=systemd,dbus
cp "$deb" "$root/root/knockpipe.deb"
chroot "$root" dpkg --install /root/knockpipe.deb
chroot "$root" knockpipe keygen /etc/knockpipe/keys/redis.key
ln -s /usr/share/doc/knockpipe/examples/knockpipe.socket "$root/etc/systemd/system/"

# The clients' end, behind the socket of the example.
cat >"$root/etc/knockpipe/knockpipe.toml" <<'FILE'
[defaults]
allow-readable-key = true
key = "${CREDENTIALS_DIRECTORY}/key_redis.key"

[tunnels.client]
mode = "encrypt"
source = ["systemd:redis", "/run/knockpipe/redis.sock"]
target = "127.0.0.1:6380"
FILE
# The server's end: a template's instance, with a key directory of its own.
mkdir -m 0700 "$root/etc/knockpipe/office"
cp "$root/etc/knockpipe/keys/redis.key" "$root/etc/knockpipe/office/"
cat >"$root/etc/knockpipe/office.toml" <<'FILE'
[defaults]
allow-readable-key = true
key = "${CREDENTIALS_DIRECTORY}/key_redis.key"

[tunnels.server]
mode = "decrypt"
source = "127.0.0.1:6380"
target = "127.0.0.1:7000"
FILE
# Who may connect to the unix socket, as docs/OPERATING.md has it.
chroot "$root" groupadd redis-clients
chroot "$root" useradd --groups redis-clients application
chroot "$root" useradd stranger
mkdir "$root/etc/systemd/system/knockpipe.service.d"
cat >"$root/etc/systemd/system/knockpipe.service.d/clients.conf" <<'UNIT'
[Service]
Group=redis-clients
UMask=0007
UNIT

# What happens inside; `good` is written last.
cat >"$root/root/inside.sh" <<'INSIDE'
set -euxo pipefail
trap 'journalctl --no-pager -u knockpipe; systemctl poweroff' EXIT
perl -MIO::Socket::INET -e '
    $SIG{CHLD} = "IGNORE";
    my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1:7000") or die $!;
    while (my $client = $listener->accept) { if (!fork) { print $client $_ while <$client>; exit } }
' &
talk() {
    exec 3<>/dev/tcp/127.0.0.1/6379
    echo hello >&3
    read -r -t 20 answer <&3
    exec 3>&-
    [[ $answer == hello ]]
}
talk_as() {
    setpriv --reuid "$1" --regid "$1" --init-groups perl -MIO::Socket::UNIX -e '
        my $there = IO::Socket::UNIX->new(Peer => "/run/knockpipe/redis.sock") or die "$!\n";
        alarm 20;
        print $there "hello\n";
        print scalar <$there>' 2>&1
}
says() { systemctl show -P StatusText knockpipe; }
until_says() { for _ in {1..100}; do [[ $(says) == "$1" ]] && return; sleep 0.1; done; false; }

systemctl start knockpipe@office
systemctl start knockpipe.socket
systemctl start knockpipe
talk
[[ $(talk_as application) == hello ]]
[[ $(talk_as stranger) == 'Permission denied' ]]
pid=$(systemctl show -P MainPID knockpipe)
grep -q '^CapBnd:.*0000000000000000$' "/proc/$pid/status"
grep -q '^Seccomp:.*2$' "/proc/$pid/status"
[[ $(stat -c %U "/proc/$pid") != root ]]

systemctl reload knockpipe
echo 'nonsense = 1' >>/etc/knockpipe/knockpipe.toml
systemctl reload knockpipe
until_says 'serving, not reloaded'
sed -i /nonsense/d /etc/knockpipe/knockpipe.toml
systemctl reload knockpipe
until_says serving

# While it restarts, everybody gets a connection, and an answer on it.
systemctl restart knockpipe &
restart=$!
clients=()
while ((${#clients[@]} < 20)) || kill -0 "$restart" 2>/dev/null; do
    talk &
    clients+=($!)
    sleep 0.02
done
wait "$restart"
for client in "${clients[@]}"; do wait "$client"; done

# One that stands still is started again.
pid=$(systemctl show -P MainPID knockpipe)
kill -STOP "$pid"
for _ in {1..60}; do [[ $(systemctl show -P NRestarts knockpipe) != 0 ]] && break; sleep 1; done
until_says serving
talk

systemctl stop knockpipe knockpipe.socket knockpipe@office
touch /root/good
INSIDE
cat >"$root/etc/systemd/system/inside.service" <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/bash /root/inside.sh
StandardOutput=file:/root/said
StandardError=inherit
[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl enable inside.service

# nspawn forbids by itself what the program's own sandbox uses.
timeout 300 systemd-nspawn --quiet --directory "$root" --boot --private-network --register=no --keep-unit \
    --capability=CAP_IPC_LOCK \
    --system-call-filter='@memlock landlock_create_ruleset landlock_add_rule landlock_restrict_self' \
    </dev/null >"$work/boot.log" 2>&1 || true
# Not there where it did not even boot.
cat "$root/root/said" || true
[[ -e $root/root/good ]] || { tail -n 20 "$work/boot.log" >&2; exit 1; }
grep 'INFO sandbox' "$root/root/said" | tail -n 1
echo 'the units are good'
