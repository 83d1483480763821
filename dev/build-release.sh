#!/usr/bin/env bash
# Builds the release, so that its bytes follow from the sources, Cargo.lock, the toolchain and the
# commit, and from nothing else about this machine.
# usage: dev/build-release.sh FOLDER [TARGET [CRATE]]   puts the programs into FOLDER
#
# TARGET is one of rustc, or empty; those of musl give static programs. For another machine than this
# one it takes the cross compiler of Debian. Programs for a TARGET are for other machines: they contain the
# list of their crates (cargo-auditable), which `cargo audit bin` reads. CRATE is the folder of another crate of
# this tree.
# ABUKIKS_COMMIT is the commit that the programs will name; without it, the one checked out here.
set -euo pipefail

(($# >= 1 && $# <= 3)) || { echo "usage: $0 FOLDER [TARGET [CRATE]]" >&2; exit 64; }
mkdir -p "$1"
out=$(realpath "$1")
cd "$(dirname "$0")/.."
source=$(pwd -P)
target=${2-}
[[ -z $target ]] || PATH=$PATH:$(dev/tools.sh cargo-auditable)

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

build=(build)
if [[ -n $target ]]; then
    build=(auditable build --target "$target")
    if [[ ${target%%-*} != "$(uname -m)" ]]; then
        compiler=${target%%-*}-linux-gnu-gcc
        name=${target//-/_}
        export "CC_$name=$compiler" "CARGO_TARGET_${name^^}_LINKER=$compiler"
    fi
fi

made=$out/build${3:+/$3}
cargo "${build[@]}" --quiet --release --locked --bins --manifest-path "${3:-.}/Cargo.toml" --target-dir "$made"
find "$made/$target/release" -maxdepth 1 -type f -perm -u=x -exec cp -t "$out" {} +
