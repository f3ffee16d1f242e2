"""What else the host did while a block was timed: foreign processes, waiting, stolen time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import psutil

from perfkit.core.record import HostLoad

PRESSURE = Path("/proc/pressure/cpu")


class CpuCounters(NamedTuple):
    """Counters that only grow, in seconds."""

    wall_s: float
    busy_s: float  # over all CPUs
    steal_s: float
    pressure_s: float | None  # in which some task waited for a CPU


def read_counters() -> CpuCounters:
    """Return this host's counters now."""
    times = psutil.cpu_times()
    steal = getattr(times, "steal", 0.0)
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # already in user
    busy = sum(times) - idle - guest - steal
    return CpuCounters(perf_counter(), busy, steal, _pressure_s())


def tree_cpu_s() -> float:
    """Return the CPU seconds of this process and its living children so far."""
    process = psutil.Process()
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class HostLoadMeter:
    """Counters around one block."""

    def __init__(self, read: Callable[[], CpuCounters] = read_counters) -> None:
        self._read = read
        self._before = read()

    def stop(self, round_index: int, *, own_cpu_s: float, cpus: int) -> HostLoad:
        """Return the load since the meter was made; ``own_cpu_s`` is the measured ranks' share."""
        now, before = self._read(), self._before
        wall = max(now.wall_s - before.wall_s, 1e-9)
        foreign = now.busy_s - before.busy_s - own_cpu_s
        pressure = None
        if now.pressure_s is not None and before.pressure_s is not None:
            pressure = _share((now.pressure_s - before.pressure_s) / wall)
        return HostLoad(
            round=round_index,
            foreign_cpu_share=_share(foreign / (wall * cpus)),
            pressure_share=pressure,
            steal_share=_share((now.steal_s - before.steal_s) / (wall * cpus)),
        )


def _share(part: float) -> float:
    """Return a share within 0..1: counters are read one after the other, and may step back."""
    return min(max(part, 0.0), 1.0)


def _pressure_s() -> float | None:
    try:
        found = re.search(r"^some .*total=(\d+)", PRESSURE.read_text(encoding="ascii"))
    except OSError:  # a kernel without pressure information
        return None
    return int(found[1]) / 1e6 if found else None
