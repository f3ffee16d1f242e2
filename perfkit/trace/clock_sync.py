"""How far the clocks of hosts are apart.

Clocks of two nodes differ by milliseconds, as long as a step: without a correction a merged trace
shows messages that arrive before they were sent. The estimate is Cristian's (Distributed
Computing 3, 1989): a rank asks rank 0 for the time, and takes the answer for the time halfway
between question and answer. It cannot be wrong by more than half the round trip, however unevenly
the way there and back share it; so the shortest of several round trips is the best.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

_ROUND_TRIPS = 20


@dataclass(frozen=True)
class ClockOffset:
    """What to add to times of this rank to be on the clock of rank 0, in microseconds.

    The true value is within ``error_bound_us`` of ``shift_us``.
    """

    shift_us: float
    error_bound_us: float


def estimate_offset(round_trips: Iterable[tuple[int, int, int]]) -> ClockOffset:
    """Return the offset from the shortest of ``round_trips``.

    Each is (time asked here, time told by the other clock, time the answer was here), all in
    nanoseconds.
    """
    asked_ns, told_ns, answered_ns = min(round_trips, key=lambda trip: trip[2] - trip[0])
    return ClockOffset(
        shift_us=(2 * told_ns - asked_ns - answered_ns) / 2000,
        error_bound_us=(answered_ns - asked_ns) / 2000,
    )


def measure_clock_offset(group: dist.ProcessGroup) -> ClockOffset:
    """Measure the clock of this rank against that of rank 0 of ``group``.

    Every rank of the group, which must be of gloo, calls it at the same point, next to the pass
    whose trace is to be aligned: clocks drift apart by microseconds every second. Ranks on the
    host of rank 0 read the same clock, and get exactly 0.
    """
    rank = dist.get_rank(group)
    hosts: list[tuple[str, str] | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(hosts, _host(), group=group)
    offset = ClockOffset(0.0, 0.0)
    for other, host in enumerate(hosts):
        if host == hosts[0]:
            continue
        if rank == 0:
            _tell_time(group, other)
        elif rank == other:
            offset = estimate_offset(_ask_time(group) for _ in range(_ROUND_TRIPS))
    return offset


def _host() -> tuple[str, str]:
    """Return what tells one running kernel, and so one clock, from another."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname(), boot_id.read_text().strip() if boot_id.exists() else ""


def _tell_time(group: dist.ProcessGroup, other: int) -> None:
    message = torch.zeros(1, dtype=torch.int64)
    for _ in range(_ROUND_TRIPS):
        dist.recv(message, group=group, group_src=other)
        message[0] = time.time_ns()
        dist.send(message, group=group, group_dst=other)


def _ask_time(group: dist.ProcessGroup) -> tuple[int, int, int]:
    message = torch.zeros(1, dtype=torch.int64)
    asked_ns = time.time_ns()
    dist.send(message, group=group, group_dst=0)
    dist.recv(message, group=group, group_src=0)
    return asked_ns, int(message), time.time_ns()
