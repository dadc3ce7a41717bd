# A sidecar with papers from `wayleave ca`, for the conformance scripts; to be sourced after
# support.sh.
# shellcheck shell=bash

domain=conformance.example

# make_papers: a CA, and SVIDs in $scratch/app (the sidecar's), $scratch/caller and
# $scratch/stranger, whom the policy does not know
make_papers() {
  local name
  "$wayleave" ca init --dir "$scratch/ca" --trust-domain "$domain" --lifetime 2h >/dev/null
  for name in app caller stranger; do
    "$wayleave" ca issue --dir "$scratch/ca" --id "spiffe://$domain/ns/default/sa/$name" \
      --dns localhost --ip 127.0.0.1 --out "$scratch/$name" >/dev/null
  done
}

# start_sidecar UPSTREAM PROTOCOL: the caller may call whatever it likes but what the path
# forbids; sets $inbound and $admin
start_sidecar() {
  mkdir -p "$scratch/policies"
  cat >"$scratch/policies/main.cedar" <<POLICY
@id("caller-may-call")
permit (
  principal == Workload::"spiffe://$domain/ns/default/sa/caller",
  action,
  resource is Endpoint in Service::"app"
) unless { resource.path like "/forbidden*" };
POLICY
  cat >"$scratch/wayleave.yaml" <<CONFIG
identity:
  files: { svid: app/svid.pem, key: app/key.pem, bundle: app/bundle.pem }
policies: { paths: [policies] }
admin: { listen: "127.0.0.1:0" }
log: { decisions: stdout }
inbound:
  - name: app
    listen: 127.0.0.1:0
    service: app
    upstream: { address: "$1", protocol: $2 }
CONFIG
  : >"$scratch/sidecar.log"
  start sidecar "$wayleave" run --config "$scratch/wayleave.yaml"
  wait_for_sidecar
}

# python_with REQUIREMENTS: sets $python to a Python that has the packages of that file. The
# folder of its environment is kept, and made anew when the file changes.
python_with() {
  local folder
  has python3 || return 1
  folder="${WAYLEAVE_PYTHON:-$HOME/.cache/wayleave/python}-$(sha256sum "$1" | cut -c1-12)"
  python="$folder/bin/python"
  [ -e "$folder/complete" ] && return
  rm -rf "$folder"
  python3 -m venv "$folder" >"$scratch/venv.log" 2>&1 || return 1
  timeout 400 "$folder/bin/pip" install --quiet --disable-pip-version-check \
    --requirement "$1" >>"$scratch/venv.log" 2>&1 || return 1
  touch "$folder/complete"
}
