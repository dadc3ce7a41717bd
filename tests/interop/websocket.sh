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
# How often all cases are run at the most, while the script exits with this code.
again=3
run_again=3
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

# One meeting of the client and the cases; sets $status to what the judge of them exits with
meet_a_client() {
  rm -f "$scratch/cases.log"
  serve cases
  start_sidecar "127.0.0.1:${ports[1]}" http1
  timeout 240 "$python" "$script" client "${ports[0]}" "${inbound##*:}" "${papers[@]}" ||
    fail "the client that meets the cases"
  status=0
  wait "${pids[cases]}" || status=$?
  unset "pids[cases]"
  stop sidecar
  grep '^websocket: ' "$scratch/cases.log"
}

against_a_client() {
  local tries
  for tries in $(seq "$again"); do
    meet_a_client
    [ "$status" -eq "$run_again" ] || break
    echo "websocket: $tries of $again: the verdicts hang on timing"
  done
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
