#!/usr/bin/env bash
# Puts an image together for tests, where Nix is not there to build the real one (nixos/image.nix):
# the same configuration and the same files, the programs linked to musl as there. Where Rust lacks
# that target, the programs of FOLDER take their place, with the libraries that they load.
# usage: dev/image-for-test.sh FOLDER IMAGE.tar   then: podman load --input IMAGE.tar
set -euo pipefail
(($# == 2)) || { echo "usage: $0 FOLDER IMAGE.tar" >&2; exit 64; }
programs=$(realpath "$1")
image=$(realpath "$2")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

target=$(uname -m)-unknown-linux-musl
if hash musl-gcc 2>/dev/null && [[ -d $(rustc --print target-libdir --target "$target") ]]; then
    cargo build --quiet --locked --bins --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}"
    programs=$(realpath "${CARGO_TARGET_DIR:-target}/$target/debug")
fi

root=$work/root
for program in abukiks reset-count show-count check-redis top; do
    install -D --strip --target-directory="$root/bin" "$programs/$program"
done
# Nothing for a static program.
{ ldd "$programs/abukiks" || true; } | { grep --only-matching '/[^ ]*' || true; } |
    while read -r library; do install -D "$library" "$root$library"; done
if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then
    install -D --mode=0444 --target-directory="$root/etc/ssl/certs" /etc/ssl/certs/ca-certificates.crt
fi
install -d "$root/etc"
printf '%s\n' root:x:0:0:root:/:/bin/false abukiks:x:65532:65532:Abukiks:/:/bin/false >"$root/etc/passwd"
printf '%s\n' root:x:0: abukiks:x:65532: >"$root/etc/group"

reproducibly=(--sort=name --owner=0 --group=0 --numeric-owner --mtime=@1)
tar --create "${reproducibly[@]}" --directory "$root" --file "$work/layer.tar" .
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac
printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$(cat nixos/image.json)" "$layer" >"$work/config.json"
printf '[{"Config":"config.json","RepoTags":["localhost/abukiks:test"],"Layers":["layer.tar"]}]' >"$work/manifest.json"
tar --create "${reproducibly[@]}" --directory "$work" --file "$image" manifest.json config.json layer.tar
