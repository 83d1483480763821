#!/usr/bin/env bash
# Compiles the service and admin/attached with the oldest Rust that Cargo.toml names.
# usage: dev/msrv.sh
set -euo pipefail
cd "$(dirname "$0")/.."

oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml).0
cargo=(cargo)
if ! cargo --version | grep --quiet --fixed-strings "cargo $oldest "; then
    rustup toolchain list | grep --quiet "^$oldest-" || {
        echo "Rust $oldest is missing; installing it with rustup"
        rustup toolchain install --profile minimal --no-self-update "$oldest"
    }
    cargo=(cargo "+$oldest")
fi
"${cargo[@]}" --version
for crate in . admin/attached; do
    "${cargo[@]}" check --quiet --locked --all-targets --manifest-path "$crate/Cargo.toml" --target-dir target/msrv
done
"${cargo[@]}" check --quiet --locked --no-default-features --target-dir target/msrv
