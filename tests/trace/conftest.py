"""Traces of a tiny model on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.profiler import record_function

from perfkit.trace.capture import WARMUP_STEPS, capture

STEPS = 3


def _trace(path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    with capture(path, steps=STEPS, cuda=False) as profiler:
        for step in range(WARMUP_STEPS + STEPS):
            with record_function("perfkit.forward"):
                loss = model(torch.ones(2, 4)).sum()
            with record_function("perfkit.backward"):
                loss.backward()
            if step < WARMUP_STEPS:
                with record_function("perfkit.in_warmup"):
                    pass
            profiler.step()


@pytest.fixture(scope="session")
def captured(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two traces of three steps, as two ranks would write them."""
    folder = tmp_path_factory.mktemp("traces")
    paths = [folder / "rank0.json.gz", folder / "rank1.json.gz"]
    for path in paths:
        _trace(path)
    return paths
