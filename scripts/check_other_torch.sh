#!/usr/bin/env bash
# The stable ABI's promise: the operators as they are built run under another torch. Needs
# `make build`, and an index that has that torch; says so and ends well where there is none.
# Usage: scripts/check_other_torch.sh [VERSION]
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-2.13.0}
venv=.venv/torch-$version
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)

test -x "$venv/bin/python" || .venv/bin/python -m venv "$venv"
if ! "${pip[@]}" "torch==$version"; then
    echo "check_other_torch: no torch $version to be had here; NOT CHECKED" >&2
    exit 0
fi
"${pip[@]}" -c constraints.txt numpy opencv-python-headless pydantic pytest
export PYTHONPATH=$PWD
"$venv/bin/python" - <<'END'
import torch
from perfkit.ops import build_info

print(f"operators built with torch {build_info().torch}, run by torch {torch.__version__}")
assert torch.__version__ != build_info().torch
END
# The emulation of the CUDA kernels knows nothing of torch.
"$venv/bin/python" -m pytest -q tests/ops --ignore-glob "*cuda_kernels.py"
