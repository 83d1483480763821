#!/usr/bin/env bash
# Turns this tree into a service of another name: in the text and the names of all tracked files, but
# not in LICENSE and CHANGELOG.md, which tell where it comes from. Nothing is committed.
# usage: dev/rename.sh [--force] NAME   --force: though there are uncommitted changes
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."

# In two parts, so that a renamed tree still knows its first name, and is not renamed once more: a name
# such as `counter` could not be told from the word.
old=abu
old+=kiks

locks=(Cargo.lock fuzz/Cargo.lock admin/attached/Cargo.lock)

refuse() {
    printf '%s\n' "$@" >&2
    exit 64
}

# Words that Rust, Cargo, Nix or systemd keep for themselves, and names that stand for something else
# beside the old one.
taken() {
    case $1 in
    abstract | as | async | await | become | box | break | const | continue | crate | do | dyn | else | enum | \
        extern | false | final | fn | for | gen | if | impl | in | let | loop | macro | match | mod | move | mut | \
        override | priv | pub | ref | return | self | static | struct | super | trait | true | try | type | \
        typeof | union | unsafe | unsized | use | virtual | where | while | yield) ;;
    alloc | build | core | deps | examples | incremental | proc-macro | std | test) ;;
    assert | inherit | or | rec | then | with | config | default | lib | nixpkgs | oci-image | pkgs | prev) ;;
    daemon | keeper | main | nginx | nobody | promises | prometheus | root | systemd) ;;
    # A package that Cargo.toml or a Nix file asks for.
    *)
        grep --quiet --line-regexp "name = \"$1\"" Cargo.toml "${locks[@]}" ||
            grep --quiet --line-regexp -E " *$1( \?.*)?,?" flake.nix nixos/*.nix
        ;;
    esac
}

force=
[[ ${1-} != --force ]] || { force=1 && shift; }
name=${1-}
if (($# != 1 || ${#name} > 30)) || [[ ! $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]]; then
    refuse "usage: dev/rename.sh [--force] NAME" \
        "NAME begins with a lower-case letter, goes on with such letters, digits and inner hyphens, and has" \
        "at most 30 characters."
fi
if ! grep --quiet --line-regexp "name = \"$old\"" Cargo.toml; then
    echo "This tree has another name already. Rename a new copy." >&2
    exit 1
fi
if taken "$name"; then
    refuse "'$name' is a word of Rust, Cargo, Nix or systemd, or of something that is part of the service." \
        "Take another NAME, or one of two words: my-$name."
fi
changes=$(git status --porcelain -- .)
if [[ -n $changes && -z $force ]]; then
    echo "There are uncommitted changes, which the new name would be mixed with. Commit them, or use --force." >&2
    exit 1
fi

identifier=${name//-/_} # of the crate in Rust, and of metrics
rename=(
    -e "s/${old^^}/${identifier^^}/g"
    -e "s/${old^}/${name^}/g"
    # A package of Debian has its own name before the underscore.
    -e "s/${old}_([*A-Z])/${name}_\1/g"
    # Paths of the crate and names of metrics, of which the registry is given the prefix.
    -e "s/$old(::|_)/$identifier\1/g"
    -e "s/with_prefix\(\"$old\"\)/with_prefix(\"$identifier\")/g"
    -e "s/$old/$name/g"
)

mapfile -d '' -t files < <(git ls-files -z -- . ':!LICENSE' ':!CHANGELOG.md')
for file in "${files[@]}"; do
    [[ -f $file && ! -L $file ]] || continue
    if grep --quiet --text --ignore-case "$old" "$file"; then
        # Bash reads the script from its file while it runs: that gets a new one, in the old one's place.
        sed --in-place -E "${rename[@]}" "$file"
    fi
    new=$(sed -E "${rename[@]}" <<<"$file")
    if [[ $new != "$file" ]]; then
        mkdir -p "$(dirname "$new")"
        mv "$file" "$new"
        rmdir --parents "$(dirname "$file")" 2>/dev/null || true
    fi
done

# What depends on the order or the length of names. Cargo keeps the packages of a lock file sorted.
for lock in "${locks[@]}"; do
    awk -v own="$name" '
        BEGIN { RS = ""; ORS = "\n\n" }
        function named(block) { match(block, /name = "[^"]*"/); return substr(block, RSTART + 8, RLENGTH - 9) }
        !/^\[\[package\]\]/ { print; next }
        named($0) == own || named($0) == own "-fuzz" { mine[++count] = $0; next }
        { others[++rest] = $0 }
        END {
            next_own = 1
            for (i = 1; i <= rest; i++) {
                while (next_own <= count && named(mine[next_own]) < named(others[i])) print mine[next_own++]
                print others[i]
            }
            while (next_own <= count) print mine[next_own++]
        }' "$lock" | sed '$d' >"$lock.new"
    mv "$lock.new" "$lock"
done
# The packages that depend on ours name it in a sorted list.
for lock in "${locks[@]:1}"; do
    awk -v own=" \"$name\"," '
        $0 == own { held = 1; next }
        held == 1 && ($0 == "]" || $0 > own) { print own; held = 0 }
        { print }' "$lock" >"$lock.new"
    mv "$lock.new" "$lock"
done

# nixos/tests/tree.sh writes links in the order of their paths, and leaves out what looks like a version.
for tree in nixos/tests/units/*.{units,redis}; do
    awk '
        function flush(    i, j, link) {
            for (i = 2; i <= count; i++) {
                link = links[i]
                for (j = i - 1; j > 0 && links[j] > link; j--) links[j + 1] = links[j]
                links[j + 1] = link
            }
            for (i = 1; i <= count; i++) print links[i]
            count = 0
        }
        /^# .* -> / { links[++count] = $0; next }
        { flush(); print }
        END { flush() }' "$tree" |
        sed -E 's|(/nix/store/[a-z-]*[a-z])-[0-9][0-9a-z.]*|\1|g' >"$tree.new"
    mv "$tree.new" "$tree"
done

cargo fmt
(cd fuzz && cargo fmt)
(cd admin/attached && cargo fmt)
PATH=$PATH:${XDG_CACHE_HOME:-$HOME/.cache}/$old/tools/bin
if hash nixfmt 2>/dev/null; then
    find flake.nix nixos -name '*.nix' -exec nixfmt {} +
else
    echo "nixfmt is not here: have it format the Nix files, as make lint wants them (dev/lint-nix.sh)."
fi

echo "This is $name now. Look at it with git diff, try it with make check, and read docs/template.md."
exit
