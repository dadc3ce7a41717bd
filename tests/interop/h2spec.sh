#!/usr/bin/env bash
# h2spec, the conformance suite of HTTP/2 and HPACK, against the listener of a sidecar: every
# case passes or is listed with its reason in h2spec/allowed.txt.
#
#   tests/interop/h2spec.sh
#
# Skipped by name where Go or its modules are not to be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/interop/support.sh
. tests/interop/support.sh
# shellcheck source=tests/interop/sidecar.sh
. tests/interop/sidecar.sh

source=tests/interop/h2spec

if ! has go; then
  skip "h2spec (no go command)"
  exit 0
elif ! (cd "$source" && timeout 300 go mod download); then
  skip "h2spec (its modules cannot be downloaded)"
  exit 0
fi
(cd "$source" && timeout 300 go build -buildvcs=false -o "$scratch/h2spec" .)
build_wayleave
make_papers
start upstream "$scratch/h2spec" upstream
wait_for 10 "the upstream's address" test -s "$scratch/upstream.log"
start_sidecar "$(head -n 1 "$scratch/upstream.log")" http1
timeout 400 "$scratch/h2spec" run "${inbound##*:}" "$scratch/caller/svid.pem" \
  "$scratch/caller/key.pem" "$source/allowed.txt" >"$scratch/results.log" 2>&1 || {
  cat "$scratch/results.log"
  fail "h2spec"
}
grep '^h2spec: ' "$scratch/results.log"
