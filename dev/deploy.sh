#!/usr/bin/env bash
# Installs a release on hosts, one after the other, and checks each before the next; or goes back to the
# release before. The checks of each instance: check-redis, /readyz, /version and a visit.
# usage: dev/deploy.sh deploy WHAT HOST...   WHAT: a package of a release (.deb, .rpm), or a flake for hosts
#                                            that run NixOS, such as .#production
#        dev/deploy.sh rollback HOST...      HOST: as ssh takes it
#
# From the environment: SSH_KEY, a private key, and SSH_KNOWN_HOSTS, lines of a known_hosts file. Without
# them, ssh uses its own files. The user at a host is root, or may use sudo without a password.
set -euo pipefail

usage() {
    sed -n '/^# usage:/,/^#$/s/^# //p' "$0" >&2
    exit 64
}

here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

options=(-o BatchMode=yes -o StrictHostKeyChecking=yes)
if [[ -n ${SSH_KEY-} ]]; then
    (umask 077 && printf '%s\n' "$SSH_KEY" >"$work/key")
    options+=(-i "$work/key" -o IdentitiesOnly=yes)
fi
if [[ -n ${SSH_KNOWN_HOSTS-} ]]; then
    printf '%s\n' "$SSH_KNOWN_HOSTS" >"$work/known_hosts"
    options+=(-o UserKnownHostsFile="$work/known_hosts")
fi

# Runs dev/deploy-host.sh on a host, as root, with these arguments and this stdin. The host needs no copy.
on() {
    local host=$1 command argument
    shift
    # Quoted for any shell of the host.
    # shellcheck disable=SC2016 # The host expands it.
    command='if [ "$(id -u)" = 0 ]; then exec "$0" "$@"; else exec sudo --non-interactive "$0" "$@"; fi'
    set -- sh -c "$command" sh -c "$(cat "$here/deploy-host.sh")" deploy-host.sh "$@"
    command=
    for argument; do
        command+=" '${argument//\'/\'\\\'\'}'"
    done
    # shellcheck disable=SC2029 # It is to be expanded here.
    ssh "${options[@]}" "$host" "$command"
}

# The release lists the sums of its files; a file with another sum is not deployed.
verify() {
    local package=$1
    [[ -f $package ]] || { echo "$0: there is no package $package" >&2; exit 66; }
    sum=$(sha256sum <"$package" | cut -d' ' -f1)
    local sums=${package%/*}/SHA256SUMS
    if [[ -e $sums ]] && ! grep --quiet --line-regexp --fixed-strings "$sum  ${package##*/}" "$sums"; then
        echo "$0: $package does not have the sum that $sums lists" >&2
        exit 65
    fi
    echo "${package##*/} is $sum"
}

rebuild() {
    local host=$1
    shift
    NIX_SSHOPTS="${options[*]}" nixos-rebuild switch --sudo --target-host "$host" "$@"
}

deploy() {
    local what=$1 host
    shift
    case $what in
    *.deb | *.rpm)
        what=$(realpath "$what")
        verify "$what"
        ;;
    esac
    for host; do
        echo "$host: deploys ${what##*/}"
        case $what in
        *.deb | *.rpm) on "$host" install "${what##*/}" "$sum" <"$what" ;;
        *)
            rebuild "$host" --flake "$what"
            on "$host" check </dev/null
            ;;
        esac
    done
}

rollback() {
    local host
    for host; do
        echo "$host: goes back"
        case $(ssh "${options[@]}" "$host" '[ ! -e /etc/NIXOS ] || echo NixOS' </dev/null) in
        NixOS)
            rebuild "$host" --rollback
            on "$host" check </dev/null
            ;;
        *) on "$host" rollback </dev/null ;;
        esac
    done
}

case ${1-} in
deploy) (($# >= 3)) || usage ;;
rollback) (($# >= 2)) || usage ;;
*) usage ;;
esac
"$@"
