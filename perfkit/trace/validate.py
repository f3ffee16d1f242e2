"""Whether a trace holds what it was made for.

Profilers fail silently: a trace without GPU kernels, or without the steps that it should show,
looks like any other file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from perfkit.core.errors import PerfkitError
from perfkit.trace.read import Trace, read_trace

_STEP_PREFIX = "ProfilerStep#"


@dataclass(frozen=True)
class TraceSummary:
    """What a trace holds.

    ``events`` counts all events but metadata, ``ranges`` the ``user_annotation`` ranges of each
    name over all ranks (without the steps), ``gpu_kernels`` the kernels of all ranks.
    """

    events: int
    size_bytes: int
    steps_per_rank: dict[int, int]
    ranges: dict[str, int]
    gpu_kernels: int


def validate_trace(
    path: Path, *, steps: int, ranks: Collection[int], ranges: Collection[str], gpu: bool
) -> TraceSummary:
    """Check the trace of one rank, or the merged one, and return what it holds.

    A file that does not say which rank it is of is taken for the one in ``ranks``.

    Args:
        path: the trace.
        steps: how many ``ProfilerStep`` ranges each of the ranks must have.
        ranks: the ranks that must be in the file.
        ranges: names of ranges (``perfkit.forward``) that must occur, in whichever rank.
        gpu: whether each rank must have GPU kernels.

    Raises:
        PerfkitError: the file cannot be read, or one of these is missing.
    """
    trace = read_trace(path)
    rank_of_pid = _ranks(trace, ranks)
    steps_per_rank = dict.fromkeys(sorted(set(rank_of_pid.values())), 0)
    kernels_per_rank = dict.fromkeys(steps_per_rank, 0)
    found: Counter[str] = Counter()
    events = 0
    for event in trace.events:
        events += event["ph"] != "M"
        category = event.get("cat")
        if category == "kernel":
            kernels_per_rank[rank_of_pid[event["pid"]]] += 1
        elif category == "user_annotation":
            if event["name"].startswith(_STEP_PREFIX):
                steps_per_rank[rank_of_pid[event["pid"]]] += 1
            else:
                found[event["name"]] += 1

    for rank in sorted(ranks):
        if rank not in steps_per_rank:
            raise PerfkitError(
                f"{path}: rank {rank} is missing, the trace holds rank "
                f"{', '.join(map(str, steps_per_rank))}; trace every rank"
            )
        if steps_per_rank[rank] != steps:
            raise PerfkitError(
                f"{path}: rank {rank} has {steps_per_rank[rank]} ProfilerStep ranges instead of "
                f"{steps}; call step() of the profiler once after each step"
            )
        if gpu and not kernels_per_rank[rank]:
            raise PerfkitError(
                f"{path}: rank {rank} has no GPU kernels; check that no other profiler (nsys, "
                "another trace) holds CUPTI and that the work runs on the GPU"
            )
    absent = sorted(set(ranges) - found.keys())
    if absent:
        raise PerfkitError(
            f"{path}: no range named {', '.join(absent)}; annotate it in the traced steps"
        )
    return TraceSummary(
        events=events,
        size_bytes=trace.size_bytes,
        steps_per_rank=steps_per_rank,
        ranges=dict(sorted(found.items())),
        gpu_kernels=sum(kernels_per_rank.values()),
    )


def _ranks(trace: Trace, expected: Collection[int]) -> dict[int | str, int]:
    """Return the rank of every process in the trace."""
    if "perfkit" in trace.metadata:
        return {
            int(pid): part["rank"]
            for part in trace.metadata["perfkit"]["parts"]
            for pid in part["pids"]
        }
    rank = trace.rank
    if rank is None:
        if len(expected) != 1:
            raise PerfkitError(
                f"{trace.path}: the trace does not say which of the ranks "
                f"{', '.join(map(str, sorted(expected)))} it is of; merge the traces of all ranks"
            )
        (rank,) = expected
    return {event["pid"]: rank for event in trace.events}
