#!/usr/bin/env bash
# Builds the release, so that its bytes follow from the sources, Cargo.lock, the toolchain and the
# commit, and from nothing else about this machine.
# usage: dev/build-release.sh FOLDER [CRATE]   puts the programs into FOLDER
#                                             CRATE: the folder of another crate of this tree
#
# ABUKIKS_COMMIT is the commit that the programs will name; without it, the one checked out here.
set -euo pipefail

(($# == 1 || $# == 2)) || { echo "usage: $0 FOLDER [CRATE]" >&2; exit 64; }
mkdir -p "$1"
out=$(realpath "$1")
cd "$(dirname "$0")/.."
source=$(pwd -P)

# As the Makefile has it.
export ABUKIKS_COMMIT=${ABUKIKS_COMMIT:-$(git describe --always --dirty --abbrev=40 --exclude='*')}

# Whatever else would have a say in the bytes.
unset RUSTC RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTFLAGS CFLAGS CARGO_INCREMENTAL "${!CARGO_BUILD_RUST@}" \
    "${!CARGO_PROFILE_@}" "${!CARGO_TARGET_@}"

# The messages of panics name source files: under names that are the same everywhere.
flags=(
    "--remap-path-prefix=$source=/abukiks"
    "--remap-path-prefix=$out=/abukiks/target"
    "--remap-path-prefix=$(realpath "${CARGO_HOME:-$HOME/.cargo}")=/cargo"
    "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    "--remap-path-prefix=$(rustc --print sysroot)=/rust"
)
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS

build=$out/build${2+/$2}
cargo build --quiet --release --locked --bins --manifest-path "${2:-.}/Cargo.toml" --target-dir "$build"
find "$build/release" -maxdepth 1 -type f -perm -u=x -exec cp -t "$out" {} +
