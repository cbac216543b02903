#!/usr/bin/env bash
# Builds the images `train` and `serve` with docker or buildah and writes their digests to build/images.json.
# Usage: images.sh [train|serve ...]
#   TORCH=cuda       the train image for GPU nodes (default: cpu)
#   REGISTRY=...     prefix of the names (default: localhost)
#   TAG=...          their tag (default: the version where this commit is a release, else the commit)
#   PLATFORM=...     linux/amd64, linux/arm64 (default: this machine's)
#   BASE=...         another base image (default: the one that the Dockerfile pins by digest)
#   ENGINE=...       docker or buildah (default: which of them works)
#   ENGINE_FLAGS=... more flags for its build command, such as --build-arg=PIP_INDEX_URL=...
set -euo pipefail
cd "$(dirname "$0")/.."
targets=("$@"); ((${#targets[@]})) || targets=(train serve)
for target in "${targets[@]}"; do
  [[ $target =~ ^(train|serve)$ ]] || { echo "images: $target is no image, expected train or serve" >&2; exit 2; }
done
registry=${REGISTRY:-localhost} torch=${TORCH:-cpu}
commit=$(git describe --always --dirty --abbrev=12 '--exclude=*')  # never a tag
tag=${TAG:-$(python3 pipelines/version.py --image)}

engine() {
  if docker info >/dev/null 2>&1; then echo docker; return; fi
  if command -v buildah >/dev/null; then echo buildah; return; fi
  echo "images: neither a running docker nor buildah was found; install one of them (Debian: apt-get install buildah)" >&2
  return 2
}
engine=${ENGINE:-$(engine)}

build() { # TARGET NAME
  local flags=(--target "$1" --tag "$2" --file k8s/images/Dockerfile --build-arg "COMMIT=$commit" --build-arg "TORCH=$torch")
  [ -z "${BASE:-}" ] || flags+=(--build-arg "BASE=$BASE")
  [ -z "${PLATFORM:-}" ] || flags+=(--platform "$PLATFORM")
  # shellcheck disable=SC2206  # several flags in one variable are meant to be split
  flags+=(${ENGINE_FLAGS:-})
  case $engine in
    docker) docker build "${flags[@]}" . ;;
    buildah) buildah bud --format docker --layers "${flags[@]}" . ;;
  esac
}

digest() { # NAME: what a manifest pins, once the image is pushed under this name
  case $engine in
    docker) docker image inspect --format '{{.Id}}' "$1" ;;
    buildah) buildah inspect --type image --format '{{.FromImageDigest}}' "$1" ;;
  esac
}

mkdir -p build
rows=()
for target in train serve; do
  if [[ " ${targets[*]} " != *" $target "* ]]; then # built earlier, if at all
    old=$(grep -o "\"$target\": {[^}]*}" build/images.json 2>/dev/null) && rows+=("  $old")
    continue
  fi
  suffix=; [ "$target" = train ] && [ "$torch" != cpu ] && suffix=-$torch
  name=$registry/heterrec-$target:$tag$suffix
  build "$target" "$name"
  rows+=("  \"$target\": {\"name\": \"$name\", \"digest\": \"$(digest "$name")\"}")
done
printf '{\n%s\n}\n' "$(printf '%s,\n' "${rows[@]}" | sed '$ s/,$//')" >build/images.json
cat build/images.json
