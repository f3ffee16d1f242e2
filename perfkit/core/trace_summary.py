"""The part of a Record that tells of the traced pass."""

from __future__ import annotations

from perfkit.core.training_result import Part


class TraceFile(Part):
    """A trace in the run folder, as read back after it was written."""

    path: str
    """Relative to the run folder."""
    rank: int | None
    """None for the merged trace of all ranks."""
    size_bytes: int
    """Size on disk, gzipped."""
    events: int
    """Events in the file, metadata not counted."""
    steps: int
    """ProfilerStep ranges of each rank in the file."""
    ranges: dict[str, int]
    """How often each annotated range occurs, over all ranks in the file."""
    gpu_kernels: int
    """Kernels of all ranks in the file; 0 on a CPU."""


class Traces(Part):
    """The traced pass. Its times explain; they are never the result."""

    step_s: list[float]
    """Host seconds of rank 0's steps under the profiler."""
    files: list[TraceFile]
    """One for each rank, and the merged one."""
