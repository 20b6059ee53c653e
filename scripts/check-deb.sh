#!/usr/bin/env bash
# Shows that the Debian package does what a package must: it installs into a
# clean Debian, everything in it runs there, and it goes without a trace but for
# what the operator made. Needs root (chroot), the network and 400 MB.
#
#   scripts/check-deb.sh PACKAGE.deb
set -euo pipefail
cd "$(dirname "$0")/.."
deb=$(realpath "$1")
scripts/apt-need.sh perl=perl-base lintian=lintian

work=$(mktemp -d)
root=$work/root
clean() {
    umount "$root/proc" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap clean EXIT
step() { printf '\n=== %s\n' "$*"; }
# As a login would have it: nothing of this shell's environment.
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }

step 'lintian'
# no-changelog, wrong-name-for-upstream-changelog: CHANGELOG.md is for all systems,
# and README.md links to it. embedded-library: crates are always linked in.
lintian --fail-on error,warning --info \
    --suppress-tags no-changelog,wrong-name-for-upstream-changelog,embedded-library "$deb"

step 'a clean Debian'
scripts/debian-root.sh "$root"
mount -t proc proc "$root/proc"
cp "$deb" "$root/root/knockpipe.deb"

step 'install'
inside apt-get install -y --no-install-recommends /root/knockpipe.deb
inside dpkg -L knockpipe
[[ $(stat -c '%a %U' "$root/etc/knockpipe/keys") == '700 root' ]]

step 'run'
inside knockpipe --version
inside knockpipe keygen /etc/knockpipe/keys/redis.key
conffile=$root/etc/knockpipe/knockpipe.toml
# Its first example alone; the second one has the same name. With what the service reads.
example=/etc/knockpipe/example.toml
sed -E -e '/^# On the host of the clients/,$d' -e 's/^#([[a-z])/\1/' "$conffile" >"$root$example"
inside knockpipe check -c "$example"
rm "$root$example"
inside mkdir /run/user-of-a-service
inside env RUNTIME_DIRECTORY=/run/user-of-a-service /usr/lib/knockpipe/give-keys /etc/knockpipe/keys /run/knockpipe.keys
cmp "$root"/{etc/knockpipe/keys,run/knockpipe.keys}/redis.key
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin scripts/pair.sh /etc/knockpipe/keys/redis.key chroot "$root" knockpipe

step 'installing again keeps a changed configuration'
echo '# changed here' >>"$conffile"
inside dpkg --install --force-confdef --force-confold /root/knockpipe.deb
grep -q '^# changed here$' "$conffile"

step 'remove keeps it, purge takes it, keys stay'
inside dpkg --remove knockpipe
[[ ! -e $root/usr/bin/knockpipe && -e $conffile ]]
inside dpkg --purge knockpipe
[[ ! -e $conffile && -e $root/etc/knockpipe/keys/redis.key ]]
rm "$root/etc/knockpipe/keys/redis.key"
inside dpkg --install /root/knockpipe.deb
inside dpkg --purge knockpipe
[[ ! -e $root/etc/knockpipe ]]

step 'the package is good'
