"""The traced pass: a few steps under the profiler, one trace a rank, and all of them merged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfkit.core.annotate import PREFIX
from perfkit.core.trace_summary import TraceFile, Traces
from perfkit.engine.cell import RankCell
from perfkit.engine.group import gather
from perfkit.strategies.base import Mesh
from perfkit.trace.clock_sync import ClockOffset, measure_clock_offset
from perfkit.trace.merge import TracePart, merge_traces
from perfkit.trace.nsight import under_nsys
from perfkit.trace.validate import validate_trace

MERGED_NAME = "merged.json.gz"


def traced_pass(cell: RankCell, mesh: Mesh, folder: Path, steps: int) -> Traces | None:
    """Trace ``steps`` steps of every rank into ``folder/traces``; the summary at rank 0.

    A rank under Nsight Systems takes the steps and leaves no file: Nsight has its trace.

    Raises PerfkitError if a trace lacks a step, a rank, a range or, on a GPU, its kernels.
    """
    path = trace_path(folder, mesh)
    step_s = cell.trace(path, steps)
    return join_traces(path, mesh, folder, step_s, cell.range_names)


def trace_path(folder: Path, mesh: Mesh) -> Path:
    """Return where this rank's trace goes, in a folder that exists if one will be written."""
    traces = folder / "traces"
    if not under_nsys(os.environ):
        traces.mkdir(exist_ok=True)
    return traces / f"rank{mesh.rank}.json.gz"


def join_traces(
    path: Path, mesh: Mesh, folder: Path, step_s: Sequence[float], ranges: Sequence[str]
) -> Traces | None:
    """Merge the traces of all ranks and check them; the summary at rank 0.

    ``step_s`` are the seconds of the traced steps, ``ranges`` what every trace must hold.
    """
    offset = measure_clock_offset(mesh.control) if mesh.control else ClockOffset(0.0, 0.0)
    own: list[TracePart] = []
    if path.exists():
        label = f"rank {mesh.rank}"
        own = [TracePart(path, mesh.rank, label, offset.shift_us, offset.error_bound_us)]
    # All of a run may be under nsys, or some of its ranks.
    parts = [part for parts_of_rank in gather(own, mesh) for part in parts_of_rank]
    if mesh.rank != 0:
        return None
    if not parts:
        return Traces(step_s=list(step_s), files=[])
    merged = path.parent / MERGED_NAME
    merge_traces(parts, merged)
    expected: dict[str, Any] = {
        "steps": len(step_s),
        "ranges": [PREFIX + name for name in ranges],
        "gpu": mesh.first_device.type == "cuda",
    }
    files = []
    for rank, file in [*((part.rank, part.path) for part in parts), (None, merged)]:
        ranks = [rank] if rank is not None else [part.rank for part in parts]
        summary = validate_trace(file, ranks=ranks, **expected)
        files.append(
            TraceFile(
                path=file.relative_to(folder).as_posix(),
                rank=rank,
                size_bytes=summary.size_bytes,
                events=summary.events,
                steps=min(summary.steps_per_rank.values()),
                ranges=summary.ranges,
                gpu_kernels=summary.gpu_kernels,
            )
        )
    return Traces(step_s=list(step_s), files=files)
