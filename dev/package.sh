#!/usr/bin/env bash
# Packs programs for those who build nothing. The bytes follow from the programs, from this tree and from
# SOURCE_DATE_EPOCH, by default the time of the commit.
# usage: dev/package.sh PROGRAMS FOLDER FORMAT...   from the programs in PROGRAMS into FOLDER
#        FORMAT: deb, rpm, tar, image, sbom, or image-sbom for the image that is in FOLDER
#
# VERSION is that of the programs, by default the one in Cargo.toml; ABUKIKS_COMMIT is their commit. PART=attached
# packs the programs of admin/attached, which the service needs none of.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

(($# >= 3)) || { echo "usage: $0 PROGRAMS FOLDER FORMAT..." >&2; exit 64; }
programs=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
formats=("${@:3}")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

field() {
    sed -n "s/^$1 = \"\(.*\)\"/\1/p" Cargo.toml | head -n 1
}
version=${VERSION:-$(field version)}
homepage=$(field repository)
maintainer='Abukiks contributors <abukiks@users.noreply.github.com>'
export PART=${PART:-service}
case $PART in
service)
    name=abukiks crate=. scripts=packages
    summary='visitor counter kept to all twelve factors'
    all=(abukiks reset-count show-count check-redis top)
    ;;
attached)
    name=abukiks-attached crate=admin/attached scripts=packages/attached
    summary='backups and mailed reports for the visitor counter Abukiks'
    all=()
    for program in backup-count restore-count mail-report; do
        [[ ! -e $programs/$program ]] || all+=("$program")
    done
    ((${#all[@]})) || { echo "$0: none of the programs of admin/attached is in $programs" >&2; exit 66; }
    ;;
*) echo "$0: PART=$PART: accepted is service or attached" >&2 && exit 64 ;;
esac
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

# What the head of an ELF file says of its machine.
case $(od --address-radix=n --format=u2 --skip-bytes=18 --read-bytes=2 "$programs/${all[0]}") in
*\ 62) machine=x86_64 architecture=amd64 ;;
*\ 183) machine=aarch64 architecture=arm64 ;;
*) echo "$0: $programs/${all[0]} is for an unknown machine" >&2 && exit 65 ;;
esac

description() {
    if [[ $PART = service ]]; then
        cat <<'END'
Abukiks greets every visitor with a number, which it keeps in Redis. A visit
that got a number is counted exactly once, whatever breaks.
END
    else
        cat <<'END'
Tasks of Abukiks that need another attached resource than Redis, each with a
timer: the count is backed up into an object store or a folder, restored from
there, and reported by mail.
END
    fi
}

# What the packages of both formats install, below a folder.
tree() {
    BUILD=$programs DESTDIR=$1 PREFIX=/usr systemd/install.sh install
    [[ $PART = service ]] || return 0
    # The Redis of a distribution listens on TCP.
    local dropins=$1/usr/lib/systemd/system/abukiks@.service.d
    mkdir -p "$dropins"
    ln -s ../../../../share/abukiks/redis-tcp.conf "$dropins/10-redis-tcp.conf"
    install -D --mode=0644 packages/abukiks.env "$1/etc/abukiks/abukiks.env"
    if [[ -d $1/usr/share/man ]]; then
        find "$1/usr/share/man" -type f -exec gzip --best --no-name {} +
    fi
}

deb() {
    local root=$work/deb doc=$work/deb/usr/share/doc/$name depends='systemd (>= 252)'
    tree "$root"
    mkdir -p "$doc" "$root/DEBIAN" "$root/usr/share/lintian/overrides"
    {
        printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n'
        printf 'Upstream-Name: abukiks\nSource: %s\n\n' "$homepage"
        printf 'Files: *\nCopyright: %s\n' "$(sed -n 's/^Copyright (c) //p' LICENSE)"
        printf 'License: Expat\n'
        sed -e '1,/^Copyright/d' LICENSE | sed -e '/./,$!d' -e 's/^$/./' -e 's/^/ /'
    } >"$doc/copyright"
    gzip --best --no-name <CHANGELOG.md >"$doc/changelog.gz"
    printf '%s (%s-1) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' \
        "$name" "$version" "$maintainer" "$(date --rfc-email --date="@$SOURCE_DATE_EPOCH")" |
        gzip --best --no-name >"$doc/changelog.Debian.gz"
    sed "s/^abukiks:/$name:/" packages/lintian-overrides >"$root/usr/share/lintian/overrides/$name"

    [[ $PART = service ]] || depends="abukiks (>= $version-1)"
    {
        printf 'Package: %s\nVersion: %s-1\nArchitecture: %s\n' "$name" "$version" "$architecture"
        printf 'Maintainer: %s\nSection: web\nPriority: optional\n' "$maintainer"
        find "$root" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "Installed-Size: %d\n", sum / 1024 }'
        printf 'Depends: %s\n' "$depends"
        [[ $PART = attached ]] || printf 'Suggests: redis-server | valkey-server\n'
        printf 'Homepage: %s\nDescription: %s\n' "$homepage" "$summary"
        description | sed 's/^/ /'
    } >"$root/DEBIAN/control"
    [[ ! -d $root/etc ]] || (cd "$root" && find etc -type f -printf '/%p\n') >"$root/DEBIAN/conffiles"
    (cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort --zero-terminated | xargs --null md5sum) \
        >"$root/DEBIAN/md5sums"
    install --mode=0755 --target-directory="$root/DEBIAN" "$scripts"/{postinst,prerm,postrm}
    # With more threads than one, the compressed bytes depend on their number.
    dpkg-deb --root-owner-group --threads-max=1 -Zxz --build "$root" "$out" >"$work/said"
}

