#!/usr/bin/env bash
# The tests of the floors that a product installs, with the oldest versions that pyproject.toml allows.
# PYTHON3 and VENV may be set. torch, ray and transformers stay out: their oldest versions are gigabytes.
#   bash deploy/lowest.sh                  the tests named below
#   bash deploy/lowest.sh tests/unit/edge  these
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON3=${PYTHON3:-python3}
VENV=${VENV:-.venv}
LOWEST=.venv-lowest
uv=$VENV/bin/uv

# Prompts need transformers' tokenizers, and packaged weights their package.
[ $# -gt 0 ] || set -- tests/unit/types tests/unit/router tests/unit/edge tests/unit/cloud tests/property \
  tests/integration/test_gateway_wire.py tests/integration/test_edge_sidecar.py \
  --ignore tests/unit/cloud/test_teacher_prompt.py --deselect tests/unit/cloud/test_teacher_spec.py

mkdir -p "$LOWEST"
"$VENV/bin/python" deploy/lowest.py sidecar prometheus otel certify cloud --without torch ray transformers > "$LOWEST/asked.txt"
"$uv" pip compile -q --python "$PYTHON3" --resolution lowest-direct "$LOWEST/asked.txt" -o "$LOWEST/lowest.txt"
"$uv" venv -q --allow-existing --python "$PYTHON3" "$LOWEST"
# What the tests themselves need comes as new as it is; it must not lift what is under test.
"$uv" pip install -q --python "$LOWEST" -r "$LOWEST/lowest.txt" -c "$LOWEST/lowest.txt" \
  pytest pytest-asyncio pytest-timeout hypothesis onnx
"$uv" pip install -q --python "$LOWEST" --no-deps -e .
"$LOWEST/bin/python" -m pytest -q -p no:cacheprovider "$@"
