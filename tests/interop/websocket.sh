#!/usr/bin/env bash
# The Autobahn cases for WebSocket through a sidecar, both ways round: against an echo server
# behind it and against a client before it. Every case must end as it does without the sidecar.
#
#   tests/interop/websocket.sh
#
# Skipped by name where Python or its packages are not to be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/interop/support.sh
. tests/interop/support.sh
# shellcheck source=tests/interop/sidecar.sh
. tests/interop/sidecar.sh

script=tests/interop/python/websocket.py
papers=("$scratch/caller/svid.pem" "$scratch/caller/key.pem" "$scratch/app/bundle.pem")

# serve NAME: one of the script's servers; sets $ports
serve() {
  start "$1" "$python" "$script" "$1"
  wait_for 20 "the port of $1" test -s "$scratch/$1.log"
  read -ra ports < <(head -n 1 "$scratch/$1.log")
}

against_a_server() {
  serve echo
  start_sidecar "127.0.0.1:${ports[0]}" http1
  timeout 240 "$python" "$script" fuzz "${ports[0]}" "${inbound##*:}" "${papers[@]}" ||
    fail "the cases against a server"
  stop sidecar
}

against_a_client() {
  serve cases
  start_sidecar "127.0.0.1:${ports[1]}" http1
  timeout 240 "$python" "$script" client "${ports[0]}" "${inbound##*:}" "${papers[@]}" ||
    fail "the client that meets the cases"
  local status=0
  wait "${pids[cases]}" || status=$?
  unset "pids[cases]"
  grep '^websocket: ' "$scratch/cases.log"
  [ "$status" -eq 0 ] || fail "the cases against a client"
}

if ! python_with tests/interop/python/conformance.txt; then
  skip "Autobahn cases (no python3 with venv, or kosoku and websockets cannot be installed)"
  exit 0
fi
build_wayleave
make_papers
against_a_server
against_a_client
