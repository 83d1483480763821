#!/usr/bin/env bash
# Puts an image together for tests, where Nix is not there to build the real one (nixos/image.nix):
# the same configuration and the same kinds of files, with the libraries of a dynamic program.
# usage: dev/image-for-test.sh PROGRAM IMAGE.tar   then: podman load --input IMAGE.tar
set -euo pipefail
(($# == 2)) || { echo "usage: $0 PROGRAM IMAGE.tar" >&2; exit 64; }
program=$1
image=$(realpath "$2")
nixos=$(realpath "$(dirname "$0")/../nixos")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
install -D --strip "$program" "$root/bin/abukiks"
ldd "$program" | grep --only-matching '/[^ ]*' | while read -r library; do
    install -D "$library" "$root$library"
done
install -d "$root/etc"
printf '%s\n' root:x:0:0:root:/:/bin/false abukiks:x:65532:65532:Abukiks:/:/bin/false >"$root/etc/passwd"
printf '%s\n' root:x:0: abukiks:x:65532: >"$root/etc/group"

reproducibly=(--sort=name --owner=0 --group=0 --numeric-owner --mtime=@1)
tar --create "${reproducibly[@]}" --directory "$root" --file "$work/layer.tar" .
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac
printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$(cat "$nixos/image.json")" "$layer" >"$work/config.json"
printf '[{"Config":"config.json","RepoTags":["localhost/abukiks:test"],"Layers":["layer.tar"]}]' >"$work/manifest.json"
tar --create "${reproducibly[@]}" --directory "$work" --file "$image" manifest.json config.json layer.tar
