#!/usr/bin/env bash
# Checks all that is locked by deny.toml: licenses, sources, what is banned, and faults that are known. Then
# checks programs by the list of crates that they carry.
# usage: dev/audit.sh [PROGRAM...]
#
# The faults are those of the RustSec database, which is fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=$PATH:$(dev/tools.sh cargo-audit cargo-deny)

for crate in . admin/attached benches/rivals fuzz; do
    echo "$crate:"
    # What one lock file has no use for, another may have.
    cargo deny --locked --manifest-path "$crate/Cargo.toml" --config deny.toml check \
        --allow license-exception-not-encountered --allow unmatched-skip --allow unnecessary-skip
done
if (($#)); then
    cargo audit --deny warnings bin "$@"
fi
