#!/usr/bin/env python3
"""Joins images of a release to one for all their architectures: an OCI image index in an OCI layout
(github.com/opencontainers/image-spec), as an archive.

usage: packages/index.py FOLDER   joins FOLDER/NAME-image-ARCH.tar to FOLDER/NAME-image.tar
"""

import gzip
import hashlib
import io
import itertools
import json
import sys
import tarfile
from pathlib import Path

if len(sys.argv) != 2:
    sys.exit("usage: packages/index.py FOLDER")


def encode(value):
    return json.dumps(value, indent=2).encode()


class Layout:
    """The files of an OCI layout, by name."""

    def __init__(self):
        self.files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(self, kind, content, **more):
        """Adds a blob, and returns its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = content
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    def image(self, path):
        """Adds the image of one architecture, and returns its name and descriptor."""
        with tarfile.open(path) as archive:
            read = lambda name: archive.extractfile(name).read()
            [image] = json.loads(read("manifest.json"))
            content = read(image["Config"])
            # Registries hold compressed layers, and the index needs the same digest there.
            layers = [gzip.compress(read(layer), mtime=0) for layer in image["Layers"]]
        config = json.loads(content)
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob("config.v1+json", content),
            "layers": [self.blob("layer.v1.tar+gzip", layer) for layer in layers],
        }
        platform = {name: config[name] for name in ("architecture", "os")}
        [name] = image["RepoTags"]
        return name, self.blob("manifest.v1+json", encode(manifest), platform=platform)

    def write(self, path):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in sorted(self.files.items()):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def join(images, joined):
    """Writes the images of one name as one."""
    layout = Layout()
    names, manifests = zip(*map(layout.image, images))
    [name] = set(names)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    }
    annotations = {"org.opencontainers.image.ref.name": name}
    top = {
        "schemaVersion": 2,
        "manifests": [layout.blob("index.v1+json", encode(index), annotations=annotations)],
    }
    layout.files["index.json"] = encode(top)
    layout.write(joined)


images = sorted(Path(sys.argv[1]).glob("*-image-*.tar"))
if not images:
    sys.exit(f"packages/index.py: there is no image in {sys.argv[1]}")
for joined, parts in itertools.groupby(images, lambda path: path.with_name(path.name.rsplit("-", 1)[0] + ".tar")):
    join(list(parts), joined)
