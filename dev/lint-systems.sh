#!/usr/bin/env bash
# Checks the code of the programs for the systems that flake.nix offers them on and that this machine
# is not. Nothing is linked, so the C in the dependencies need not be compiled.
set -euo pipefail
cd "$(dirname "$0")/.."

# Whether Rust can compile for this system.
knows() {
    [[ -d $(rustc --print target-libdir --target "$1") ]]
}

for system in aarch64-unknown-linux-gnu aarch64-apple-darwin; do
    knows $system || timeout 120 rustup --quiet target add $system 2>/dev/null || true
    if knows $system; then
        TARGET_CC=true TARGET_AR=true \
            cargo clippy --locked --lib --bins --target $system -- -D warnings
    else
        echo "Rust for $system is not to be had: its lints are left to nix build."
    fi
done
