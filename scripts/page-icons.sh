#!/usr/bin/env bash
# The icons of the knock page as PNG, made of the drawings beside them, for
# devices that take no SVG. Run it after a drawing has changed, and commit both.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/apt-need.sh rsvg-convert=librsvg2-bin
page=src/knockd/page
draw() { rsvg-convert --width "$2" --height "$2" --output "$page/$3" "$1"; }
draw src/http/page/icon.svg 192 icon-192.png
draw src/http/page/icon.svg 512 icon-512.png
draw "$page/icon-maskable.svg" 512 icon-maskable.png
