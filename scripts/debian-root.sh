#!/usr/bin/env bash
# Makes a minimal Debian 12 in a directory. Needs root and the network.
#
#   scripts/debian-root.sh DIRECTORY [OPTION OF DEBOOTSTRAP]...
set -euo pipefail
cd "$(dirname "$0")/.."
root=$1
shift
scripts/apt-need.sh debootstrap=debootstrap perl=perl-base

log=$(mktemp)
trap 'rm -f "$log"' EXIT
debootstrap --variant=minbase "$@" bookworm "$root" >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    exit 1
}
