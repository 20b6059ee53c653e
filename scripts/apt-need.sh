#!/usr/bin/env bash
# Makes sure that commands exist: installs the packages of the missing ones
# with apt, and does nothing at all (no network, no root) when none is missing.
#
#   scripts/apt-need.sh COMMAND=PACKAGE[,PACKAGE]...
set -euo pipefail

# Servers live in sbin, which is not on every user's path.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing=() packages=()
for need in "$@"; do
    if ! command -v "${need%%=*}" >/dev/null; then
        missing+=("${need%%=*}")
        IFS=, read -ra names <<<"${need#*=}"
        packages+=("${names[@]}")
    fi
done
if ((${#missing[@]} == 0)); then
    exit 0
fi

refuse() {
    echo "missing: ${missing[*]}; $1" >&2
    exit 1
}

command -v apt-get >/dev/null ||
    refuse "this system has no apt-get; install what provides them (Debian names: ${packages[*]})"
as_root=()
if ((EUID != 0)); then
    command -v sudo >/dev/null ||
        refuse "run as root: apt-get install ${packages[*]}"
    as_root=(sudo)
fi

# The tests start servers of their own, so Debian shall not start the packaged
# ones. policy-rc.d is its documented switch; one that is there already stays.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
fi

echo "installing ${packages[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
"${apt[@]}" update || echo "apt-get update failed; trying the package lists at hand" >&2
"${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null ||
    refuse "apt-get install ${packages[*]} failed, see above"
for command in "${missing[@]}"; do
    command -v "$command" >/dev/null ||
        refuse "apt-get installed ${packages[*]}, but $command is still not there"
done
