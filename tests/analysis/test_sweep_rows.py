"""Rows, verdicts and recommendations of a sweep follow from known costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sweep_records import a_sweep, one_process

from perfkit.analysis.recommendation import recommend, rounds_to_add
from perfkit.analysis.sweep import Row, more_seconds, rows, sweep_drift
from perfkit.core.config import ProfileConfig, TrainConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Memory, Record
from perfkit.core.sweep import Options

WORKERS, DDP = {"workers": 2}, {"strategy": "ddp", "gpus": 2}
NOISE = [0.01, -0.02, 0.015, 0.005, -0.01, 0.0]
MACHINE = [1.0, 1.3, 0.8, 1.1, 1.6, 0.9]  # what all cells meet in a round alike


def costs(step_s: float, spread: float = 1.0, shift: int = 0) -> list[float]:
    noise = [NOISE[(index + shift) % len(NOISE)] for index in range(len(NOISE))]
    return [
        step_s * machine * math.exp(spread * part)
        for machine, part in zip(MACHINE, noise, strict=True)
    ]


def found(*cells: tuple[Options, list[float], dict[str, Any]]) -> list[Row]:
    """Return the rows of a sweep: what differs from the base, seconds a step, the cell's facts."""
    sweep = a_sweep(*(changed for changed, _, _ in cells[1:]))
    records: dict[int, dict[int, Record]] = {
        index: {
            number: one_process(sweep, index, step_s, at=number * len(cells) + index, **facts)
            for number, step_s in enumerate(rounds)
        }
        for index, (_, rounds, facts) in enumerate(cells)
    }
    return rows(sweep, records)


def some_memory(mib: float) -> dict[str, Any]:
    memory = Memory(cpu_peak_mib=mib, cpu_pss_mib=None, cuda_allocated_mib=[], cuda_reserved_mib=[])
    return {"memory": [memory]}


TWO_RANKS = {"ranks": 2, "global_batch": 8, "devices": [["cpu"], ["cpu"]]}


def test_a_row_has_medians_over_processes_and_a_gain_within_rounds() -> None:
    base, workers = found(({}, costs(0.2), {}), (WORKERS, costs(0.1, shift=2), {}))
    assert base.verdict is None
    assert base.step_s.median == pytest.approx(
        sorted(costs(0.2))[2] / 2 + sorted(costs(0.2))[3] / 2
    )
    assert base.samples_per_s.median == pytest.approx(4 / base.step_s.median, rel=1e-12)
    assert base.samples_per_s.first == pytest.approx(4 / base.step_s.third, rel=1e-12)
    assert workers.verdict is not None
    assert workers.verdict.word == "faster"
    assert workers.verdict.gain.estimate == pytest.approx(2.0)
    assert workers.verdict.gain.high / workers.verdict.gain.low < 1.1  # the machine is not in it
    assert base.time_to_first_step_s == 3.0


def test_a_gain_is_one_of_samples_where_batches_differ() -> None:
    _, ddp = found(({}, costs(0.2), {}), (DDP, costs(0.2, shift=1), TWO_RANKS))
    assert ddp.verdict is not None
    assert ddp.verdict.gain.estimate == pytest.approx(2.0)


def test_a_round_that_one_cell_lacks_is_left_out_of_its_gain_alone() -> None:
    sweep = a_sweep(WORKERS)
    both = {
        index: {number: one_process(sweep, index, step_s) for number, step_s in enumerate(rounds)}
        for index, rounds in enumerate((costs(0.2), costs(0.1, shift=2)))
    }
    del both[1][4]  # where the machine was slowest
    base, workers = rows(sweep, both)
    assert len(base.records) == 6
    assert workers.verdict is not None
    assert workers.verdict.gain.estimate == pytest.approx(2.0, rel=0.03)


def test_a_cell_that_was_never_measured_has_no_row_and_the_next_is_the_first() -> None:
    sweep = a_sweep(WORKERS, DDP)
    records = {index: {0: one_process(sweep, index, 0.2)} for index in (1, 2)}
    assert [row.label for row in rows(sweep, records)] == ["workers=2", "strategy=ddp gpus=2"]
    assert [row.verdict is None for row in rows(sweep, records)] == [True, False]
    assert rows(sweep, {}) == []


def test_a_round_far_from_the_others_is_flagged_and_kept() -> None:
    steady = [0.2, 0.201, 0.199, 0.2005, 0.9, 0.1995]
    (base, _) = found(({}, steady, {}), (WORKERS, costs(0.1), {}))
    assert base.slow_rounds == [4]
    assert len(base.sample_s) == 6


