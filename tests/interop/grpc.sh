#!/usr/bin/env bash
# grpcio through a sidecar: a server that speaks h2c behind it, a client with an SVID before it.
# Every kind of call, deadlines, cancellation, metadata, statuses, large messages, many streams,
# health checks, denial by policy, and a server that is gone.
#
#   tests/interop/grpc.sh
#
# Skipped by name where Python or its packages are not to be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/interop/support.sh
. tests/interop/support.sh
# shellcheck source=tests/interop/sidecar.sh
. tests/interop/sidecar.sh

script=tests/interop/python/grpc_calls.py

# as NAME COMMAND [CODE]: calls the sidecar with the papers of NAME
as() {
  timeout 120 "$python" "$script" "$2" "${inbound##*:}" "$scratch/$1/svid.pem" \
    "$scratch/$1/key.pem" "$scratch/$1/bundle.pem" ${3:+"$3"} || fail "grpcio: $2 as $1"
}

if ! python_with tests/interop/python/conformance.txt; then
  skip "grpcio (no python3 with venv, or grpcio cannot be installed)"
  exit 0
fi
build_wayleave
make_papers
start server "$python" "$script" serve
wait_for 20 "the server's port" test -s "$scratch/server.log"
start_sidecar "127.0.0.1:$(head -n 1 "$scratch/server.log")" http2
as caller call
as stranger refused PERMISSION_DENIED
stop server
as caller refused UNAVAILABLE
