#!/usr/bin/env bash
# Puts an image together for tests, of programs that are built in less time than those of a release.
# usage: dev/image-for-test.sh IMAGE.tar   then: podman load --input IMAGE.tar
set -euo pipefail
(($# == 1)) || { echo "usage: $0 IMAGE.tar" >&2; exit 64; }
here=$(realpath "$(dirname "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/static-for-test.sh" "$work/programs"
env VERSION=test "$here/package.sh" "$work/programs" "$work/made" image
mv "$work"/made/*.tar "$1"
