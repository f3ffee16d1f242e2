"""What changed between two of a kind follows from known costs, and is refused where it must."""

from __future__ import annotations

import math
from typing import Any

import pytest
from records import a_cell, a_record, a_training, an_environment
from sweep_records import a_sweep, one_process

from perfkit.analysis.diff import (
    Difference,
    Metric,
    differences,
    of_commits,
    of_runs,
    of_sweeps,
    only_in_one,
)
from perfkit.core.asv_results import Benchmark
from perfkit.core.record import Record
from perfkit.core.sweep import Options, Sweep

STEADY = [0.99, 1.0, 1.01, 1.0, 0.995, 1.005]
WORKERS: Options = {"workers": 2}


def times(middle: float, unit: str = "seconds", **changes: Any) -> Metric:
    before = [value * 1.0 for value in STEADY]
    after = [value * middle for value in STEADY]
    return Metric(
        **{"where": "", "name": "t", "unit": unit, "before": before, "after": after} | changes
    )


def only(metric: Metric) -> Difference:
    (found,) = differences([metric])
    return found


@pytest.mark.parametrize(
    ("factor", "unit", "verdict"),
    [
        *(
            (1.2, "seconds", "slower"),
            (0.8, "seconds", "faster"),
            (1.0, "seconds", "no difference"),
        ),
        *((1.2, "MiB", "more"), (0.8, "MiB", "less"), (1.0, "MiB", "no difference")),
    ],
)
def test_a_ratio_is_after_over_before_and_its_verdict_in_words_of_the_unit(
    factor: float, unit: str, verdict: str
) -> None:
    found = only(times(factor, unit))
    assert found.before == pytest.approx(1.0, abs=1e-4)
    assert found.ratio is not None
    assert found.ratio.estimate == pytest.approx(factor)
    assert found.ratio.low < factor < found.ratio.high
    assert found.verdict == verdict


def test_verdicts_are_corrected_for_all_metrics_that_are_compared() -> None:
    weak = [math.exp(value) for value in (-0.02, 0.0, 0.02, 0.01, -0.01, 0.0)]
    one = Metric("", "t", "seconds", weak, [1.024 * value for value in weak])
    assert differences([one])[0].verdict == "slower"
    assert differences([one] * 40)[0].verdict == "undecided"


def test_one_value_a_side_has_a_ratio_and_no_verdict() -> None:
    found = only(times(1.0, before=[2.0], after=[3.0]))
    assert found.ratio is not None
    assert (found.ratio.estimate, found.ratio.low, found.ratio.high) == (1.5, 0.0, math.inf)
    assert found.verdict == "too few values"


def test_what_cannot_be_compared_says_why_and_what_one_side_lacks_has_no_row() -> None:
    assert only(times(1.2, why_not="other hardware")).verdict == "not comparable: other hardware"
    assert only(times(1.2, why_not="other hardware")).ratio is None
    assert (
        only(times(1.0, after=[0.0, 0.1])).verdict
        == "not comparable: there are values that are not positive"
    )
    assert differences([times(1.0, before=[])]) == []


def test_runs_are_compared_by_the_rounds_of_their_time_and_by_what_they_took_once() -> None:
    before = a_record(a_cell([[0.2], [0.21], [0.2]]))
    after = a_record(a_cell([[0.1], [0.104], [0.1]], time_to_first_step_s=[6.0]))
    found = {row.metric.name: row for row in differences(of_runs(before, after))}
    assert found["time per sample"].verdict == "faster, one process each"
    assert found["time per sample"].before == pytest.approx(0.05, rel=0.02)
    assert found["time to first step"].after == 6.0
    assert found["time to first step"].verdict == "too few values"
    assert "exposed communication" not in found
    elsewhere = after.model_copy(update={"environment": an_environment(hardware="another")})
    assert {row.verdict for row in differences(of_runs(before, elsewhere))} == {
        "not comparable: other hardware"
    }


def test_trainings_are_compared_by_what_they_came_to_as_well() -> None:
    found = {row.metric.name: row for row in differences(of_runs(*[a_training([0.5, 0.4])] * 2))}
    assert {"time to train", "test accuracy", "test auc"} <= found.keys()
    assert found["test accuracy"].before == 0.75


def processes(sweep: Sweep, index: int, step_s: float, **changes: Any) -> dict[int, Record]:
    return {
        number: one_process(sweep, index, step_s * value).model_copy(update=changes)
        for number, value in enumerate(STEADY)
    }


def test_sweeps_are_compared_cell_by_cell_of_the_same_options() -> None:
    before, after = a_sweep(WORKERS, {"precision": "bf16"}), a_sweep({"precision": "tf32"}, WORKERS)
    old = {0: processes(before, 0, 0.2), 1: processes(before, 1, 0.2)}
    new = {0: processes(after, 0, 0.2), 2: processes(after, 2, 0.1)}
    found = {
        (row.metric.where, row.metric.name): row.verdict
        for row in differences(of_sweeps((before, old), (after, new)))
    }
    assert found["base", "time per sample"] == "no difference"
    assert found["workers=2", "time per sample"] == "faster"
    assert found["workers=2", "peak memory"] == "no difference"
    assert {where for where, _ in found} == {"base", "workers=2"}
    assert only_in_one((before, old), (after, new)) == ([], [])
    old[2] = processes(before, 2, 0.2)
    assert only_in_one((before, old), (after, new)) == (["precision=bf16"], [])


def test_sweeps_of_two_machines_have_no_ratio() -> None:
    sweep = a_sweep(WORKERS)
    old = {0: processes(sweep, 0, 0.2)}
    new = {0: processes(sweep, 0, 0.1, environment=an_environment(hardware="another"))}
    found = differences(of_sweeps((sweep, old), (sweep, new)))
    assert {row.verdict for row in found} == {"not comparable: other hardware"}
    assert {row.ratio for row in found} == {None}


def test_benchmarks_of_commits_are_matched_by_name_and_refused_where_the_version_differs() -> None:
    before = {"a": Benchmark(STEADY, "seconds", "1"), "b": Benchmark(STEADY, "MiB", "1")}
    after = {
        "a": Benchmark([2 * value for value in STEADY], "seconds", "1"),
        "b": Benchmark(STEADY, "MiB", "2"),
        "c": Benchmark(STEADY, "MiB", "1"),
    }
    found = {row.metric.where: row.verdict for row in differences(of_commits(before, after, None))}
    assert found == {
        "a": "slower, one process each",
        "b": "not comparable: another version of the benchmark",
    }
    told = differences(of_commits(before, after, "other machine"))
    assert {row.verdict for row in told} == {"not comparable: other machine"}
