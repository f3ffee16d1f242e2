"""Trainings as a user starts them, and as one rank in the test's own process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from perfkit import train
from perfkit.core import cli
from perfkit.launch.detect import Place

SUPPORT = Path(__file__).parent
COMMAND = (sys.executable, "-m", "perfkit.train")
LIMIT_S = 240


def start(*flags: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """Start ``perfkit train``; the environment also has ``variables``."""
    return subprocess.Popen(
        (*COMMAND, *flags),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SUPPORT), "COLUMNS": "120", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a process that is to end by itself."""
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


def train_here(*flags: str) -> int:
    """Train as the only rank of a launcher in this process and folder; return the exit code."""
    return rank_here(train, *flags)


def rank_here(command: ModuleType, *flags: str) -> int:
    """Be the only rank of a run of ``command`` in this process and folder; return the exit code."""
    place = Place("torchrun", 0, 1, 0, 1, "127.0.0.1", 0)

    def be_rank(_: Any) -> int:
        command._be_rank(command.parse(flags), place)
        return 0

    with restored_settings():
        os.environ["PYTHONPATH"] = str(SUPPORT)  # for processes that the rank starts
        return cli.run(be_rank)


@contextmanager
def restored_settings() -> Iterator[None]:
    """Put back what a rank sets for its whole process."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    float32 = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    precisions = [backend.fp32_precision for backend in float32]
    variables = dict(os.environ)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = fill
        for backend, precision in zip(float32, precisions, strict=True):
            backend.fp32_precision = precision
        os.environ.clear()
        os.environ.update(variables)


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    """Return what a checkpoint holds, by the path to it: equal where the trainings are."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return {name: value.tolist() if torch.is_tensor(value) else value}
    return {k: v for key, part in parts for k, v in flattened(part, f"{name}.{key}").items()}
