"""The cases as pytest-benchmark sees them: ``pytest bench/ --benchmark-only``."""

from __future__ import annotations

from statistics import median

import pytest
from case import UNITS, Case
from pytest_benchmark.fixture import BenchmarkFixture


class SampleClock:
    """A clock that stands still but for the samples it is told.

    The cases measure by themselves, several of them in processes of their own; pytest-benchmark
    gets their samples by way of its timer and makes statistics and history of them.
    """

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds


CLOCK = SampleClock()


@pytest.mark.benchmark(timer=CLOCK)
def test_case(benchmark: BenchmarkFixture, findings: list[str], case: Case) -> None:
    reason = case.why_not()
    if reason is not None:
        pytest.skip(reason)
    measurement = case.run()
    (cost, first), *others = measurement.costs.items()
    samples = iter(first)
    benchmark.group = f"{case.group}, {cost}"
    benchmark.extra_info.update(
        cost=cost,
        finding=measurement.finding,
        **measurement.conditions,
        **{f"{name}, {UNITS[name]}, median": median(values) for name, values in others},
    )
    benchmark.pedantic(lambda: CLOCK.advance(next(samples)), rounds=len(first), iterations=1)
    findings.append(f"{case.name}: {measurement.finding}")
