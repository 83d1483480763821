#!/usr/bin/env bash
# Brings what is locked up to date: crates, as far as Cargo.toml and its rust-version allow, and nixpkgs.
# usage: dev/update.sh
set -euo pipefail
cd "$(dirname "$0")/.."

for crate in . admin/attached fuzz; do
    cargo update --manifest-path "$crate/Cargo.toml"
done

# The rivals are measured with the very versions that the service has.
sed -n 's/^\([a-z-]*\) = { version = "=.*/\1/p' benches/rivals/Cargo.toml | while read -r name; do
    version=$(grep --after-context=1 --line-regexp "name = \"$name\"" Cargo.lock | sed -n 's/version = "\(.*\)"/\1/p')
    sed -i "s/^\($name = { version = \"=\)[^\"]*/\1$version/" benches/rivals/Cargo.toml
done
cargo update --manifest-path benches/rivals/Cargo.toml

if hash nix 2>/dev/null; then
    nix flake update
else
    echo "nix is not here: flake.lock stays as it is."
fi
