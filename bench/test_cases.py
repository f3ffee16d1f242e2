"""The cases as pytest-benchmark sees them: ``pytest bench/ --benchmark-only``."""

from __future__ import annotations

import pytest
from cases import CASES, CannotRunError, Case
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
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(benchmark: BenchmarkFixture, findings: list[str], case: Case) -> None:
    try:
        measurement = case.measure()
    except CannotRunError as error:
        pytest.skip(str(error))
    samples = iter(measurement.samples_s)
    benchmark.group = case.group
    benchmark.extra_info.update(finding=measurement.finding, **measurement.conditions)
    benchmark.pedantic(
        lambda: CLOCK.advance(next(samples)), rounds=len(measurement.samples_s), iterations=1
    )
    findings.append(f"{case.name}: {measurement.finding}")
