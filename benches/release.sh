#!/usr/bin/env bash
# Builds target/release/wayleave twice: the first build is watched at its work, so that the second
# has what runs side by side, and less of it in memory (docs/performance.md, "Resident memory").
#
#   benches/release.sh
#
# Needs valgrind, and a linker that takes an order of symbols: LLD, which Rust brings for x86-64.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

if ! command -v valgrind >/dev/null; then
  echo "benches/release.sh: no valgrind (apt-get install valgrind); or build without a layout:" >&2
  echo "  cargo build --release -p wayleave-proxy" >&2
  exit 1
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
build() {
  # Both builds alike: the names in the list are those of this very command.
  cargo build --release --locked -p wayleave-proxy -p wayleave-benches
}

unset WAYLEAVE_LAYOUT
build
"$target/release/load" layout --out "$target/layout.txt"
WAYLEAVE_LAYOUT="$target/layout.txt" build

# The names of functions have hashes in them: a list of another build would order nothing.
listed=$(sort -u "$target/layout.txt" | wc -l)
found=$(nm --defined-only "$target/release/wayleave" | awk '{ print $NF }' | sort -u |
  comm -12 - <(sort -u "$target/layout.txt") | wc -l)
if [ $((found * 10)) -lt $((listed * 8)) ]; then
  echo "benches/release.sh: only $found of $listed functions of the list are in the binary" >&2
  exit 1
fi
echo "$target/release/wayleave: $found functions laid out"
