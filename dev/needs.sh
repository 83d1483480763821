#!/usr/bin/env bash
# Installs, with apt-get, what this machine lacks to run, test or measure Abukiks, and says so.
# usage: dev/needs.sh run|lint|test|bench|fuzz|package
set -euo pipefail

# Everything needed beside Rust, git and make, and nothing else. All need the lines of run, `test` those
# of lint, too. The second column is a command that succeeds where it is there.
needs() {
    cat <<'END'
run        | hash cc                          | gcc libc6-dev     | links the programs, and compiles the cryptography of rediss://
run        | hash redis-server                | redis-server      | the backing service, the same one in tests and in production
run        | hash setpriv setsid flock        | util-linux        | lets make run leave nothing behind
fuzz       | hash c++                         | g++               | compiles libFuzzer
lint       | hash shellcheck                  | shellcheck        | checks the shell scripts
test bench | hash readelf                     | binutils          | shows what the program is linked to
test       | hash openssl                     | openssl           | makes the certificates of a Redis with TLS
test bench | hash ip                          | iproute2          | makes the networks that the tests break
test       | PATH+=:/usr/sbin; hash iptables  | iptables          | drops their packets
test       | hash faketime                    | faketime          | sets the clock of a process
test       | hash strace                      | strace            | shows what the program asks of the system
test bench | hash wrk                         | wrk               | is an HTTP client of another project
test       | hash chromium chromedriver       | chromium chromium-driver | shows the page as visitors see it
test bench | python3 -c 'import ensurepip'    | python3-venv      | holds schemathesis, which compares the answers with docs/openapi.yaml, and Flask
test bench | hash systemd-nspawn              | systemd-container | boots a systemd of the tests' own
test bench | PATH+=:/usr/sbin; hash nginx     | nginx-light       | is a proxy in front, as shipped, and a server to compare with
test bench | PATH+=:/usr/sbin; hash haproxy   | haproxy           | is another one
test       | hash caddy                       | caddy             | and another
test       | PATH+=:/usr/sbin; hash apache2   | apache2-bin       | and another
test       | hash promtool prometheus         | prometheus        | reads the metrics, and tests and runs the alerts
test       | hash podman runc catatonit       | podman runc catatonit | runs the image, and a pod of it
test package | hash musl-gcc               | musl-tools        | compiles the C of static programs
package    | case ${ARCH-} in aarch64) hash aarch64-linux-gnu-gcc ;; esac | gcc-aarch64-linux-gnu libc6-dev-arm64-cross | compiles and links those for arm64
test       | hash podman-compose && [[ -x /usr/lib/podman/aardvark-dns ]] | podman-compose netavark aardvark-dns | runs compose.yaml, where containers have names
test package | hash dpkg-deb xz             | dpkg xz-utils     | makes the package for Debian
test package | hash rpm rpmbuild            | rpm               | makes and checks the other one
test package | hash python3                 | python3           | lists what the programs are made of
test       | hash skopeo                     | skopeo            | reads images as registries do
test       | hash ssh ssh-keygen             | openssh-client    | deploys to a booted machine
test       | hash lintian                   | lintian           | checks the package as Debian does
test bench | hash mmdebstrap gpg              | mmdebstrap gpg    | makes the root folder that it boots
test bench | [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] | debian-archive-keyring | proves that Debian made its packages
test bench | hash valgrind                    | valgrind          | counts instructions
bench      | [[ -e /usr/share/lua/5.1/nginx/redis.lua ]] | lua-nginx-redis   | is another counter to compare with
END
}

# What is missing for $1: lines of packages and what they are for.
missing() {
    local for check packages reason
    while IFS='|' read -r for check packages reason; do
        case $1:$for in
        *:run* | lint:lint* | test:lint* | test:*test* | bench:*bench* | fuzz:fuzz* | package:*package*)
            bash -c "$check" &>/dev/null || echo "$packages|$reason"
            ;;
        esac
    done < <(needs)
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# Debian starts a service as soon as it is installed, and again at each boot. To try Abukiks
# does not ask for a Redis on port 6379 of the whole machine: forbid the start while installing
# (invoke-rc.d(8)), and switch it off for the next boot.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --no-install-recommends "$@"
}

switch_redis_off() {
    if command -v systemctl >/dev/null; then
        as_root systemctl --quiet disable redis-server.service
    else
        as_root update-rc.d redis-server disable
    fi || true
    echo "The system's own redis-server service stays off; systemctl enable --now redis-server turns it on."
}

main() {
    if ! command -v cargo >/dev/null; then
        echo "cargo is missing: install Rust with https://rustup.rs" >&2
        exit 1
    fi
    local purpose=$1 lacking packages reason
    lacking=$(missing "$purpose")
    if [[ -z $lacking ]]; then
        return
    fi
    echo "Missing on this machine:"
    while IFS='|' read -r packages reason; do
        echo "  ${packages}${reason}"
    done <<<"$lacking"
    # shellcheck disable=SC2046 # Each word is a package.
    set -- $(cut -d'|' -f1 <<<"$lacking")
    if ! command -v apt-get >/dev/null; then
        echo "There is no apt-get here. Install them in this system's own way, and try again." >&2
        exit 1
    fi
    if ((EUID != 0)) && ! command -v sudo >/dev/null; then
        echo "There is no sudo here. As root: apt-get install --no-install-recommends $*" >&2
        exit 1
    fi
    echo "Installing with apt-get: $*"
    packages=("$@")
    apt-cache show "${packages[@]}" >/dev/null 2>&1 || as_root apt-get update --quiet
    # A list of packages may be older than the packages: then fetch it anew.
    install_quietly "${packages[@]}" ||
        { as_root apt-get update --quiet && install_quietly "${packages[@]}"; }
    if [[ " $* " == *" redis-server "* ]]; then
        switch_redis_off
    fi
    # A package may bring something else: on Ubuntu, chromium is a stand-in for a snap.
    lacking=$(missing "$purpose")
    if [[ -n $lacking ]]; then
        echo "Still missing; install it in another way: $(cut -d'|' -f1 <<<"$lacking" | xargs)" >&2
        exit 1
    fi
}

case ${1-} in
run | lint | test | bench | fuzz | package) main "$1" ;;
*)
    echo "usage: $0 run|lint|test|bench|fuzz|package" >&2
    exit 64
    ;;
esac
