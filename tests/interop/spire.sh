#!/usr/bin/env bash
# A sidecar whose identity comes from a real SPIRE: server and agent of a pinned version, SVIDs
# that live for 20 seconds. The sidecar is attested by its binary's path, a caller by that of
# spire-agent; rotation under load, the agent's restart, a federated trust domain, and an entry
# that is deleted.
#
#   tests/interop/spire.sh
#
# spire-server and spire-agent are those that an earlier run has built (WAYLEAVE_SPIRE_BIN,
# ~/.cache/wayleave/spire-VERSION by default), or are built from the module that spire/go.mod
# pins: about eight minutes of CPU time the first time, given up after twenty. Where that is
# not possible, the script says so and why, and passes.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/interop/support.sh
. tests/interop/support.sh

module=github.com/spiffe/spire
version=$(sed -n "s#^require $module ##p" tests/interop/spire/go.mod)
lifetime=20
domain=shop.example
bin="${WAYLEAVE_SPIRE_BIN:-$HOME/.cache/wayleave/spire-$version}"
server_socket="$scratch/server.sock"
agent_socket="$scratch/agent.sock"

# Says why there is no SPIRE, with the end of a log where there is one, and passes.
without_spire() {
  local log="$scratch/$2.log"
  skip "SPIRE $version ($1$([ ! -s "$log" ] || tail -n 2 "$log" | tr '\n\t' '  '))"
  exit 0
}

# Not by `go install MODULE@VERSION`: that asks for the list of all versions, which not every
# proxy has, and ignores the go.sum that pins what SPIRE is made of.
build_spire() {
  has go || without_spire "no go command" none
  has cc || without_spire "no C compiler, which its SQLite needs" none
  (cd tests/interop/spire && timeout 300 go mod download "$module") >"$scratch/download.log" 2>&1 ||
    without_spire "its module cannot be downloaded: " download
  local source
  source=$(cd tests/interop/spire && go list -m -f '{{.Dir}}' "$module")
  # The module cache is read-only; what is built is a copy, by its own go.mod and go.sum.
  cp -R "$source" "$scratch/spire"
  chmod -R u+w "$scratch/spire"
  mkdir -p "$bin"
  (cd "$scratch/spire" && CGO_ENABLED=1 timeout 1200 nice -n 5 go build -buildvcs=false \
    -o "$bin/" ./cmd/spire-server ./cmd/spire-agent) >"$scratch/build.log" 2>&1 ||
    without_spire "it cannot be built, or not within 20 minutes: " build
}

spire() {
  skip "SPIRE $version ($1)"
  exit 0
}

find_spire() {
  if has spire-server && has spire-agent; then
    bin=$(dirname "$(command -v spire-server)")
    [ "$(dirname "$(command -v spire-agent)")" = "$bin" ] && return
  fi
  if [ -x "$bin/spire-server" ] && [ -x "$bin/spire-agent" ]; then
    return
  fi
  has go || without_spire "no spire-server on the PATH, and no go command to build it"
  local module=github.com/spiffe/spire log="$scratch/install.log"
  # One cheap question first: a proxy that does not have it answers at once.
  timeout 120 go list -m "$module@$version" >"$log" 2>&1 ||
    without_spire "the module proxy does not give it: $(tr '\n\t' '  ' <"$log")"
  mkdir -p "$bin"
  GOBIN="$bin" CGO_ENABLED=1 timeout 720 nice -n 5 go install \
    "$module/cmd/spire-server@$version" "$module/cmd/spire-agent@$version" >"$log" 2>&1 ||
    without_spire "\`go install\` failed or took more than 12 minutes: $(tail -n 3 "$log" | tr '\n\t' '  ')"
}

spire() {
  local command=$1
  shift
  "$bin/spire-server" "$command" "$@" -socketPath "$server_socket"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start_server() {
  port=$(free_port)
  cat >"$scratch/server.conf" <<CONF
server {
  bind_address = "127.0.0.1"
  bind_port = "$port"
  socket_path = "$server_socket"
  trust_domain = "$domain"
  data_dir = "$scratch/server"
  log_level = "INFO"
  ca_ttl = "10m"
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "$scratch/server/datastore.sqlite3"
    }
  }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
CONF
  mkdir -p "$scratch/server" "$scratch/agent"
  start spire-server "$bin/spire-server" run -config "$scratch/server.conf"
  wait_for 60 "spire-server to be healthy" spire healthcheck
  spire bundle show >"$scratch/bootstrap.pem"
  cat >"$scratch/agent.conf" <<CONF
agent {
  data_dir = "$scratch/agent"
  log_level = "INFO"
  server_address = "127.0.0.1"
  server_port = "$port"
  socket_path = "$agent_socket"
  trust_bundle_path = "$scratch/bootstrap.pem"
  trust_domain = "$domain"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "$scratch/agent" } }
  WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
