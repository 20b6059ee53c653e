#!/usr/bin/env bash
# The real servers and clients that the tests put behind the tunnel. The tests
# start their own, in temporary directories; the packaged services stay
# stopped now, but the packages enable them for the next boot.
#
#   scripts/install-test-tools.sh [peers|http]
#
# With `peers`, instead, the tunnels and clients that `make bench-peers` compares; with `http` the
# proxies and the client of `make bench-http`.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1-} == peers ]]; then
    exec scripts/apt-need.sh \
        spiped=spiped \
        stunnel=stunnel4 \
        haproxy=haproxy \
        redis-server=redis-server \
        redis-benchmark=redis-tools \
        openssl=openssl \
        ip=iproute2
fi

if [[ ${1-} == http ]]; then
    exec scripts/apt-need.sh \
        haproxy=haproxy \
        nginx=nginx \
        caddy=caddy \
        wrk=wrk \
        redis-server=redis-server
fi

scripts/apt-need.sh \
    curl=curl \
    nginx=nginx \
    node=nodejs \
    npm=npm \
    redis-server=redis-server \
    redis-cli=redis-tools \
    redis-sentinel=redis-sentinel \
    openssl=openssl \
    mariadbd=mariadb-server \
    mariadb-install-db=mariadb-server \
    mariadb=mariadb-client \
    mariadb-dump=mariadb-client \
    haproxy=haproxy \
    caddy=caddy \
    nginx=nginx-light \
    prometheus=prometheus \
    promtool=prometheus \
    ip=iproute2 \
    nft=nftables \
    firewalld=firewalld \
    dbus-daemon=dbus-daemon \
    mandoc=mandoc \
    groff=groff-base \
    zsh=zsh \
    fish=fish \
    faketime=faketime \
    cc=gcc,libc6-dev \
    python3=python3 \
    chromium=chromium \
    chromedriver=chromium-driver \
    systemd-analyze=systemd

# A development server, as people put redis-knocking in front of. It is not in Debian.
command -v vite >/dev/null || npm install --global --no-fund --no-audit vite@5

# Not packaged by Debian: in an environment of its own, so that it changes nothing of the system's.
place=/opt/knockpipe-test-tools
as_root=()
((EUID == 0)) || as_root=(sudo)

# Installs a package of PyPI, unless its module is there.
need() {
    local find='import importlib.util, sys; sys.exit(not importlib.util.find_spec(sys.argv[1]))'
    "$place/bin/python" -c "$find" "$1" 2>/dev/null && return
    python3 -c 'import ensurepip' 2>/dev/null ||
        "${as_root[@]}" apt-get install --quiet --yes --no-install-recommends python3-venv
    [[ -e $place/bin/pip ]] || "${as_root[@]}" python3 -m venv "$place"
    "${as_root[@]}" "$place/bin/pip" install --quiet "$2"
}

need schemathesis schemathesis
"${as_root[@]}" ln -sf "$place/bin/schemathesis" /usr/local/bin/schemathesis
# The official client of a cloud, which the stand-in for that cloud has to accept.
need tencentcloud tencentcloud-sdk-python-lighthouse==3.1.177