rpm() {
    local root=$work/rpm requires='systemd >= 252'
    [[ $PART = service ]] || requires="abukiks >= $version"
    tree "$root"
    install -D --mode=0644 --target-directory="$root/usr/share/licenses/$name" LICENSE
    install -D --mode=0644 --target-directory="$root/usr/share/doc/$name" CHANGELOG.md
    {
        printf 'Name: %s\nVersion: %s\nRelease: 1\nSummary: %s\n' "$name" "$version" "$summary"
        printf 'License: MIT\nURL: %s\nAutoReqProv: no\nRequires: %s\n' "$homepage" "$requires"
        printf '%%description\n' && description
        cat "$scripts/rpm-scripts"
        printf '%%files\n'
        (cd "$root" && find . \( -type f -o -type l \) -printf '/%P\n' -o -name '*abukiks*' -printf '%%%%dir /%P\n') |
            sort | sed -e 's|^/etc/|%config(noreplace) &|' -e 's|^/usr/share/licenses/[^ ]*/LICENSE|%license &|'
    } >"$work/$name.spec"
    # What Fedora's macros do with the files (strip, compress, split) was done or is not wanted.
    rpmbuild -bb --quiet --target "$machine-linux" --buildroot "$root" --define "_topdir $work/topdir" \
        --define "_rpmdir $out" --define '_build_name_fmt %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm' \
        --define '__os_install_post %{nil}' --define '__spec_install_pre %{nil}' --define '_build_id_links none' \
        --define 'debug_package %{nil}' --define '_binary_payload w6.xzdio' --define '_buildhost localhost' \
        --define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1' \
        "$work/$name.spec"
}

reproducibly=(--sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH")

# The programs, and what systemd/install.sh installs beside them: BUILD=bin tells it where they are.
tar_() {
    local folder=$name-$version-linux-$architecture part
    install -D --target-directory="$work/$folder/bin" "${all[@]/#/$programs/}"
    for part in systemd man completions LICENSE CHANGELOG.md README.md; do
        [[ ! -e $part ]] || cp --recursive "$part" "$work/$folder/"
    done
    tar --create "${reproducibly[@]}" --mode=go-w --directory "$work" "$folder" |
        gzip --best --no-name >"$out/$folder.tar.gz"
}

# The same configuration, files and form as nixos/image.nix has: OCI's own form has no health check.
image() {
    local root=$work/root created layer
    install -D --target-directory="$root/bin" "${all[@]/#/$programs/}"
    # Nothing for a static program.
    { ldd "$programs/${all[0]}" 2>/dev/null || true; } | { grep --only-matching '/[^ ]*' || true; } |
        while read -r library; do install -D "$library" "$root$library"; done
    if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then
        install -D --mode=0444 --target-directory="$root/etc/ssl/certs" /etc/ssl/certs/ca-certificates.crt
    fi
    install -d "$root/etc"
    printf '%s\n' root:x:0:0:root:/:/bin/false abukiks:x:65532:65532:Abukiks:/:/bin/false >"$root/etc/passwd"
    printf '%s\n' root:x:0: abukiks:x:65532: >"$root/etc/group"

    mkdir "$work/image"
    created=$(date --iso-8601=seconds --date="@$SOURCE_DATE_EPOCH")
    tar --create "${reproducibly[@]}" --directory "$root" --file "$work/image/layer.tar" .
    layer=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)
    python3 - "$architecture" "$created" "$layer" "$version" "$homepage" "$name" >"$work/image/config.json" <<'END'
import json, os, sys

architecture, created, layer, version, homepage, name = sys.argv[1:]
with open("nixos/image.json") as file:
    config = json.load(file)
if name != "abukiks":
    # No service, which would listen and be asked for its health.
    config = {part: config[part] for part in ("User", "WorkingDir")}
labels = {"title": name, "version": version, "created": created, "source": homepage, "licenses": "MIT"}
labels["revision"] = os.environ.get("ABUKIKS_COMMIT", "unknown")
config["Labels"] = {f"org.opencontainers.image.{name}": value for name, value in labels.items()}
layers = {"type": "layers", "diff_ids": [f"sha256:{layer}"]}
json.dump({"architecture": architecture, "os": "linux", "created": created, "config": config, "rootfs": layers}, sys.stdout)
END
    printf '[{"Config":"config.json","RepoTags":["localhost/%s:%s"],"Layers":["layer.tar"]}]' "$name" "$version" \
        >"$work/image/manifest.json"
    tar --create "${reproducibly[@]}" --directory "$work/image" \
        --file "$out/$name-$version-image-$architecture.tar" manifest.json config.json layer.tar
}

sbom() {
    packages/sbom.py "$machine-unknown-linux-musl" "$crate" >"$out/$name-$version-linux-$architecture.cdx.json"
}

image_sbom() {
    local image=$out/$name-$version-image-$architecture
    packages/sbom.py "$machine-unknown-linux-musl" "$crate" "$image.tar" >"$image.cdx.json"
}

for format in "${formats[@]}"; do
    case $format in
    deb | rpm | image | sbom) "$format" ;;
    tar) tar_ ;;
    image-sbom) image_sbom ;;
    *) echo "$0: there is no format '$format'" >&2 && exit 64 ;;
    esac
done
