#!/usr/bin/env bash
# A sidecar with `identity.workload_api` against an agent made with grpc-go and go-spiffe's
# messages, the stack of SPIRE's agent, with intermediates and SVIDs that live for seconds:
# rotation under load, the agent's restart, a federated trust domain, revocation, and an entry
# that is deleted and created again.
#
#   tests/interop/workload-api.sh
#
# Skipped by name where Go, its modules or curl are not to be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/interop/support.sh
. tests/interop/support.sh

lifetime=8

start_agent() {
  start agent "$scratch/interop" agent "$scratch/agent.sock" "$scratch" "${lifetime}s"
  wait_for 20 "the agent's first SVIDs" test -s "$scratch/bundle.pem"
}

start_sidecar() {
  start upstream "$scratch/interop" upstream
  wait_for 10 "the upstream's address" test -s "$scratch/upstream.log"
  write_config "$scratch/agent.sock" "$(head -n 1 "$scratch/upstream.log")"
  start sidecar "$wayleave" run --config "$scratch/wayleave.yaml"
  wait_for_sidecar
}

rotation_under_load() {
  local before
  before=$(rotations)
  load $((lifetime * 2)) caller.pem
  [ $(($(rotations) - before)) -ge 3 ] || fail "the SVID was not rotated under load"
}

agent_restart() {
  stop agent
  expect 200 caller.pem "while the agent is away"
  local before
  before=$(rotations)
  start_agent
  wait_for 20 "a rotation after the agent's restart" rotated_since "$before"
  expect 200 caller.pem "after the agent's restart"
}

federation() {
  expect 200 partner.pem "of a federated trust domain"
}

revocation() {
  expect 200 revoked.pem "before its revocation"
  kill -HUP "${pids[agent]}"
  wait_for 10 "the revoked SVID to be refused" refused revoked.pem
  expect 200 caller.pem "beside a revoked one"
}

deleted_entry() {
  kill -USR1 "${pids[agent]}"
  wait_for 20 "readiness to be false without an entry" readiness_is 503
  refused caller.pem || fail "a sidecar without identity answered"
  kill -USR2 "${pids[agent]}"
  wait_for 60 "readiness with an entry again" readiness_is 200
  expect 200 caller.pem "with an entry again"
}

expiry() {
  stop agent
  wait_for $((lifetime * 3)) "readiness to be false with an expired SVID" readiness_is 503
  refused caller.pem || fail "a sidecar with an expired SVID answered"
}

if ! has go || ! has curl; then
  skip "grpc-go agent (no go or no curl command)"
elif ! (cd tests/interop/go && timeout 300 go mod download); then
  skip "grpc-go agent (its modules cannot be downloaded)"
else
  (cd tests/interop/go && timeout 300 go build -buildvcs=false -o "$scratch/interop" .)
  build_wayleave
  start_agent
  start_sidecar
  for check in rotation_under_load agent_restart federation revocation deleted_entry expiry; do
    began_at=$(date +%s)
    "$check"
    printf 'grpc-go agent: %s, %d s\n' "$check" $(($(date +%s) - began_at))
  done
fi
