#!/usr/bin/env python3
"""Joins the images of a release to one for all their architectures: an OCI image index in an OCI layout
(github.com/opencontainers/image-spec), as an archive.

usage: packages/index.py FOLDER   joins FOLDER/NAME-image-ARCH.tar to FOLDER/NAME-image.tar
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

if len(sys.argv) != 2:
    sys.exit("usage: packages/index.py FOLDER")
images = sorted(Path(sys.argv[1]).glob("*-image-*.tar"))
if not images:
    sys.exit(f"packages/index.py: there is no image in {sys.argv[1]}")

files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}


def encode(value):
    return json.dumps(value, indent=2).encode()


def blob(kind, content, **more):
    """Adds a blob, and returns its descriptor."""
    digest = hashlib.sha256(content).hexdigest()
    files[f"blobs/sha256/{digest}"] = content
    media_type = f"application/vnd.oci.image.{kind}"
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}


def join(path):
    """Adds the image of one architecture, and returns its descriptor."""
    with tarfile.open(path) as archive:
        read = lambda name: archive.extractfile(name).read()
        [image] = json.loads(read("manifest.json"))
        content = read(image["Config"])
        # Registries hold layers compressed, and the digest of the index has to be the same there.
        layers = [gzip.compress(read(layer), mtime=0) for layer in image["Layers"]]
    config = json.loads(content)
    names.update(image["RepoTags"])
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", content),
        "layers": [blob("layer.v1.tar+gzip", layer) for layer in layers],
    }
    platform = {name: config[name] for name in ("architecture", "os")}
    return blob("manifest.v1+json", encode(manifest), platform=platform)


names = set()
index = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [join(path) for path in images],
}
[name] = names
annotations = {"org.opencontainers.image.ref.name": name}
top = {"schemaVersion": 2, "manifests": [blob("index.v1+json", encode(index), annotations=annotations)]}
files["index.json"] = encode(top)

joined = images[0].with_name(images[0].name.rsplit("-", 1)[0] + ".tar")
with tarfile.open(joined, "w", format=tarfile.USTAR_FORMAT) as archive:
    for name, content in sorted(files.items()):
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
