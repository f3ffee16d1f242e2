from __future__ import annotations

import random
from pathlib import Path

import pytest
from ranks import on_two_ranks

from perfkit.strategies.base import Mesh
from perfkit.trace import clock_sync
from perfkit.trace.clock_sync import estimate_offset, measure_clock_offset


@pytest.mark.parametrize("true_offset_us", [-11_560_000, -3, 0, 1_600])
@pytest.mark.parametrize("share_of_way_there", [0.0, 0.2, 0.5, 1.0])
def test_the_error_is_within_the_bound_however_uneven_the_delays(
    true_offset_us: int, share_of_way_there: float
) -> None:
    rng = random.Random(0)
    trips = []
    now_ns = 1_790_857_026_000_000_000
    for _ in range(20):
        round_trip_ns = rng.randrange(50_000, 5_000_000)
        told_ns = now_ns + int(share_of_way_there * round_trip_ns) + true_offset_us * 1000
        trips.append((now_ns, told_ns, now_ns + round_trip_ns))
        now_ns += round_trip_ns + 1_000
    offset = estimate_offset(trips)
    assert offset.error_bound_us == min(end - start for start, _, end in trips) / 2000
    assert abs(offset.shift_us - true_offset_us) <= offset.error_bound_us + 0.001
    if share_of_way_there == 0.5:
        assert offset.shift_us == pytest.approx(true_offset_us, abs=0.001)


def offsets(mesh: Mesh) -> list[tuple[float, float]]:
    assert mesh.group is not None
    on_one_host = measure_clock_offset(mesh.group)
    clock_sync._host = lambda: (f"node{mesh.rank}", "")
    as_on_two_hosts = measure_clock_offset(mesh.group)
    return [(found.shift_us, found.error_bound_us) for found in (on_one_host, as_on_two_hosts)]


def test_ranks_of_one_host_differ_by_zero_and_a_measurement_contains_it(tmp_path: Path) -> None:
    by_rank = on_two_ranks(offsets, tmp_path)
    for on_one_host, _ in by_rank:
        assert on_one_host == (0.0, 0.0)
    assert by_rank[0][1] == (0.0, 0.0)
    shift_us, error_bound_us = by_rank[1][1]
    assert error_bound_us > 0
    assert abs(shift_us) <= error_bound_us
