#!/bin/sh
# dev/deploy.sh runs it on a host, as root. It keeps the packages of this release and of the last other one
# that passed the check.
# usage: deploy-host.sh install NAME SHA256   the package comes on stdin
#        deploy-host.sh rollback              to the release before
#        deploy-host.sh check
set -eu
umask 022
store=/var/cache/abukiks-deploy

refuse() {
    status=$1
    shift
    echo "$(uname -n): $*" >&2
    exit "$status"
}

install_package() {
    case $1 in
    *.deb)
        # A file of settings that was changed on the host stays, even if the release changes it too.
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --allow-downgrades \
            --option Dpkg::Options::=--force-confold "$1" >&2
        ;;
    *.rpm) rpm --upgrade --oldpackage --replacepkgs "$1" >&2 ;;
    esac
}

# Asks the instance behind a socket unit for a path.
ask() {
    listen=$(systemctl show --property=Listen --value "$1" | sed 's/ .*//; q')
    path=$2
    shift 2
    case $listen in
    /*) set -- "$@" --unix-socket "$listen" "http://localhost$path" ;;
    0.0.0.0:* | \[::\]:*) set -- "$@" "http://localhost:${listen##*:}$path" ;;
    *) set -- "$@" "http://$listen$path" ;;
    esac
    curl --fail --silent --show-error --max-time 10 "$@"
}

# Each instance, at its own port, and at the one of ADMIN_PORT where it has one.
check() {
    sockets=$(systemctl list-units --plain --no-legend --state=active 'abukiks@*.socket' | cut -d' ' -f1)
    [ -n "$sockets" ] || refuse 69 'no instance listens: systemctl enable --now abukiks@5001.socket'
    installed=$(abukiks --version | cut -d' ' -f2)
    for socket in $sockets; do
        port=${socket#abukiks@} port=${port%.socket}
        monitor=abukiks-monitor@$port.socket
        systemctl --quiet is-active "$monitor" || monitor=$socket
        abukiks-admin --instance "$port" check-redis >&2 ||
            refuse 69 "$socket: check-redis refuses"
        # curl tries again after 503, and while nothing listens.
        ask "$monitor" /readyz --retry 5 --retry-connrefused >&2 || refuse 69 "$socket: /readyz does not answer 200"
        ask "$monitor" /version | grep --quiet --fixed-strings "\"version\":\"$installed\"" ||
            refuse 69 "$socket: it does not run the release that is installed, $installed"
        visit=$(ask "$socket" /) || refuse 69 "$socket: a visit is refused"
        echo "$socket: $visit"
    done
    echo "$(uname -n) runs abukiks $installed"
}

case ${1-} in
install)
    name=$2 sum=$3
    command -v curl >/dev/null || refuse 69 'curl is not installed'
    mkdir -p "$store"
    cat >"$store/incoming"
    echo "$sum  $store/incoming" | sha256sum --check --status || refuse 74 "$name came in with another sum"
    mv "$store/incoming" "$store/$name"
    checked=$(readlink "$store/checked" || true)
    case $checked in '' | "$name") ;; *) ln -sfn "$checked" "$store/previous" ;; esac
    install_package "$store/$name"
    find "$store" -type f ! -name "$name" ! -name "$(readlink "$store/previous" || true)" -delete
    check
    ln -sfn "$name" "$store/checked"
    ;;
rollback)
    previous=$(readlink "$store/previous") || refuse 66 'it has no release before this one'
    install_package "$store/$previous"
    mv "$store/previous" "$store/checked"
    check
    ;;
check) check ;;
*)
    echo 'usage: deploy-host.sh install NAME SHA256 | rollback | check' >&2
    exit 64
    ;;
esac
