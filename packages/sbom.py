#!/usr/bin/env python3
"""Lists what the programs are made of, as CycloneDX in JSON: each crate that is linked into them, with the
checksum that Cargo.lock holds.

usage: packages/sbom.py TARGET [CRATE]   TARGET as rustc names it, CRATE the folder of another crate of this tree
"""

import json
import os
import subprocess
import sys
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

if len(sys.argv) not in (2, 3):
    sys.exit("usage: packages/sbom.py TARGET [CRATE]")
target = sys.argv[1]
os.chdir(Path(__file__).parent.parent)
os.chdir(sys.argv[2] if len(sys.argv) == 3 else ".")

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


def said(*command):
    return subprocess.check_output(command, text=True).splitlines()[0]


ordered = sorted(linked)
bom = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "version": 1,
    "metadata": {
        "component": component(own),
        # What decides over the bytes of the programs, beside the commit.
        "properties": [
            {"name": "abukiks:target", "value": target},
            {"name": "abukiks:rustc", "value": said("rustc", "--version")},
            {"name": "abukiks:cc", "value": said("cc", "--version")},
        ],
    },
    "components": [component(package) for package in ordered if package != own],
    "dependencies": [{"ref": purl(package), "dependsOn": dependencies(package)} for package in ordered],
}
if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
    bom["metadata"]["timestamp"] = datetime.fromtimestamp(int(epoch), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
# The same content has the same number.
bom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom)).urn
json.dump(bom, sys.stdout, indent=2)
print()
