#!/bin/sh
# Installs the release onto any systemd distribution, or takes it away again:
#   systemd/install.sh install|uninstall
# From the environment, as GNU make's conventions have it: PREFIX (default /usr/local), DESTDIR (a
# root folder to install into, for packagers), BUILD (where the programs are, default
# target/dist). UNITDIR is where the units go, if not below PREFIX. PART, for packagers too, is service or
# attached, which is what belongs to the programs of admin/attached; by default it is both.
set -eu
cd "$(dirname "$0")/.."
umask 022

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
BUILD=${BUILD:-target/dist}
bindir=$PREFIX/bin
libexecdir=$PREFIX/libexec/abukiks
datadir=$PREFIX/share/abukiks
mandir=$PREFIX/share/man
unitdir=${UNITDIR:-$PREFIX/lib/systemd/system}
part=${PART:-}

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

case $part in
'' | service | attached) ;;
*) refuse "PART=$part" 'service or attached' ;;
esac

tasks='reset-count show-count check-redis top'

# What is installed, one file a line: mode (or "link"), source, place.
files() {
    [ "$part" = attached ] || service_files
    [ "$part" = service ] || attached_files
}

service_files() {
    echo "755 $BUILD/abukiks $bindir/abukiks"
    echo "755 systemd/abukiks-admin $bindir/abukiks-admin"
    for task in $tasks; do
        echo "755 $BUILD/$task $libexecdir/$task"
    done
    for unit in systemd/*.service systemd/*.socket systemd/*.target systemd/*.slice; do
        echo "644 $unit $unitdir/${unit##*/}"
    done
    echo "644 systemd/redis-tcp.conf $datadir/redis-tcp.conf"
    echo "644 man/abukiks.1 $mandir/man1/abukiks.1"
    echo "644 man/abukiks-admin.8 $mandir/man8/abukiks-admin.8"
    for command in abukiks abukiks-admin; do
        echo "644 completions/$command.bash $PREFIX/share/bash-completion/completions/$command"
        echo "644 completions/_$command $PREFIX/share/zsh/site-functions/_$command"
        echo "644 completions/$command.fish $PREFIX/share/fish/vendor_completions.d/$command.fish"
    done
}

# What make attached has built, each task with its timer, and with the instance that it is run as. That one never
# runs: its socket, which an instance needs, is masked. To uninstall, all that there may be.
attached_files() {
    for kind in backup report; do
        case $kind in
        backup) programs='backup-count restore-count' ;;
        report) programs=mail-report ;;
        esac
        [ "$action" = uninstall ] || [ -f "$BUILD/${programs%% *}" ] || continue
        for task in $programs; do
            echo "755 $BUILD/$task $libexecdir/$task"
        done
        echo "644 systemd/abukiks-$kind.timer $unitdir/abukiks-$kind.timer"
        echo "644 systemd/$kind.conf $unitdir/abukiks@$kind.service.d/10-$kind.conf"
        echo "link /dev/null $unitdir/abukiks@$kind.socket"
    done
}

# Copies a file whole or not at all: a running program is replaced, not written into. Text files
# learn where the rest has been put.
put() {
    mode=$1 source=$2 place=$DESTDIR$3
    mkdir -p "${place%/*}"
    if [ "$mode" = link ]; then
        ln -sfn "$source" "$place"
        return
    fi
    case $source in
    "$BUILD"/*) cp "$source" "$place.new" ;;
    *) sed -e "s|@bindir@|$bindir|g" -e "s|@libexecdir@|$libexecdir|g" \
        -e "s|@datadir@|$datadir|g" "$source" >"$place.new" ;;
    esac
    chmod "$mode" "$place.new"
    mv -f "$place.new" "$place"
}

# A packager's DESTDIR is not the system that runs.
is_running_system() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

action=${1:-}
case $action in
install)
    files | while read -r _ source _; do
        [ -e "$source" ] || {
            echo "systemd/install.sh: there is no program $source: run make build first" >&2
            exit 66
        }
    done
    files | while read -r mode source place; do put "$mode" "$source" "$place"; done
    ;;
uninstall)
    # Without its units an instance would run on, and would start at boot no more.
    if is_running_system && [ -e "$unitdir/abukiks@.service" ]; then
        systemctl stop 'abukiks-*.timer' abukiks.target 'abukiks@*.socket' 'abukiks@*.service'
        for timer in abukiks-backup.timer abukiks-report.timer; do
            [ ! -e "$unitdir/$timer" ] || systemctl --quiet disable "$timer"
        done
        systemctl --quiet disable abukiks@.socket abukiks-monitor@.socket abukiks@.service abukiks.target
    fi
    files | while read -r _ _ place; do rm -f "$DESTDIR$place"; done
    for folder in "$libexecdir" "$datadir" "$unitdir/abukiks@backup.service.d" "$unitdir/abukiks@report.service.d"; do
        rmdir "$DESTDIR$folder" 2>/dev/null || true
    done
    if is_running_system; then
        for path in /etc/abukiks /etc/credstore/abukiks.* /etc/systemd/system/abukiks*.d /var/lib/abukiks-backups; do
            [ ! -e "$path" ] || echo "left: $path"
        done
        echo 'left: the count, in Redis'
    fi
    ;;
*)
    echo "usage: systemd/install.sh install|uninstall" >&2
    exit 64
    ;;
esac
if is_running_system; then
    systemctl daemon-reload
fi
