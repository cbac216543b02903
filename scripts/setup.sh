#!/usr/bin/env bash
# Makes .venv from requirements.lock. Needs CPython 3.11 or 3.12 and nothing else; does nothing when it is up to date.
# Usage: setup.sh [GROUP ...]     (default: every group of pyproject.toml that a laptop needs)
set -euo pipefail
cd "$(dirname "$0")/.."
groups=("$@"); ((${#groups[@]})) || groups=(train serve gateway dev)
torch=2.13.0 uv=0.13.9

stamp=$(cat requirements.lock pyproject.toml scripts/setup.sh <(echo "${groups[@]}") | cksum)
[ "$(cat .venv/.stamp 2>/dev/null || true)" = "$stamp" ] && exit 0

find_python() {
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3 python; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && { echo "$candidate"; return; }
  done
  echo "setup: CPython 3.11 or 3.12 is needed and was not found on PATH. Install it, or name it: PYTHON=/path/to/python3.11 make run" >&2
  return 2
}
python=$(find_python)
echo "setup: making .venv with $("$python" --version) (groups: ${groups[*]})"
rm -f .venv/.stamp
"$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install "uv==$uv"

# torch first, and on its own: the default build for Linux brings several GB of CUDA libraries. Without a GPU, take
# (HETERREC_TORCH=cpu|cuda|none decides otherwise) a CPU build: a wheel that is at hand, else PyTorch's CPU index, else whatever the default index has.
gpu() { if nvidia-smi >/dev/null 2>&1; then echo cuda; else echo cpu; fi; }
install_torch() {
  .venv/bin/python -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$torch')" 2>/dev/null && return
  if [ "${HETERREC_TORCH:-$(gpu)}" = cuda ]; then
    "${pip[@]}" install "torch==$torch"
    # A CPU wheel of the same version that pip finds beside the index counts as newer.
    .venv/bin/python -c "import torch, sys; sys.exit(not torch.version.cuda)" && return
    echo "setup: a torch for CUDA was asked for and pip found one for CPUs. Take that wheel out of PIP_FIND_LINKS and the indexes" >&2
    return 2
  fi
  "${pip[@]}" install --no-deps --no-index "torch==$torch" 2>/dev/null && return
  "${pip[@]}" --retries 1 --timeout 15 install --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$torch" 2>/dev/null && return
  echo "setup: no CPU build of torch within reach, taking the default one (large)" >&2
  "${pip[@]}" install "torch==$torch"
}
[ "${HETERREC_TORCH:-}" = none ] || install_torch

# pip's own certificate setting holds for uv too, so that both work behind the same company proxy.
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
.venv/bin/uv pip install --quiet --python .venv/bin/python --constraints requirements.lock "${groups[@]/#/--group=}"
# All commands in one program, from any folder.
cat >.venv/bin/heterrec <<END
#!/bin/sh
GX_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1 FEAST_USAGE=False PYTHONPATH="$PWD" \\
  exec "$PWD/.venv/bin/python" -m pipelines.program "\$@"
END
chmod +x .venv/bin/heterrec
echo "$stamp" >.venv/.stamp
echo "setup: done in ${SECONDS} s"
