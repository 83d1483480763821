#!/bin/sh
# Makes docs/page.png again: the page of a running service, light and dark, side by side.
# It visits twice. Needs Debian's packages chromium and fonts-urw-base35.
#
#   docs/picture.sh [URL]
set -eu
url=${1:-http://127.0.0.1:5000/}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# shoot FILE WIDTH URL [OPTION...]
shoot() {
    file=$1 width=$2 page=$3
    shift 3
    HOME=$folder chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync --disable-quic \
        --user-data-dir="$folder/profile" --force-device-scale-factor=2 --window-size="$width,400" \
        --screenshot="$file" "$@" "$page" >"$folder/log" 2>&1 && [ -s "$file" ] || { cat "$folder/log" >&2; exit 1; }
}

shoot "$folder/light.png" 640 "$url" --blink-settings=preferredColorScheme=1
shoot "$folder/dark.png" 640 "$url" --blink-settings=preferredColorScheme=0
cat >"$folder/both.html" <<'HTML'
<!doctype html>
<style>body { margin: 0; display: flex } img { width: 640px; height: 400px }</style>
<img src="light.png"><img src="dark.png">
HTML
shoot "$(dirname "$0")/page.png" 1280 "file://$folder/both.html"
