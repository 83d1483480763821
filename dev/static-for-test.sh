#!/usr/bin/env bash
# Builds static programs for tests, as a release has them, but in less time. Where Rust lacks the target,
# the programs are dynamic.
# usage: dev/static-for-test.sh FOLDER
set -euo pipefail
(($# == 1)) || { echo "usage: $0 FOLDER" >&2; exit 64; }
mkdir -p "$1"
out=$(realpath "$1")
cd "$(dirname "$0")/.."

options=()
target=$(uname -m)-unknown-linux-musl
if hash musl-gcc 2>/dev/null && [[ -d $(rustc --print target-libdir --target "$target") ]]; then
    options=(--target "$target")
else
    target=
fi
build=${CARGO_TARGET_DIR:-target}
cargo build --quiet --locked --bins --target-dir "$build" "${options[@]}"
for program in abukiks reset-count show-count check-redis top; do
    install --strip --target-directory="$out" "$build/$target/debug/$program"
done
