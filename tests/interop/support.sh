# What the interop scripts share; to be sourced from the repository's root. Every process that
# is started here is ended by its own pid, and every wait has an end.
# shellcheck shell=bash

scratch=$(mktemp -d "${TMPDIR:-/tmp}/wayleave-interop.XXXXXX")
declare -A pids=()

has() { command -v "$1" >/dev/null 2>&1; }

# Said at once and, by .ci/run, once more at its end.
skip() { printf 'SKIPPED: %s\n' "$1"; }

fail() {
  printf 'FAILED: %s\n' "$1" >&2
  local name
  for name in "${!pids[@]}"; do
    printf -- '--- the last lines of %s\n' "$name" >&2
    tail -n 15 "$scratch/$name.log" >&2
  done
  exit 1
}

# start NAME COMMAND...: runs it beside us, with its output in $scratch/NAME.log
start() {
  local name=$1
  shift
  "$@" >>"$scratch/$name.log" 2>&1 </dev/null &
  pids[$name]=$!
}

# stop NAME: ends it, by force when it does not listen
stop() {
  local pid=${pids[$1]:-}
  [ -n "$pid" ] || return 0
  unset "pids[$1]"
  kill -TERM "$pid" 2>/dev/null || return 0
  local tries
  for tries in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    [ "$tries" -lt 100 ] || kill -KILL "$pid" 2>/dev/null || true
    sleep 0.1
  done
  wait "$pid" 2>/dev/null || true
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds
wait_for() {
  local seconds=$1 what=$2 tries
  shift 2
  for tries in $(seq $((seconds * 5))); do
    if "$@" >/dev/null 2>&1; then
      return 0
    fi
    sleep 0.2
  done
  fail "gave up waiting for $what after $tries tries"
}

clean_up() {
  local status=$? name
  for name in "${!pids[@]}"; do
    stop "$name"
  done
  rm -rf "$scratch"
  exit "$status"
}
trap clean_up EXIT

# Sets $wayleave to the binary: that in WAYLEAVE, or a debug build.
build_wayleave() {
  wayleave=${WAYLEAVE:-}
  if [ -z "$wayleave" ]; then
    cargo build --locked --quiet -p wayleave-proxy
    wayleave="${CARGO_TARGET_DIR:-target}/debug/wayleave"
  fi
}

# write_config SOCKET UPSTREAM: a sidecar with the Workload API at SOCKET
write_config() {
  mkdir -p "$scratch/policies"
  cat >"$scratch/policies/all.cedar" <<POLICY
@id("all-may-call")
permit (principal, action, resource in Service::"app");
POLICY
  cat >"$scratch/wayleave.yaml" <<CONFIG
identity:
  workload_api: { endpoint: "unix://$1" }
policies: { paths: [policies] }
admin: { listen: "127.0.0.1:0" }
inbound:
  - name: app
    listen: 127.0.0.1:0
    service: app
    upstream: { address: "$2" }
CONFIG
}

# Waits until the sidecar is ready, and sets $inbound and $admin to where it listens.
wait_for_sidecar() {
  wait_for 40 "the sidecar to be ready" grep -q '"message":"ready"' "$scratch/sidecar.log"
  local line
  line=$(grep '"message":"ready"' "$scratch/sidecar.log")
  inbound=$(sed -n 's/.*"inbound":"\([^"]*\)".*/\1/p' <<<"$line")
  admin=$(sed -n 's/.*"admin":"\([^"]*\)".*/\1/p' <<<"$line")
}

# How many SVIDs the sidecar has received.
rotations() { grep -c 'identity received' "$scratch/sidecar.log" || true; }

rotated_since() { [ "$(rotations)" -gt "$1" ]; }

readiness_is() {
  [ "$(curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' "http://$admin/readyz")" = "$1" ]
}

# call CREDENTIALS [COUNT]: COUNT calls on one connection; their statuses, one a line
call() {
  curl --silent --max-time 20 --output /dev/null --write-out '%{http_code}\n' \
    --cacert "$scratch/bundle.pem" --cert "$scratch/$1" --key "$scratch/$1" \
    "https://localhost:${inbound##*:}/call/[1-${2:-1}]"
}

# expect STATUS CREDENTIALS WHEN
expect() {
  local status
  status=$(call "$2") || true
  [ "$status" = "$1" ] || fail "$2 $3 was answered with $status, not $1"
}

# Whether the handshake of CREDENTIALS fails.
refused() { [ "$(call "$1" || true)" = 000 ]; }

# What the upstream answers.
answered=200

# load SECONDS CREDENTIALS: calls without a pause, each of which must reach the upstream
load() {
  local ends statuses total=0
  ends=$(($(date +%s) + $1))
  while [ "$(date +%s)" -lt "$ends" ]; do
    statuses=$(call "$2" 20) || true
    [ "$(grep -cx "$answered" <<<"$statuses")" = 20 ] || fail "a call under load was lost: $statuses"
    total=$((total + 20))
  done
  printf '%d calls in %d s, all answered by the upstream\n' "$total" "$1"
}
