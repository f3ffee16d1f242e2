"""Shares of the host follow from counters that only grow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perfkit.measure import host_load
from perfkit.measure.host_load import CpuCounters, HostLoadMeter, read_counters, tree_cpu_s


def meter(before: CpuCounters, after: CpuCounters) -> HostLoadMeter:
    counters: Iterator[CpuCounters] = iter([before, after])
    return HostLoadMeter(lambda: next(counters))


START = CpuCounters(wall_s=100.0, busy_s=1000.0, steal_s=50.0, pressure_s=7.0)


def test_what_the_host_did_beyond_the_measured_ranks_is_foreign() -> None:
    # 4 CPUs for 10 s are 40 CPU seconds: 26 busy, 20 of them ours, 2 stolen.
    after = CpuCounters(wall_s=110.0, busy_s=1026.0, steal_s=52.0, pressure_s=9.5)
    load = meter(START, after).stop(3, own_cpu_s=20.0, cpus=4)
    assert load.round == 3
    assert load.foreign_cpu_share == pytest.approx(6 / 40)
    assert load.steal_share == pytest.approx(2 / 40)
    assert load.pressure_share == pytest.approx(2.5 / 10)


def test_an_idle_host_has_no_foreign_load_however_coarsely_it_counts() -> None:
    after = CpuCounters(wall_s=110.0, busy_s=1019.0, steal_s=50.0, pressure_s=7.0)
    load = meter(START, after).stop(0, own_cpu_s=20.0, cpus=4)
    assert load.foreign_cpu_share == 0.0


def test_no_share_exceeds_the_whole() -> None:
    after = CpuCounters(wall_s=101.0, busy_s=1900.0, steal_s=150.0, pressure_s=99.0)
    load = meter(START, after).stop(0, own_cpu_s=0.0, cpus=2)
    assert load.foreign_cpu_share == load.steal_share == load.pressure_share == 1.0


def test_counters_that_step_back_are_no_negative_load() -> None:
    after = CpuCounters(wall_s=101.0, busy_s=990.0, steal_s=49.0, pressure_s=6.0)
    load = meter(START, after).stop(0, own_cpu_s=0.0, cpus=2)
    assert load.foreign_cpu_share == load.steal_share == load.pressure_share == 0.0


@pytest.mark.parametrize("known_at", ["start", "end", "never"])
def test_a_kernel_that_does_not_tell_pressure_leaves_it_open(known_at: str) -> None:
    before = START if known_at == "start" else START._replace(pressure_s=None)
    after = START._replace(wall_s=110.0, pressure_s=8.0 if known_at == "end" else None)
    load = meter(before, after).stop(0, own_cpu_s=0.0, cpus=2)
    assert load.pressure_share is None
    assert load.foreign_cpu_share == 0.0


def test_a_block_too_short_for_the_clock_divides_by_nothing() -> None:
    load = meter(START, START).stop(0, own_cpu_s=0.0, cpus=2)
    assert (load.foreign_cpu_share, load.steal_share, load.pressure_share) == (0.0, 0.0, 0.0)


def test_pressure_is_the_total_of_the_line_about_some_tasks_in_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pressure = tmp_path_factory.mktemp("proc") / "cpu"
    pressure.write_text(
        "some avg10=1.00 avg60=2.00 avg300=3.00 total=2500000\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=9000000\n"
    )
    monkeypatch.setattr(host_load, "PRESSURE", pressure)
    assert read_counters().pressure_s == 2.5
    monkeypatch.setattr(host_load, "PRESSURE", pressure / "nowhere")
    assert read_counters().pressure_s is None


def spend_cpu() -> None:
    sum(index * index for index in range(3_000_000))


def test_the_hosts_counters_and_our_own_grow_with_work() -> None:
    before, own_before = read_counters(), tree_cpu_s()
    spend_cpu()
    after, own_after = read_counters(), tree_cpu_s()
    assert own_after > own_before
    assert after.wall_s > before.wall_s
    assert after.busy_s >= before.busy_s
    assert after.steal_s >= before.steal_s
