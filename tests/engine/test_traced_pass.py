"""The traced pass of two ranks of which Nsight Systems watches one."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, cast

from ranks import on_two_ranks

from perfkit.core.annotate import annotate
from perfkit.engine.cell import RankCell
from perfkit.engine.traced_pass import traced_pass
from perfkit.strategies.base import Mesh
from perfkit.trace.capture import WARMUP_STEPS, capture


class StubCell:
    """Steps that do nothing."""

    range_names = ("forward",)

    def trace(self, path: Path, steps: int) -> list[float]:
        with capture(path, steps=steps, cuda=False) as captured:
            for _ in range(WARMUP_STEPS + steps):
                with annotate("forward"):
                    pass
                captured.step()
        return [0.25] * steps


def trace(mesh: Mesh, folder: Path) -> dict[str, Any] | None:
    if mesh.rank == 0:
        os.environ["NSYS_PROFILING_SESSION_ID"] = "4711"
    traces = traced_pass(cast(RankCell, StubCell()), mesh, folder, 2)
    return None if traces is None else traces.model_dump()


def test_a_rank_under_nsys_leaves_no_trace_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    traces, at_rank_1 = on_two_ranks(partial(trace, folder=run), tmp_path)
    assert at_rank_1 is None
    assert traces["step_s"] == [0.25, 0.25]
    files = {"traces/rank1.json.gz": 1, "traces/merged.json.gz": None}
    assert {file["path"]: file["rank"] for file in traces["files"]} == files
    assert all(file["steps"] == 2 for file in traces["files"])
    assert {path.relative_to(run).as_posix() for path in run.glob("traces/*")} == set(files)
