#!/usr/bin/env bash
# Builds the release twice, with all different that must not matter, and compares the programs byte
# by byte. Status 0: identical; 1: not.
# usage: dev/reproduce.sh [CRATE [FOLDER]]   CRATE: a crate's folder, by default this one
#                                            FOLDER: where to leave programs that are identical
#
# TARGET, from the environment, is one of rustc, such as that of the static programs of a release.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
crate=$(realpath "${1:-$here/..}")

work=$(mktemp -d "${TMPDIR:-/tmp}/reproduce.XXXXXX")
trap '[[ -z ${first_build-} ]] || kill -- "-$first_build" 2>/dev/null || true; rm -rf "$work"' EXIT

cargo_home=${CARGO_HOME:-$HOME/.cargo}
# rustup finds its toolchains by HOME, which is about to change, and dev/tools.sh its tools.
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} RUSTUP_TOOLCHAIN XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}
RUSTUP_TOOLCHAIN=$(cd "$crate" && { rustup show active-toolchain 2>/dev/null || echo; } | cut -d' ' -f1)
[[ -n $RUSTUP_TOOLCHAIN ]] || unset RUSTUP_TOOLCHAIN
ABUKIKS_COMMIT=${ABUKIKS_COMMIT:-$(git -C "$crate" describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)}
export ABUKIKS_COMMIT

# So that both builds do without a network.
[[ -z ${TARGET-} ]] || "$here/tools.sh" cargo-auditable >/dev/null
(cd "$crate" && cargo fetch --quiet --locked)
export CARGO_NET_OFFLINE=true

other_locale=$(locale -a | grep --max-count=1 --invert-match --line-regexp --extended-regexp 'C|POSIX' || echo C)

# What a build gets: one line each, and the same lines for both.
inputs=(folder HOME CARGO_HOME USER TZ LC_ALL umask jobs mtime)
declare -A first=(
    [folder]=$work/a [HOME]=$work/home-a [CARGO_HOME]=$work/home-a/.cargo [USER]=first
    [TZ]=UTC [LC_ALL]=C [umask]=0022 [jobs]=1 [mtime]=2001-01-01
)
declare -A second=(
    [folder]=$work/another/and-longer/folder [HOME]=$work/home-b [CARGO_HOME]=$work/cargo-b [USER]=another-user
    [TZ]=Pacific/Kiritimati [LC_ALL]=$other_locale [umask]=0077 [jobs]=$(($(nproc) + 1)) [mtime]=2026-02-03
)

build() {
    local -n with=$1
    local folder=${with[folder]}
    (
        umask "${with[umask]}"
        mkdir -p "$folder/dev" "${with[HOME]}" "${with[CARGO_HOME]}/registry"
        # The crates as they were downloaded, each unpacked anew.
        for part in cache index; do
            [[ ! -e $cargo_home/registry/$part ]] ||
                ln -s "$cargo_home/registry/$part" "${with[CARGO_HOME]}/registry/$part"
        done
        for file in "$cargo_home"/config*; do
            [[ ! -e $file ]] || cp "$file" "${with[CARGO_HOME]}/"
        done
        tar --create --directory "$crate" \
            --exclude=./.git --exclude=./.run --exclude=./target --exclude='./result*' \
            --exclude=./fuzz/{target,corpus,artifacts} --exclude=./admin/attached/target . |
            tar --extract --directory "$folder" --no-same-permissions
        cp "$here"/{build-release,tools}.sh "$folder/dev/"
        find "$folder" -exec touch --date "${with[mtime]}" {} +
        env HOME="${with[HOME]}" CARGO_HOME="${with[CARGO_HOME]}" USER="${with[USER]}" \
            LOGNAME="${with[USER]}" TZ="${with[TZ]}" LC_ALL="${with[LC_ALL]}" \
            CARGO_BUILD_JOBS="${with[jobs]}" \
            "$folder/dev/build-release.sh" "$folder/out" ${TARGET:+"$TARGET"}
    )
}

echo "Building ${crate##*/} twice; different are, besides the time:"
for input in "${inputs[@]}"; do
    printf '  %-10s  %-34s  %s\n' "$input" "${first[$input]}" "${second[$input]}"
done
echo "The same are: $(rustc --version), $(cc --version | head -n 1), commit $ABUKIKS_COMMIT"

# In a process group of its own, so that it ends with this script.
set -m
build first &
first_build=$!
set +m
build second
wait "$first_build"

status=0
for program in "${first[folder]}"/out/*; do
    [[ -f $program ]] || continue
    name=${program##*/}
    twin=${second[folder]}/out/$name
    if cmp --silent "$program" "$twin"; then
        sha256sum "$program" | sed "s|  .*|  $name: identical|"
        [[ -z ${2-} ]] || install -D --target-directory="$2" "$program"
    else
        status=1
        echo "$name differs:"
        cmp "$program" "$twin" || true
        diff <(grep --text --only-matching '[[:print:]]\{6,\}' "$program") \
            <(grep --text --only-matching '[[:print:]]\{6,\}' "$twin") | head -n 20 || true
    fi
done
exit "$status"
