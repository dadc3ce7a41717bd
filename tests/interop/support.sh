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
