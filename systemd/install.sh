#!/bin/sh
# Installs the release onto any systemd distribution, or takes it away again:
#   systemd/install.sh install|uninstall
# From the environment, as GNU make's conventions have it: PREFIX (default /usr/local), DESTDIR (a
# root folder to install into, for packagers), BUILD (where the programs are, default
# target/dist). UNITDIR is where the units go, if not below PREFIX. MANUAL=no leaves out the manual,
# for programs of another machine: it is what the program itself prints.
set -eu
cd "$(dirname "$0")/.."
umask 022

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
BUILD=${BUILD:-target/dist}
bindir=$PREFIX/bin
libexecdir=$PREFIX/libexec/abukiks
datadir=$PREFIX/share/abukiks
docdir=$PREFIX/share/doc/abukiks
unitdir=${UNITDIR:-$PREFIX/lib/systemd/system}

refuse() {
    echo "systemd/install.sh: $1: accepted is $2" >&2
    exit 64
}

# Units, sed and the list below take other characters for something else than a part of a path.
for path in "PREFIX=$PREFIX" "UNITDIR=$unitdir" "BUILD=$BUILD"; do
    case $path in
    *=*[!A-Za-z0-9/._+~-]*) refuse "$path" 'a path of letters, digits and / . _ + ~ -' ;;
    BUILD=* | *=/*) ;;
    *) refuse "$path" 'a path that begins with /' ;;
    esac
done

tasks='reset-count show-count check-redis'

# What is installed, one file a line: mode, source, place.
files() {
    echo "755 $BUILD/abukiks $bindir/abukiks"
    echo "755 systemd/abukiks-admin $bindir/abukiks-admin"
    for task in $tasks; do
        echo "755 $BUILD/$task $libexecdir/$task"
    done
    for unit in systemd/*.service systemd/*.socket systemd/*.target systemd/*.slice; do
        echo "644 $unit $unitdir/${unit##*/}"
    done
    echo "644 systemd/redis-tcp.conf $datadir/redis-tcp.conf"
}

# Copies a file whole or not at all: a running program is replaced, not written into. Text files
# learn where the rest has been put.
put() {
    mode=$1 source=$2 place=$DESTDIR$3
    mkdir -p "${place%/*}"
    case $source in
    "$BUILD"/*) cp "$source" "$place.new" ;;
    *) sed -e "s|@bindir@|$bindir|g" -e "s|@libexecdir@|$libexecdir|g" \
        -e "s|@datadir@|$datadir|g" "$source" >"$place.new" ;;
    esac
    chmod "$mode" "$place.new"
    mv -f "$place.new" "$place"
}

case ${1:-} in
install)
    files | while read -r mode source place; do put "$mode" "$source" "$place"; done
    [ "${MANUAL:-yes}" = no ] || {
        mkdir -p "$DESTDIR$docdir"
        "$DESTDIR$bindir/abukiks" --help >"$DESTDIR$docdir/abukiks.txt"
    }
    ;;
uninstall)
    files | while read -r _ _ place; do rm -f "$DESTDIR$place"; done
    rm -f "$DESTDIR$docdir/abukiks.txt"
    for folder in "$libexecdir" "$datadir" "$docdir"; do
        rmdir "$DESTDIR$folder" 2>/dev/null || true
    done
    ;;
*)
    echo "usage: systemd/install.sh install|uninstall" >&2
    exit 64
    ;;
esac
# A packager's DESTDIR is not the system that runs.
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
