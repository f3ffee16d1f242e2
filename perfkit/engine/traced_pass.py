"""The traced pass: a few steps under the profiler, one trace a rank, and all of them merged."""

from __future__ import annotations

from pathlib import Path

from perfkit.core.annotate import PREFIX
from perfkit.core.record import TraceFile, Traces
from perfkit.engine.cell import RankCell
from perfkit.engine.group import gather
from perfkit.strategies.base import Mesh
from perfkit.trace.clock_sync import ClockOffset, measure_clock_offset
from perfkit.trace.merge import TracePart, merge_traces
from perfkit.trace.validate import validate_trace

MERGED_NAME = "merged.json.gz"


def traced_pass(cell: RankCell, mesh: Mesh, folder: Path, steps: int) -> Traces | None:
    """Trace ``steps`` steps of every rank into ``folder/traces``; the summary at rank 0.

    Raises PerfkitError if a trace lacks a step, a rank, a range or, on a GPU, its kernels.
    """
    traces = folder / "traces"
    traces.mkdir(exist_ok=True)
    offset = measure_clock_offset(mesh.control) if mesh.control else ClockOffset(0.0, 0.0)
    path = traces / f"rank{mesh.rank}.json.gz"
    step_s = cell.trace(path, steps)
    part = TracePart(path, mesh.rank, f"rank {mesh.rank}", offset.shift_us, offset.error_bound_us)
    parts = gather(part, mesh)
    if mesh.rank != 0:
        return None
    ranges = [PREFIX + name for name in cell.range_names]
    merged = traces / MERGED_NAME
    merge_traces(parts, merged)
    gpu = mesh.first_device.type == "cuda"
    files = []
    for rank, file in [*((part.rank, part.path) for part in parts), (None, merged)]:
        ranks = [rank] if rank is not None else [part.rank for part in parts]
        summary = validate_trace(file, steps=steps, ranks=ranks, ranges=ranges, gpu=gpu)
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
    return Traces(step_s=step_s, files=files)