def test_drift_is_that_of_all_processes_in_the_order_in_which_they_ran() -> None:
    slower = [0.2 * 1.05**number for number in range(6)]
    row = found(({}, slower, {}), (WORKERS, [step_s / 2 for step_s in slower], {}))
    moved = sweep_drift(row)
    assert moved is not None
    assert moved.p_value < 0.001
    assert moved.factor == pytest.approx(1.05**5, rel=0.05)
    assert sweep_drift(found(({}, [0.2], {}), (WORKERS, [0.2], {}))) is None


def test_the_cheapest_is_recommended_where_it_beats_the_next() -> None:
    found_rows = found(
        ({}, costs(0.2), some_memory(100)),
        (WORKERS, costs(0.1, shift=2), some_memory(200)),
        (DDP, costs(0.15, shift=4), TWO_RANKS | some_memory(150)),
    )
    time, device, memory = recommend(found_rows)
    assert (time.best, time.runner_up) == (["strategy=ddp gpus=2"], "workers=2")
    assert time.verdict is not None
    assert time.verdict.gain.estimate == pytest.approx(0.1 / 0.075)
    assert (device.best, device.runner_up) == (["workers=2"], "strategy=ddp gpus=2")
    assert (memory.best, memory.runner_up) == (["base"], "strategy=ddp gpus=2")
    assert rounds_to_add(found_rows) is None


def test_inside_the_noise_nothing_is_recommended() -> None:
    noisy = found(
        ({}, costs(0.2, 10), {}), (WORKERS, costs(0.199, 10, 1), {}), (DDP, costs(2.0), {})
    )
    time, *_ = recommend(noisy)
    assert set(time.best) == {"base", "workers=2"}
    assert time.verdict is not None
    assert time.verdict.word == "undecided"
    assert rounds_to_add(noisy) == time.verdict.more_rounds
    assert time.verdict.more_rounds is not None


def test_beside_the_best_stands_the_first_that_cannot_be_told_from_it() -> None:
    time, *_ = recommend(
        found(
            ({}, costs(0.2), {}), (WORKERS, costs(0.21, shift=2), {}), (DDP, costs(0.22, 10, 1), {})
        )
    )
    assert time.best == ["base", "strategy=ddp gpus=2"]
    assert time.runner_up == "strategy=ddp gpus=2"
    assert time.verdict is not None
    assert time.verdict.word == "undecided"


def test_another_model_is_neither_compared_nor_recommended() -> None:
    sweep = a_sweep(WORKERS, {"model": "small"})
    records = {
        index: {number: one_process(sweep, index, step_s) for number, step_s in enumerate(rounds)}
        for index, rounds in enumerate((costs(0.2), costs(0.1, shift=2), costs(0.01, shift=4)))
    }
    records[2] = {n: r.model_copy(update={"parameters": 7}) for n, r in records[2].items()}
    _, workers, small = rows(sweep, records)
    assert (workers.no_ratio, small.no_ratio, small.verdict) == (None, "other model", None)
    assert recommend(rows(sweep, records))[0].best == ["workers=2"]


def test_processes_that_did_other_work_than_the_first_of_their_cell_are_refused() -> None:
    sweep = a_sweep(WORKERS, rounds=2)
    records = {i: {n: one_process(sweep, i, 0.2) for n in (0, 1)} for i in (0, 1)}
    records[1][1] = records[1][1].model_copy(update={"parameters": 7})
    with pytest.raises(PerfkitError, match="workers=2: in rounds 1 and 2 the work was not"):
        rows(sweep, records)


def test_a_goal_of_which_the_records_do_not_tell_has_no_recommendation() -> None:
    unknown = Memory(
        cpu_peak_mib=None, cpu_pss_mib=None, cuda_allocated_mib=[], cuda_reserved_mib=[]
    )
    found_rows = found(({}, costs(0.2), {}), (WORKERS, costs(0.1), {"memory": [unknown]}))
    assert [one.goal for one in recommend(found_rows)] == ["time", "throughput per device"]


def test_a_process_is_planned_from_its_trial() -> None:
    trial = one_process(a_sweep(), 0, 0.5)  # four steps of half a second, 64 samples an epoch
    assert more_seconds(ProfileConfig(steps=24), trial) == pytest.approx(20 * 0.5)
    assert more_seconds(ProfileConfig(), trial) == pytest.approx(8 * 0.5)
    assert more_seconds(ProfileConfig(steps=2), trial) == 0
    assert more_seconds(TrainConfig(epochs=3), trial) == pytest.approx(3 * 16 * 0.5 * 1.15)
