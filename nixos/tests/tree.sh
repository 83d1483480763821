#!/bin/sh
# Prints a part of a unit tree as NixOS makes it:
#   tree.sh abukiks FOLDER   the drop-ins of Abukiks, and the links and targets that start its units
#   tree.sh redis FOLDER     the services of Redis, and the files that they name
# Each file is a line `# its path` and its lines, each link a line `# its path -> its target`. Left out
# is what means nothing (blank lines, comments) or is different with each nixpkgs: hashes, versions, the
# PATH of services. The package's own units are in systemd/ of the repository.
set -eu
export LC_ALL=C
cd "$2"

plain() {
    sed -E 's|/nix/store/[0-9a-z]{32}-|/nix/store/|g; s|(/nix/store/[a-z-]*[a-z])-[0-9][0-9a-z.]*|\1|g
        s|RELEASE=[0-9.]+-[0-9a-f]{12}|RELEASE=VERSION-HASH|
        /^$/d; /^Environment="PATH=/d'
}

show() {
    for file; do
        [ ! -f "$file" ] || { echo "# $file" && sed '/^# /d' "$file"; } | plain
    done
}

# Files of the store that these files name.
named() {
    [ $# = 0 ] ||
        grep --only-matching --no-filename '/nix/store/[0-9a-z]\{32\}-redis[0-9a-z.-]*' "$@" | sort --unique
}

case $1 in
abukiks)
    show abukiks*.d/* abukiks-listen@.service system-abukiks.slice.d/*
    # Other services stand there as well.
    for target in multi-user sockets; do
        file=$target.target.d/overrides.conf
        [ ! -f "$file" ] || {
            echo "# $file"
            awk '/^\[/; /^Wants=/ {
                    wants = ""
                    split(substr($0, 7), units, " ")
                    for (i = 1; i in units; i++) if (units[i] ~ /^abukiks/) wants = wants " " units[i]
                    if (wants != "") print "Wants=" substr(wants, 2)
                }' "$file"
        }
    done
    ;;
redis)
    show redis-*.service
    # Scripts that units start, and files that those read.
    # shellcheck disable=SC2046 # Each word is a file.
    show $(named redis-*.service) $(named $(named redis-*.service))
    ;;
esac
for link in *.wants/*"$1"*; do
    [ ! -L "$link" ] || echo "# $link -> $(readlink "$link")"
done