CONF
}

# start_agent [JOIN-TOKEN]: after the first time the agent has an SVID of its own on disk
start_agent() {
  local token=()
  [ "$#" -eq 0 ] || token=(-joinToken "$1")
  start spire-agent "$bin/spire-agent" run -config "$scratch/agent.conf" ${token[@]+"${token[@]}"}
  wait_for 60 "spire-agent to be healthy" "$bin/spire-agent" healthcheck -socketPath "$agent_socket"
}

# entry NAME BINARY ARGUMENT...: what an agent's workload with this binary is to be; prints its ID
entry() {
  local name=$1 binary=$2
  shift 2
  spire entry create -parentID "spiffe://$domain/node" -spiffeID "spiffe://$domain/$name" \
    -selector "unix:path:$(realpath "$binary")" -x509SVIDTTL "$lifetime" "$@" |
    sed -n 's/^Entry ID *: *//p'
}

# A trust domain that SPIRE knows by its bundle alone.
make_partner() {
  "$wayleave" ca init --dir "$scratch/partner" --trust-domain partner.example >/dev/null
  "$wayleave" ca issue --dir "$scratch/partner" --id spiffe://partner.example/caller \
    --out "$scratch/partner-svid" >/dev/null
  cat "$scratch/partner-svid/svid.pem" "$scratch/partner-svid/key.pem" >"$scratch/partner.pem"
  spire bundle set -id spiffe://partner.example -format pem -path "$scratch/partner-svid/bundle.pem" >/dev/null
}

# The caller's SVID, as SPIRE's own client writes it; what curl verifies the sidecar with beside.
fetch_caller() {
  mkdir -p "$scratch/fetched"
  "$bin/spire-agent" api fetch x509 -socketPath "$agent_socket" -timeout 10s -silent \
    -write "$scratch/fetched" >/dev/null &&
    cat "$scratch/fetched/svid.0.pem" "$scratch/fetched/svid.0.key" >"$scratch/caller.pem" &&
    cp "$scratch/fetched/bundle.0.pem" "$scratch/bundle.pem"
}

start_all() {
  start_server
  local token
  token=$(spire token generate -spiffeID "spiffe://$domain/node" | sed -n 's/^Token: *//p')
  make_partner
  sidecar_entry=$(entry sidecar "$wayleave" -dns localhost -federatesWith spiffe://partner.example)
  entry caller "$bin/spire-agent" >/dev/null
  [ -n "$sidecar_entry" ] || fail "spire-server did not tell the entry's ID"
  start_agent "$token"
  start upstream python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$scratch/policies"
  wait_for 20 "the upstream" grep -q 'port [0-9]' "$scratch/upstream.log"
  upstream=$(sed -n 's/.* port \([0-9]*\).*/127.0.0.1:\1/p' "$scratch/upstream.log")
  write_config "$agent_socket" "$upstream"
  start sidecar "$wayleave" run --config "$scratch/wayleave.yaml"
  wait_for_sidecar
  wait_for 60 "the caller's SVID" fetch_caller
}

# Every path is missing in the upstream's folder: 404 is its answer to a call that was allowed.
answered=404

rotation_under_load() {
  local before ends
  before=$(rotations)
  ends=$(($(date +%s) + lifetime * 3 / 2))
  while [ "$(date +%s)" -lt "$ends" ]; do
    fetch_caller || fail "spire-agent gave the caller no SVID"
    load 3 caller.pem
  done
  [ $(($(rotations) - before)) -ge 2 ] || fail "the SVID was not rotated under load"
}

agent_restart() {
  local before
  before=$(rotations)
  stop spire-agent
  expect "$answered" caller.pem "while the agent is away"
  start_agent
  wait_for $((lifetime * 2)) "a rotation after the agent's restart" rotated_since "$before"
  wait_for 30 "the caller's SVID after the agent's restart" fetch_caller
  expect "$answered" caller.pem "after the agent's restart"
}

federation() {
  expect "$answered" partner.pem "of a federated trust domain"
}

deleted_entry() {
  spire entry delete -entryID "$sidecar_entry" >/dev/null
  wait_for 60 "readiness to be false without an entry" readiness_is 503
  refused caller.pem || fail "a sidecar without identity answered"
}

has curl && has python3 || without_spire "no curl or no python3 command" none
[ -x "$bin/spire-server" ] && [ -x "$bin/spire-agent" ] || build_spire
build_wayleave
mkdir -p "$scratch/policies"
start_all
for check in rotation_under_load agent_restart federation deleted_entry; do
  began_at=$(date +%s)
  "$check"
  printf 'SPIRE %s: %s, %d s\n' "$version" "$check" $(($(date +%s) - began_at))
done
