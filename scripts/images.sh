#!/usr/bin/env bash
# Builds the images `train`, `serve` and `gateway` with docker, podman or buildah. build/images.json has their digests, and
# build/IMAGE.cdx.json what each is made of (CycloneDX: Python's packages and Debian's).
# Usage: images.sh [train|serve|gateway ...]
#   TORCH=cuda       the train image for GPU nodes (default: cpu)
#   REGISTRY=...     prefix of the names (default: localhost)
#   TAG=...          their tag (default: the version where this commit is a release, else the commit)
#   PLATFORM=...     linux/amd64, linux/arm64 (default: this machine's)
#   BASE=...         another base image (default: the one that the Dockerfile pins by digest)
#   ENGINE=...       docker, podman or buildah (default: which of them works)
#   ENGINE_FLAGS=... more flags for its build command, such as --build-arg=PIP_INDEX_URL=...
set -euo pipefail
cd "$(dirname "$0")/.."
all=(train serve gateway)
targets=("$@"); ((${#targets[@]})) || targets=("${all[@]}")
for target in "${targets[@]}"; do
  [[ " ${all[*]} " == *" $target "* ]] || { echo "images: $target is no image, expected ${all[*]}" >&2; exit 2; }
done
registry=${REGISTRY:-localhost} torch=${TORCH:-cpu}
commit=$(git describe --always --dirty --abbrev=12 '--exclude=*')  # never a tag
tag=${TAG:-$(python3 pipelines/version.py --image)}
version=$(python3 pipelines/version.py)
base=${BASE:-$(sed -n 's/^ARG BASE=//p' k8s/images/Dockerfile)}

engine() {
  if docker info >/dev/null 2>&1; then echo docker; return; fi
  for found in podman buildah; do
    if command -v "$found" >/dev/null; then echo "$found"; return; fi
  done
  echo "images: no running docker, no podman and no buildah was found; install one of them (Debian: apt-get install buildah)" >&2
  return 2
}
engine=${ENGINE:-$(engine)}
[[ $engine =~ ^(docker|podman|buildah)$ ]] || { echo "images: ENGINE=$engine, expected docker, podman or buildah" >&2; exit 2; }

# Where an image comes from, in the words of the Open Container Initiative. Created is the commit's time, not this
# minute's: the same commit built again from the same layers is the same image.
labels=(revision="$commit" version="$version" created="$(git show --no-patch --format=%cI HEAD)" base.name="${base%@*}")
[[ $base != *@* ]] || labels+=(base.digest="${base#*@}")

build() { # TARGET NAME
  local flags=(--target "$1" --tag "$2" --file k8s/images/Dockerfile)
  flags+=(--build-arg "COMMIT=$commit" --build-arg "TORCH=$torch" --build-arg "BASE=$base")
  flags+=("${labels[@]/#/--label=org.opencontainers.image.}")
  [ -z "${PLATFORM:-}" ] || flags+=(--platform "$PLATFORM")
  # shellcheck disable=SC2206  # several flags in one variable are meant to be split
  flags+=(${ENGINE_FLAGS:-})
  case $engine in
    docker) docker build "${flags[@]}" . ;;
    podman) podman build --format docker --layers "${flags[@]}" . ;;
    buildah) buildah bud --format docker --layers "${flags[@]}" . ;;
  esac
}

digest() { # NAME: what a manifest pins, once the image is pushed under this name
  case $engine in
    docker) docker image inspect --format '{{.Id}}' "$1" ;;
    podman) podman image inspect --format '{{.Digest}}' "$1" ;;
    buildah) buildah inspect --type image --format '{{.FromImageDigest}}' "$1" ;;
  esac
}

bill() { # NAME: what the image is made of, as its own Python finds it
  local python=(python - "$1" "$version") container
  case $engine in
    docker | podman) "$engine" run --rm --interactive --network none "$1" "${python[@]}" <scripts/bill.py ;;
    buildah)
      container=$(buildah from --pull-never "$1")
      buildah run "$container" -- "${python[@]}" <scripts/bill.py || { buildah rm "$container" >/dev/null; return 1; }
      buildah rm "$container" >/dev/null
      ;;
  esac
}

mkdir -p build
rows=()
for target in "${all[@]}"; do
  if [[ " ${targets[*]} " != *" $target "* ]]; then # built earlier, if at all
    old=$(grep -o "\"$target\": {[^}]*}" build/images.json 2>/dev/null) && rows+=("  $old")
    continue
  fi
  suffix=; [ "$target" = train ] && [ "$torch" != cpu ] && suffix=-$torch
  name=$registry/heterrec-$target:$tag$suffix
  build "$target" "$name"
  bill "$name" >"build/$target.cdx.json.partial"
  mv "build/$target.cdx.json.partial" "build/$target.cdx.json"
  rows+=("  \"$target\": {\"name\": \"$name\", \"digest\": \"$(digest "$name")\", \"bill\": \"build/$target.cdx.json\"}")
done
printf '{\n%s\n}\n' "$(printf '%s,\n' "${rows[@]}" | sed '$ s/,$//')" >build/images.json
cat build/images.json
