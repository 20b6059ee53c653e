#!/usr/bin/env bash
# The real servers and clients that the tests put behind the tunnel. The tests
# start their own, in temporary directories; the packaged services stay
# stopped now, but the packages enable them for the next boot.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/apt-need.sh \
    redis-server=redis-server \
    redis-cli=redis-tools \
    redis-sentinel=redis-sentinel \
    openssl=openssl \
    mariadbd=mariadb-server \
    mariadb-install-db=mariadb-server \
    mariadb=mariadb-client \
    mariadb-dump=mariadb-client \
    haproxy=haproxy \
    ip=iproute2
