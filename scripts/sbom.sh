#!/usr/bin/env bash
# The bill of materials (CycloneDX, JSON) of what is installed in .venv, as build/sbom.json. Needs no docker.
# The tool runs beside the environment that it describes and is no part of it. The same packages make the same file.
set -euo pipefail
cd "$(dirname "$0")/.."
version=7.5.0
mkdir -p build
# It warns that the project itself depends on nothing: it is not installed, its groups are.
PYTHONWARNINGS=ignore::UserWarning .venv/bin/uv tool run --quiet --constraints requirements.lock --from "cyclonedx-bom==$version" \
  cyclonedx-py environment --pyproject pyproject.toml --sv 1.6 --output-reproducible --output-file build/sbom.json.partial .venv
mv build/sbom.json.partial build/sbom.json
echo "wrote build/sbom.json"
