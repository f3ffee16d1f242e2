"""What the scripts for CUDA machines say where there is no CUDA device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        *(
            (
                [sys.executable, f"gpu_bench_{operator}.py"],
                "perfkit: error: torch sees no CUDA device, and this is measured on one",
            )
            for operator in ("preprocess", "squeeze_excite")
        ),
        (["bash", "gpu_check.sh"], "gpu_check: torch sees no CUDA device"),
    ],
    ids=["bench of preprocessing", "bench of squeeze-excite", "check"],
)
def test_without_a_cuda_device_one_line_says_so_and_nothing_is_written(
    command: list[str], said: str, tmp_path: Path
) -> None:
    program, script = command
    done = subprocess.run(
        [program, str(SCRIPTS / script), "runs"],
        cwd=tmp_path,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHON": sys.executable,
            "PYTHONPATH": str(SCRIPTS.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said + "\n")
    assert not list(tmp_path.iterdir())
