#!/usr/bin/env bash
# Checks all locked dependencies by deny.toml: licenses, sources, banned crates, known vulnerabilities. Then
# checks programs by the list of crates in them.
# usage: dev/audit.sh [PROGRAM...]
#
# It fetches the vulnerabilities from the RustSec database.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=$PATH:$(dev/tools.sh cargo-audit cargo-deny)

for crate in . admin/attached benches/rivals fuzz; do
    echo "$crate:"
    # Each lock file uses only some of the exceptions.
    cargo deny --locked --manifest-path "$crate/Cargo.toml" --config deny.toml check \
        --allow license-exception-not-encountered --allow unmatched-skip --allow unnecessary-skip
done
if (($#)); then
    cargo audit --deny warnings bin "$@"
fi
