"""The part of a Record that tells of the traced pass."""

from __future__ import annotations

from perfkit.core.part import Amount, Count, Part


class TraceFile(Part):
    """A trace in the run folder, as read back after it was written."""

    path: str
    """Relative to the run folder."""
    rank: Count | None
    """None for the merged trace of all ranks."""
    size_bytes: Count
    """Size on disk, gzipped."""
    events: Count
    """Events in the file, metadata not counted."""
    steps: Count
    """ProfilerStep ranges of each rank in the file."""
    ranges: dict[str, Count]
    """How often each annotated range occurs, over all ranks in the file."""
    gpu_kernels: Count
    """Kernels of all ranks in the file; 0 on a CPU."""


class Traces(Part):
    """The traced pass. Its times explain; they are never the result."""

    step_s: list[Amount]
    """Host seconds of rank 0's steps under the profiler."""
    files: list[TraceFile]
    """One for each rank, and the merged one."""
