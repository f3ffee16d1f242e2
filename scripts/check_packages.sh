#!/usr/bin/env bash
# An sdist builds in a folder of its own, as a user's pip would build it; the wheel holds every
# library and runs. Needs `make build`, and what pip fetches to build with.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
pip=("$python" -m pip --quiet --disable-pip-version-check)

"$python" setup.py --quiet sdist --dist-dir "$folder"
cd "$folder"
"${pip[@]}" wheel --no-deps --wheel-dir wheels perfkit-*.tar.gz
"${pip[@]}" install --no-deps --target installed wheels/perfkit-*.whl
PYTHONPATH=$folder/installed "$python" -P - "$folder" <<'END'
import sys
from pathlib import Path

import perfkit
import torch
from perfkit.ops import build_info, clahe_gamma_median

assert Path(perfkit.__file__).is_relative_to(sys.argv[1]), perfkit.__file__
info = build_info()
assert info.commit is None, info
libraries = {path.name.partition(".")[0] for path in Path(perfkit.__file__).parent.glob("ops/*.so")}
expected = {"_native", "libperfkit_cpu"} | ({"libperfkit_cuda"} if info.cuda_toolkit else set())
assert libraries == expected, libraries
clahe_gamma_median(torch.zeros(2, 9, 7, 3, dtype=torch.uint8))
print(f"the wheel of the sdist holds {', '.join(sorted(libraries))} and runs")
END
