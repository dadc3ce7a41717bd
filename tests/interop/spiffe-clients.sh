#!/usr/bin/env bash
# Other people's SPIFFE clients against the Workload API of `wayleave dev`: go-spiffe and the
# PyPI package `spiffe` each fetch an X509-SVID and its bundle, and call through the sidecar.
#
#   tests/interop/spiffe-clients.sh
#
# What cannot be had here (Go, Python, their packages) is skipped by name. Needs the network
# for the packages, once. WAYLEAVE names another binary than that of a debug build.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/interop/support.sh
. tests/interop/support.sh

own=spiffe://dev.wayleave/ns/default/sa/agent
sidecar=spiffe://dev.wayleave/ns/default/sa/sidecar
path=/orders/7

start_dev() {
  start dev "$wayleave" dev --listen 127.0.0.1:0 --admin 127.0.0.1:0 --dir "$scratch/dev"
  wait_for 30 "the banner of wayleave dev" grep -q '^ *curl ' "$scratch/dev.log"
  port=$(sed -n 's#.*https://localhost:\([0-9]*\)/.*#\1#p' "$scratch/dev.log" | head -n 1)
  endpoint="unix://$scratch/dev/svids/agent/workload.sock"
}

go_client() {
  if ! has go; then
    skip "go-spiffe (no go command)"
  elif ! (cd tests/interop/go && timeout 300 go mod download); then
    skip "go-spiffe (its modules cannot be downloaded)"
  else
    (cd tests/interop/go && timeout 300 go build -buildvcs=false -o "$scratch/interop" .)
    "$scratch/interop" client "$endpoint" "$own" "$sidecar" "https://localhost:$port$path"
  fi
}

python_client() {
  local venv="$scratch/venv"
  if ! has python3 || ! python3 -m venv "$venv" >"$scratch/venv.log" 2>&1; then
    skip "spiffe from PyPI (no python3 with venv)"
  elif ! timeout 400 "$venv/bin/pip" install --quiet --disable-pip-version-check \
    --requirement tests/interop/python/requirements.txt; then
    skip "spiffe from PyPI (its packages cannot be installed)"
  else
    "$venv/bin/python" tests/interop/python/call.py \
      "$endpoint" "$own" "$sidecar" localhost "$port" "$path"
  fi
}

build_wayleave
start_dev
go_client
python_client
