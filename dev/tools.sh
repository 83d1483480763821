#!/usr/bin/env bash
# Installs programs from the crate registry, each at the version below, into a cache outside the tree, and
# prints their folder. What is installed already stays.
# usage: PATH=$PATH:$(dev/tools.sh CRATE...)
set -euo pipefail

declare -A versions=(
    [cargo-audit]=0.22.2
    [cargo-auditable]=0.7.7
    [cargo-deny]=0.20.2
)

tools=${XDG_CACHE_HOME:-$HOME/.cache}/abukiks/tools
for crate; do
    version=${versions[$crate]}
    grep --quiet --fixed-strings "\"$crate $version (" "$tools/.crates.toml" 2>/dev/null && continue
    echo "$crate $version is missing; installing it into $tools with cargo" >&2
    cargo install --quiet --locked --root "$tools" --target-dir "$tools/build" "$crate@$version"
    rm -rf "$tools/build"
done
echo "$tools/bin"
