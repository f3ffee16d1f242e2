"""Peaks count from the reset, children count by their share, and nothing is guessed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from perfkit.core.record import Memory
from perfkit.measure import memory
from perfkit.measure.memory import highest, read_peak, reset_peak

needs_clear_refs = pytest.mark.skipif(
    not memory._mark_can_be_reset(), reason="this kernel does not let a process reset its peak"
)

needs_shares = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="this kernel does not tell shares of pages"
)

MANY = 64  # MiB


PEAK_OF_A_BLOCK = """
from perfkit.measure.memory import read_peak, reset_peak
reset_peak()
before = read_peak().cpu_peak_mib
block = bytearray(b"x") * (MANY << 20)
del block
print(read_peak().cpu_peak_mib - before)
reset_peak()
print(read_peak().cpu_peak_mib - before)
"""


@needs_clear_refs
def test_a_peak_is_seen_after_it_is_over_and_forgotten_at_the_reset() -> None:
    # In a process of its own: in a large one, memory freed meanwhile would hide the block.
    code = PEAK_OF_A_BLOCK.replace("MANY", str(MANY))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seen, left = map(float, done.stdout.split())
    assert seen > 0.9 * MANY
    assert left < 0.5 * MANY


def test_where_the_mark_cannot_be_reset_it_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "clear_refs")
    reset_peak()
    assert read_peak().cpu_peak_mib is None
    assert not (tmp_path / "clear_refs").exists()


@pytest.fixture
def worker() -> Iterator[int]:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    assert process.pid is not None
    yield process.pid
    process.kill()
    process.join()


@pytest.fixture
def other_child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate(b"\n")


def test_the_shares_of_this_process_and_of_its_workers_are_added_and_no_others(
    worker: int, other_child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def a_share_of_100_mib(path: Path, field: str) -> float:
        if field == "Pss":
            asked.append(int(path.parent.name))
        return 100.0

    # Real shares change whenever some other process maps the same libraries.
    monkeypatch.setattr(memory, "_status_mib", a_share_of_100_mib)
    assert read_peak().cpu_pss_mib == 100.0 * len(asked)
    assert {os.getpid(), worker} <= set(asked)
    assert other_child not in asked


@needs_shares
def test_a_share_is_more_than_nothing_and_no_more_than_all_that_is_resident() -> None:
    share = read_peak().cpu_pss_mib
    assert share is not None
    resident = [psutil.Process(), *psutil.Process().children(recursive=True)]
    assert 1 < share < 1.5 * sum(process.memory_info().rss for process in resident) / 2**20


@needs_shares
def test_a_worker_that_has_just_left_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = types.SimpleNamespace(pid=2**30)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [gone])
    share = read_peak().cpu_pss_mib
    assert share is not None
    assert share > 0


def test_on_a_cpu_there_is_no_gpu_memory() -> None:
    peak = read_peak()
    assert (peak.cuda_allocated_mib, peak.cuda_reserved_mib) == ([], [])


def a_memory(
    peak: float | None, pss: float | None, allocated: list[float], reserved: list[float]
) -> Memory:
    return Memory(
        cpu_peak_mib=peak,
        cpu_pss_mib=pss,
        cuda_allocated_mib=allocated,
        cuda_reserved_mib=reserved,
    )


def test_over_blocks_the_higher_peak_of_each_device_counts_and_the_later_share() -> None:
    first = a_memory(700.0, 500.0, [10.0, 40.0], [64.0, 128.0])
    second = a_memory(600.0, 450.0, [20.0, 30.0], [32.0, 256.0])
    assert highest(None, first) == first
    assert highest(first, second) == a_memory(700.0, 450.0, [20.0, 40.0], [64.0, 256.0])


@pytest.mark.parametrize(("one", "other"), [(None, 3.0), (3.0, None)])
def test_a_peak_that_is_known_once_is_kept(one: float | None, other: float | None) -> None:
    assert highest(a_memory(one, None, [], []), a_memory(other, None, [], [])).cpu_peak_mib == 3.0


def test_a_peak_that_is_never_known_stays_unknown() -> None:
    unknown = a_memory(None, None, [], [])
    assert highest(unknown, unknown) == unknown
