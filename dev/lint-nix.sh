#!/usr/bin/env bash
# Checks the Nix files: formatted (nixfmt), no dead code (deadnix), idiomatic (statix).
# What is not installed is built once, into a cache outside the tree: two minutes on one core.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=${XDG_CACHE_HOME:-$HOME/.cache}/abukiks/tools
PATH=$PATH:$tools/bin

# nixfmt in Rust: the same output as the one in Haskell, which is in few distributions.
declare -A crates=([nixfmt]=nixfmt_rs@0.5.3 [deadnix]=deadnix@1.3.1)
for tool in "${!crates[@]}"; do
    hash "$tool" 2>/dev/null ||
        cargo install --quiet --locked --root "$tools" --target-dir "$tools/build" "${crates[$tool]}"
done
# Version 0.5.8; no registry has it.
statix=(--git https://github.com/oppiliappan/statix --rev d324490e45bcda1b664f28b6f88da8580deda76b statix)
hash statix 2>/dev/null ||
    CARGO_NET_RETRY=0 cargo install --quiet --locked --root "$tools" --target-dir "$tools/build" "${statix[@]}" \
        2>/dev/null || echo "statix is not here nor its repository in reach: its lints are left to nix flake check."
rm -rf "$tools/build"

mapfile -t files < <(find flake.nix nixos -name '*.nix')
nixfmt --check "${files[@]}"
deadnix --fail "${files[@]}"
if hash statix 2>/dev/null; then
    for file in "${files[@]}"; do statix check "$file"; done
fi
