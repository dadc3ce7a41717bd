#!/usr/bin/env bash
# Builds target/release/wayleave, and the load test beside it, as they are released: trained and
# laid out (docs/performance.md, "The released binary").
#
#   benches/release.sh          all of it, some 15 minutes on two cores
#   benches/release.sh --again  by the profile and the layout of the last time
#
# 1. A build that counts where it goes (`-Cprofile-generate`) does what a sidecar commonly does.
# 2. A build by those counts (`-Cprofile-use`) is watched at the same work under callgrind.
# 3. It is linked anew, so that what runs is side by side, and less of it in memory.
#
# Needs llvm-tools (a rustup component), valgrind, and a linker that takes an order of symbols: LLD,
# which Rust brings for x86-64.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

fail() {
  printf 'benches/release.sh: %s\n' "$@" >&2
  exit 1
}

again=no
case "$*" in
  "") ;;
  --again) again=yes ;;
  *) fail "it takes --again or nothing, and not \`$*\`" ;;
esac

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# With a target named, flags are for what is built and not for what helps to build it.
built="$target/$host/release"
tuned="$target/tuned"
layout="$tuned/layout.txt"
profdata="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"

# What names of functions are made of must be alike in all builds: they are this very command.
build() {
  CARGO_ENCODED_RUSTFLAGS="${flags:+$flags$'\x1f'}$1" \
    cargo build --release --locked --target "$host" -p wayleave-proxy -p wayleave-benches
}

# Flags of the caller's stay.
flags="${CARGO_ENCODED_RUSTFLAGS-}"
if [ -z "$flags" ] && [ -n "${RUSTFLAGS-}" ]; then
  read -ra words <<<"$RUSTFLAGS"
  flags=$(IFS=$'\x1f'; printf '%s' "${words[*]}")
fi
unset RUSTFLAGS WAYLEAVE_LAYOUT

if [ "$again" = no ]; then
  plain="or build without: cargo build --release -p wayleave-proxy"
  [ -x "$profdata" ] || fail "no llvm-profdata: rustup component add llvm-tools" "$plain"
  command -v valgrind >/dev/null || fail "no valgrind: apt-get install valgrind" "$plain"
  rm -rf "$tuned"
  build -Cprofile-generate
  # This program counts as well, and nobody asks what it does itself.
  LLVM_PROFILE_FILE=/dev/null "$built/load" train --out "$tuned/counts"
  "$profdata" merge --output "$tuned/merged" "$tuned"/counts/*.profraw
  # By its content, so that another profile is another command to cargo.
  mv "$tuned/merged" "$tuned/$(sha256sum "$tuned/merged" | cut -c 1-16).profdata"
  rm -rf "$tuned/counts"
fi

profiles=("$tuned"/*.profdata)
[ -f "${profiles[0]}" ] || fail "there is no profile in $tuned: run it without --again"
export WAYLEAVE_TRAINED=yes
by_profile="-Cprofile-use=${profiles[0]}"
if [ "$again" = no ]; then
  build "$by_profile"
  "$built/load" layout --out "$layout"
fi
WAYLEAVE_LAYOUT="$layout" build "$by_profile"

if [ "$again" = no ]; then
  # The names of functions have hashes in them: a list of another build would order nothing.
  listed=$(sort -u "$layout" | wc -l)
  found=$(nm --defined-only "$built/wayleave" | awk '{ print $NF }' | sort -u |
    comm -12 - <(sort -u "$layout") | wc -l)
  [ $((found * 10)) -ge $((listed * 8)) ] ||
    fail "only $found of $listed functions of the list are in the binary"
fi
mkdir -p "$target/release"
install -m 0755 "$built/wayleave" "$built/load" "$target/release/"
echo "$target/release/wayleave: trained and laid out"
