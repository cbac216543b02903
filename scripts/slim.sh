#!/usr/bin/env bash
# Takes out of .venv what no process of an image imports; Dockerfiles alone run it. The MB are of an image that has it.
# Usage: slim.sh [PACKAGE ...]     (packages that this image does without besides)
# What is left out here and loaded by a server all the same, tests/serving/test_imports.py finds; for the image of train
# a run in containers does (python -m pipelines run --containers).
set -euo pipefail
shopt -s extglob globstar nullglob
cd "$(dirname "$0")/../.venv"
leave_out() { rm -rf -- "$@"; } # what a package that is not there has is not missed

pushd lib/python3.*/site-packages >/dev/null
leave_out torch/{test,include} torch/bin/!(torch_shm_manager)    # torch's own tests, headers for a compiler, protoc: 190
leave_out mypy mypy-*.dist-info mypyc *__mypyc.*.so              # Feast asks for SQLAlchemy[mypy]: 53
leave_out pyarrow/{libarrow,libarrow_python,}_flight.*so*        # a server of tables: 32
leave_out pyarrow/libarrow_python*.so{,.*.*.*}                   # the same files under names that nobody loads: 8
leave_out pyarrow/{include,src}                                  # for a compiler: 6
leave_out feast/ui                                               # pages of Feast's own: 26
leave_out botocore/data/!(s3|sts|sso*|*.json)                    # descriptions of Amazon's other services: 25
leave_out **/tests                                               # of packages: 60
popd >/dev/null
bin/uv pip uninstall --quiet --python bin/python "$@" uv pip
