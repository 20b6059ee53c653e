#!/usr/bin/env bash
# Shows that the units of the Debian package run under the systemd of Debian:
# locked up as they are, with keys of root's, another key and an upgrade that refuse
# no client, a watchdog, a unix socket for a group, a restart behind a socket unit, and
# the unit of a user, whose knocks open a gate.
# Boots a Debian in systemd-nspawn, without a network, where scripts/units-inside.sh
# does all that; needs root, and the network for debootstrap.
#
#   scripts/check-units.sh PACKAGE.deb
set -euo pipefail
cd "$(dirname "$0")/.."
deb=$(realpath "$1")
scripts/apt-need.sh systemd-nspawn=systemd-container dpkg-deb=dpkg

work=$(mktemp -d)
root=$work/root
trap 'rm -rf --one-file-system "$work"' EXIT

scripts/debian-root.sh "$root" --include=systemd,dbus,libpam-systemd
cp "$deb" "$root/root/knockpipe.deb"
# The next version: the same program, as another file.
dpkg-deb --raw-extract "$deb" "$work/newer"
sed -i 's/^Version: .*/&+newer/' "$work/newer/DEBIAN/control"
printf newer >>"$work/newer/usr/bin/knockpipe"
dpkg-deb --root-owner-group --build "$work/newer" "$root/root/newer.deb" >/dev/null
chroot "$root" dpkg --install /root/knockpipe.deb
chroot "$root" knockpipe keygen /etc/knockpipe/keys/redis.key
ln -s /usr/share/doc/knockpipe/examples/knockpipe.socket "$root/etc/systemd/system/"

# The clients' end, behind the socket of the example.
cat >"$root/etc/knockpipe/knockpipe.toml" <<'FILE'
[process]
admin = "/run/knockpipe/admin.sock"

[tunnels.client]
mode = "encrypt"
source = ["systemd:redis", "/run/knockpipe/redis.sock", "127.0.0.1:6381"]
target = "127.0.0.1:6380"
key = "keys/redis.key"
FILE
# The server's end: a template's instance, with a key directory of its own.
mkdir -m 0700 "$root/etc/knockpipe/office"
cp "$root/etc/knockpipe/keys/redis.key" "$root/etc/knockpipe/office/"
cat >"$root/etc/knockpipe/office.toml" <<'FILE'
[tunnels.server]
mode = "decrypt"
source = "127.0.0.1:6380"
target = "127.0.0.1:7000"
key = "office/redis.key"
FILE
# A server's end that opens by knocking, and a user who knocks there.
mkdir -m 0700 "$root/etc/knockpipe/door"
cp "$root/etc/knockpipe/keys/redis.key" "$root/etc/knockpipe/door/"
cat >"$root/etc/knockpipe/door.toml" <<'FILE'
[tunnels.door]
mode = "decrypt"
source = "127.0.0.1:6390"
target = "127.0.0.1:7000"
key = "door/redis.key"
knock = true
knock-ttl = "10s"
FILE
chroot "$root" useradd --create-home anna
knocks=$root/home/anna/.config/knockpipe
mkdir -p "$knocks"
cp "$root/etc/knockpipe/keys/redis.key" "$knocks/"
cat >"$knocks/redis.knock" <<'FILE'
GATE=127.0.0.1:6390
KNOCKPIPE_KEY=redis.key
KNOCKPIPE_KNOCK_LABEL=laptop
KNOCKPIPE_KNOCK_TTL=10s
FILE
sed 's/redis.key/missing.key/' "$knocks/redis.knock" >"$knocks/wrong.knock"
chroot "$root" chown -R anna:anna /home/anna
# The users that may connect to the unix socket, as docs/operating/systemd.md has it.
chroot "$root" groupadd redis-clients
chroot "$root" useradd --groups redis-clients application
chroot "$root" useradd stranger
mkdir "$root/etc/systemd/system/knockpipe.service.d"
cat >"$root/etc/systemd/system/knockpipe.service.d/clients.conf" <<'UNIT'
[Service]
Group=redis-clients
UMask=0007
UNIT
# A shorter patience than 30 s, so that the test has not to wait as long.
for unit in knockpipe knockpipe@; do
    mkdir -p "$root/etc/systemd/system/$unit.service.d"
    printf '[Service]\nWatchdogSec=4\n' >"$root/etc/systemd/system/$unit.service.d/watchdog.conf"
done

cp scripts/units-inside.sh "$root/root/inside.sh"
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
timeout 400 systemd-nspawn --quiet --directory "$root" --boot --private-network --register=no --keep-unit \
    --capability=CAP_IPC_LOCK \
    --system-call-filter='@memlock landlock_create_ruleset landlock_add_rule landlock_restrict_self' \
    </dev/null >"$work/boot.log" 2>&1 || true
# Not there where it did not even boot.
cat "$root/root/said" || true
[[ -e $root/root/good ]] || { tail -n 20 "$work/boot.log" >&2; exit 1; }
grep 'INFO sandbox' "$root/root/said" | tail -n 1
echo 'the units are good'
