"""Peak memory of one process: its own high-water mark, its share of pages, its GPU memory."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from perfkit.core.record import Memory

MIB = 2**20
CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak(cuda_devices: Sequence[torch.device] = ()) -> None:
    """Start counting peaks from now.

    ru_maxrss covers the whole life of a process, so the kernel's own high-water mark is reset
    (writing 5 to clear_refs, see proc(5)); where that is not allowed the mark is not reported.
    """
    if _mark_can_be_reset():
        CLEAR_REFS.write_text("5", encoding="ascii")
    for device in cuda_devices:
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(cuda_devices: Sequence[torch.device] = ()) -> Memory:
    """Return the peaks since the reset, in MiB."""
    status = Path("/proc/self/status")
    own = _status_mib(status, "VmHWM") if _mark_can_be_reset() else None
    # Loader workers, and no other children: a baseline beside this rank is not its memory.
    pids = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    shares = [_status_mib(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids]
    known = [share for share in shares if share is not None]
    return Memory(
        cpu_peak_mib=own,
        cpu_pss_mib=sum(known) if known else None,
        cuda_allocated_mib=[torch.cuda.max_memory_allocated(d) / MIB for d in cuda_devices],
        cuda_reserved_mib=[torch.cuda.max_memory_reserved(d) / MIB for d in cuda_devices],
    )


def highest(first: Memory | None, second: Memory) -> Memory:
    """Return the higher of two peaks, and the later share of pages."""
    if first is None:
        return second
    return Memory(
        cpu_peak_mib=max((m for m in (first.cpu_peak_mib, second.cpu_peak_mib) if m), default=None),
        cpu_pss_mib=second.cpu_pss_mib,
        cuda_allocated_mib=_each_highest(first.cuda_allocated_mib, second.cuda_allocated_mib),
        cuda_reserved_mib=_each_highest(first.cuda_reserved_mib, second.cuda_reserved_mib),
    )


def _mark_can_be_reset() -> bool:
    return os.access(CLEAR_REFS, os.W_OK)


def _each_highest(first: list[float], second: list[float]) -> list[float]:
    return [max(pair) for pair in zip(first, second, strict=True)]


def _status_mib(path: Path, field: str) -> float | None:
    try:
        content = path.read_text(encoding="ascii")
    except OSError:  # not Linux, or a loader worker that has just left
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", content, re.MULTILINE)
    return int(found[1]) / 1024 if found else None
