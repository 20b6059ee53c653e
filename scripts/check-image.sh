#!/usr/bin/env bash
# Shows that every stage of the Dockerfile builds, and that the image runs a
# pair. No registry is needed: the bases are made here, a Debian by debootstrap
# in place of the distroless one, and this machine's Rust on top of it in place
# of the official builder. Needs root, the network and 10 GB for a while.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/apt-need.sh buildah=buildah perl=perl-base

work=$(mktemp -d)
# Caches of the Dockerfile are made in TMPDIR.
export BUILDAH_ISOLATION=chroot TMPDIR=$work/tmp
mkdir "$TMPDIR"
# A storage of its own, so that nothing is left and no other image is touched.
own_storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
buildah() { command buildah "${own_storage[@]}" "$@"; }
trap 'buildah umount --all >/dev/null 2>&1 || true; rm -rf --one-file-system "$work"' EXIT
step() { printf '\n=== %s\n' "$*"; }

step 'bases'
scripts/debian-root.sh "$work/root"
rm -rf "$work/root"/var/{cache/apt,lib/apt/lists}/* "$work/root/dev"
base=$(buildah from scratch)
buildah add -q "$base" "$work/root" / >/dev/null
rm -rf --one-file-system "$work/root"
buildah config --env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$base"
buildah commit -q "$base" localhost/base >/dev/null

buildah run "$base" -- sh -ec 'apt-get -qq update; apt-get -qq install -y --no-install-recommends gcc libc6-dev ca-certificates' >"$work/apt.log" 2>&1 ||
    { tail -n 20 "$work/apt.log" >&2; exit 1; }
for part in bin lib; do
    buildah add -q "$base" "$(rustc --print sysroot)/$part" "/usr/local/$part" >/dev/null
done
# What this machine trusts, for a mirror of crates.io that it may have.
buildah add -q "$base" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ >/dev/null
buildah config --env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --env CARGO_HOME=/usr/local/cargo "$base"
buildah commit -q --rm "$base" localhost/builder >/dev/null

build() {
    step "stage $1"
    buildah bud --layers --target "$1" -t "localhost/knockpipe:$1" \
        --build-arg BUILDER=localhost/builder \
        --build-arg BASE=localhost/base \
        --build-arg DEBUG_BASE=localhost/base .
}
build build
build debug
build runtime
# Without a target it is the last stage.
[[ $(grep '^FROM' Dockerfile | tail -n 1) == *'AS runtime' ]]

step 'what the image says'
said=$(buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' localhost/knockpipe:runtime)
echo "$said"
[[ $said == '65532:65532 [/usr/local/bin/knockpipe] [--help]' ]]

step 'what the image does'
for stage in debug runtime; do
    container=$(buildah from "localhost/knockpipe:$stage")
    buildah run "$container" -- /usr/local/bin/knockpipe --version
done
install -d -o 65532 -g 65532 -m 0700 "$work/keys"
program=$(buildah mount "$container")/usr/local/bin/knockpipe
"$program" keygen "$work/keys/pair.key"
chown 65532:65532 "$work/keys/pair.key"
scripts/pair.sh /keys/pair.key \
    buildah "${own_storage[@]}" run --volume "$work/keys:/keys:ro" \
    "$container" -- /usr/local/bin/knockpipe

step 'the image is good'
