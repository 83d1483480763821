#!/usr/bin/env python3
"""Lists what the programs are made of, as CycloneDX in JSON: each crate that is linked into them, with the
checksum that Cargo.lock holds. For an image, its files too.

usage: packages/sbom.py TARGET CRATE [IMAGE.tar]   TARGET as rustc names it, CRATE the folder of a crate of this tree
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

if len(sys.argv) not in (3, 4):
    sys.exit("usage: packages/sbom.py TARGET CRATE [IMAGE.tar]")
target = sys.argv[1]
image = Path(sys.argv[3]).resolve() if len(sys.argv) == 4 else None
os.chdir(Path(__file__).parent.parent / sys.argv[2])

tree = ["cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--target", target, "--prefix", "none"]
lines = subprocess.check_output([*tree, "--format", "{p}\t{l}\t{r}"], text=True).splitlines()
# The first word of the description is the name, the second the version; what is repeated ends with a star.
linked = {}
for line in lines:
    package, license, repository = line.removesuffix(" (*)").split("\t")
    name, version = package.split()[:2]
    linked[name, version.removeprefix("v")] = license, repository
locked = {(entry["name"], entry["version"]): entry for entry in tomllib.loads(Path("Cargo.lock").read_text())["package"]}
own = next(package for package in linked if "checksum" not in locked[package])


def purl(package):
    return "pkg:cargo/{}@{}".format(*package)


def component(package):
    license, repository = linked[package]
    described = {
        "type": "application" if package == own else "library",
        "bom-ref": purl(package),
        "name": package[0],
        "version": package[1],
        "purl": purl(package),
        # Some crates say "MIT/Apache-2.0", which SPDX has as OR.
        "licenses": [{"expression": license.replace("/", " OR ")}],
    }
    if "checksum" in locked[package]:
        described["hashes"] = [{"alg": "SHA-256", "content": locked[package]["checksum"]}]
    if repository:
        described["externalReferences"] = [{"type": "vcs", "url": repository}]
    return described


def dependencies(package):
    """Cargo.lock names a version only where a name alone would not be clear."""
    names = locked[package].get("dependencies", [])
    wanted = {tuple(name.split()[:2]) for name in names}
    return sorted(purl(other) for other in linked if other in wanted or (other[0],) in wanted)


def sha256(content):
    return [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}]


def contents(image):
    """The image, named by the digest of its configuration as container engines do, and its files."""
    with tarfile.open(image) as archive:
        [manifest] = json.load(archive.extractfile("manifest.json"))
        config = archive.extractfile(manifest["Config"]).read()
        listed = []
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                for file in sorted(filter(tarfile.TarInfo.isreg, files), key=lambda file: file.name):
                    hashes = sha256(files.extractfile(file).read())
                    listed.append({"type": "file", "name": file.name.removeprefix("."), "hashes": hashes})
    [tag] = manifest["RepoTags"]
    name, version = tag.rsplit("/", 1)[-1].split(":")
    ref = f"pkg:oci/{name}@sha256:{hashlib.sha256(config).hexdigest()}"
    return {"type": "container", "bom-ref": ref, "name": name, "version": version, "hashes": sha256(config)}, listed


def first_line(*command):
    return subprocess.check_output(command, text=True).splitlines()[0]


def compiler():
    """As dev/build-release.sh has it: another machine takes the cross compiler, where there is one."""
    machine = target.split("-")[0]
    cross = f"{machine}-linux-gnu-gcc"
    return cross if machine != os.uname().machine and shutil.which(cross) else "cc"


ordered = sorted(linked)
bom = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "version": 1,
    "metadata": {
        "component": component(own),
        # With the commit, they decide the bytes of the programs.
        "properties": [
            {"name": "abukiks:target", "value": target},
            {"name": "abukiks:rustc", "value": first_line("rustc", "--version")},
            {"name": "abukiks:cc", "value": first_line(compiler(), "--version")},
        ],
    },
    "components": [component(package) for package in ordered if package != own],
    "dependencies": [{"ref": purl(package), "dependsOn": dependencies(package)} for package in ordered],
}
if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
    bom["metadata"]["timestamp"] = datetime.fromtimestamp(int(epoch), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
if image:
    container, files = contents(image)
    bom["components"] = [bom["metadata"]["component"], *bom["components"], *files]
    bom["dependencies"].append({"ref": container["bom-ref"], "dependsOn": [purl(own)]})
    bom["metadata"]["component"] = container
# The same content has the same number.
bom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom)).urn
json.dump(bom, sys.stdout, indent=2)
print()
