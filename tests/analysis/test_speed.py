"""Costs, gains and phases, each held against a sum done by hand."""

from __future__ import annotations

import math

import pytest
from records import SHARES, a_baseline, a_cell, a_record, some_traces

from perfkit.analysis import speed
from perfkit.core.record import Cell, StepSample
from perfkit.core.stats import Interval

# Two ranks of four samples; the slowest rank costs 0.25 s, then 0.3 s a step.
DDP = a_cell([[0.2, 0.25], [0.3, 0.2]])


def with_steps(cell: Cell, counts: dict[int, int]) -> Cell:
    """Return the cell with another number of steps in some rounds, as costly as before."""
    blocks = []
    for block in cell.blocks:
        count = counts.get(block.round, len(block.steps))
        wall_s = block.wall_s / len(block.steps) * count
        steps = [block.steps[0]] * count
        blocks.append(block.model_copy(update={"steps": steps, "wall_s": wall_s}))
    return cell.model_copy(update={"blocks": blocks})


def test_a_round_costs_what_its_slowest_rank_took() -> None:
    assert speed.round_step_s(DDP) == pytest.approx([0.25, 0.3])


def test_rounds_come_in_their_order_however_the_blocks_lie() -> None:
    shuffled = DDP.model_copy(update={"blocks": DDP.blocks[::-1]})
    assert speed.round_step_s(shuffled) == speed.round_step_s(DDP)


def test_the_pass_costs_its_rounds_each_by_its_steps() -> None:
    assert speed.step_s(DDP) == pytest.approx(0.275)
    assert speed.step_s(with_steps(DDP, {1: 6})) == pytest.approx((2 * 0.25 + 6 * 0.3) / 8)


def test_the_cost_is_wall_time_and_not_what_the_steps_add_up_to() -> None:
    cell = a_cell([[0.2]])
    stalled = [block.model_copy(update={"wall_s": 1.0}) for block in cell.blocks]
    assert speed.step_s(cell.model_copy(update={"blocks": stalled})) == pytest.approx(0.5)


def test_samples_of_all_ranks_count() -> None:
    assert speed.samples_per_s(DDP) == pytest.approx(8 / 0.275)


@pytest.mark.parametrize(("samples", "steps"), [(64, 8), (71, 8), (72, 9)])
def test_an_epoch_is_projected_over_its_whole_batches(samples: int, steps: int) -> None:
    assert speed.epoch_s(DDP, samples) == pytest.approx(steps * 0.275)


def test_the_steps_of_one_rank_in_the_order_they_were_taken() -> None:
    assert speed.host_step_s(DDP, 0) == [0.2, 0.2, 0.3, 0.3]


def step_with_loss(loss: float | None) -> StepSample:
    return StepSample(host_s=0.1, phases_s={}, device_phases_s={}, communication_s=None, loss=loss)


def with_last_losses(cell: Cell, losses: list[float | None]) -> Cell:
    """Return the cell with these losses in the last step of each rank, and others before."""
    last = max(block.round for block in cell.blocks)
    blocks = []
    for block in cell.blocks:
        steps = [step_with_loss(9.0), step_with_loss(losses[block.rank])]
        blocks.append(block.model_copy(update={"steps": steps}) if block.round == last else block)
    return cell.model_copy(update={"blocks": blocks})


def test_the_loss_is_the_mean_over_ranks_of_the_last_step() -> None:
    assert speed.loss(with_last_losses(DDP, [0.25, 0.75])) == pytest.approx(0.5)


def test_a_loss_that_is_not_finite_on_one_rank_is_none() -> None:
    assert speed.loss(with_last_losses(DDP, [0.25, None])) is None


def test_a_gain_is_in_samples_and_within_rounds() -> None:
    # Serial takes 0.05 s a sample in both rounds; two ranks 0.25 / 8 and 0.3 / 8.
    gain = speed.gain(DDP, a_baseline([0.2, 0.2]))
    ratios = [0.05 / (0.25 / 8), 0.05 / (0.3 / 8)]
    assert gain.estimate == pytest.approx(math.sqrt(ratios[0] * ratios[1]))
    half = 12.7062047 * abs(math.log(ratios[0] / ratios[1])) / 2
    assert gain.low == pytest.approx(gain.estimate / math.exp(half))
    assert gain.high == pytest.approx(gain.estimate * math.exp(half))


def test_drift_that_meets_both_alike_is_not_in_the_gain() -> None:
    drift = [1.0, 1.7, 2.9, 4.1]
    cell = a_cell([[0.25 * d, 0.25 * d] for d in drift])
    gain = speed.gain(cell, a_baseline([0.2 * d for d in drift]))
    assert gain == pytest.approx((1.6, 1.6, 1.6))


def test_of_an_interrupted_run_the_rounds_that_both_have_are_compared() -> None:
    interrupted = a_baseline([0.2, 0.2, 5.0])
    assert speed.gain(DDP, interrupted) == speed.gain(DDP, a_baseline([0.2, 0.2]))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.1, 1.3, "faster"),
        (0.7, 0.9, "slower"),
        (0.99, 1.01, "equal"),
        (0.981, 1.019, "equal"),
        (1.005, 1.015, "equal"),  # certain, and too little to matter
        (0.99, 1.03, "undecided"),
        (0.5, 2.0, "undecided"),
        (1.0, 1.3, "undecided"),
        (1.01, 1.03, "faster"),
        (0.0, math.inf, "undecided"),
    ],
)
def test_a_comparison_ends_in_one_of_four_words(low: float, high: float, word: str) -> None:
    assert speed.word_for(Interval((low + high) / 2, low, high)) == word


def test_phases_are_means_of_the_rank_that_took_longest_and_sum_to_its_step() -> None:
    cell = a_cell([[0.2, 0.25], [0.3, 0.3]])
    phases = speed.phases(cell)
    assert (phases.rank, phases.clock) == (1, "host")
    expected = {name: share * 0.275 for name, share in SHARES.items()}
    assert phases.seconds == pytest.approx({**expected, "other": 0.05 * 0.275})
    assert sum(phases.seconds.values()) == pytest.approx(0.275)
    assert phases.transfer_s is None


def test_steps_count_alike_in_a_mean_whatever_round_they_are_in() -> None:
    cell = with_steps(a_cell([[0.2], [0.4]]), {1: 6})
    assert speed.phases(cell).seconds["forward"] == pytest.approx(0.3 * (2 * 0.2 + 6 * 0.4) / 8)


def test_on_the_device_clock_what_the_device_did_not_do_is_other() -> None:
    phases = speed.phases(a_cell([[0.2], [0.2]], on_gpu=True), "device")
    assert phases.seconds["backward"] == pytest.approx(0.4 * 0.2 / 2)
    assert phases.seconds["other"] == pytest.approx(0.2 - 0.95 * 0.2 / 2)


def test_without_cuda_events_there_is_no_device_clock() -> None:
    with pytest.raises(ValueError, match="was not measured with CUDA events"):
        speed.phases(DDP, "device")


def test_moves_between_devices_are_a_mean_a_step() -> None:
    cell = a_cell([[0.2], [0.2]], communication_s=0.03)
    assert speed.phases(cell).transfer_s == pytest.approx(0.03)


def ablation(rounds: list[list[float]]) -> Cell:
    return a_cell(rounds, role="ablation", label="ddp, no communication")


def test_exposed_communication_is_what_the_step_lacks_without_exchange() -> None:
    # Three quarters of the step are left in every round, so a quarter was communication.
    strategy = a_cell([[0.4, 0.4], [0.2, 0.2]])
    record = a_record(strategy, a_baseline([0.2, 0.2]), ablation([[0.3, 0.3], [0.15, 0.15]]))
    assert speed.exposed_communication(record) == pytest.approx((0.25, 0.25, 0.25))


def test_the_bounds_of_exposed_communication_keep_their_order() -> None:
    record = a_record(a_cell([[0.4], [0.4], [0.4]]), ablation([[0.3], [0.32], [0.31]]))
    exposed = speed.exposed_communication(record)
    assert exposed is not None
    assert exposed.low < exposed.estimate < exposed.high


def test_an_interruption_between_the_ablation_and_the_strategy_does_no_harm() -> None:
    record = a_record(a_cell([[0.4], [0.2]]), ablation([[0.3], [0.15], [0.9]]))
    assert speed.exposed_communication(record) == pytest.approx((0.25, 0.25, 0.25))


@pytest.mark.parametrize("others", [[], [ablation([])]])
def test_communication_that_was_not_measured_is_none(others: list[Cell]) -> None:
    assert speed.exposed_communication(a_record(DDP, *others)) is None


def test_inflation_is_the_median_traced_step_over_the_median_timed_step_of_rank_0() -> None:
    cell = a_cell([[0.1, 9.0], [0.2, 9.0], [0.3, 9.0]])
    record = a_record(cell, traces=some_traces([0.3, 0.9, 0.5]))
    assert speed.profiler_inflation(record) == pytest.approx(0.5 / 0.2)
    assert speed.profiler_inflation(a_record(cell)) is None


def test_a_baseline_is_one_that_was_timed() -> None:
    timed, untimed = a_baseline([0.2]), a_baseline([], threads=2)
    record = a_record(DDP, timed, untimed, ablation([[0.1, 0.1]]))
    assert speed.baselines(record) == [timed]


def test_devices_are_those_of_all_ranks() -> None:
    assert speed.devices(a_cell([[0.2, 0.2]], devices_per_rank=3)) == 6


def with_energy(cell: Cell, *joules: dict[str, float]) -> Cell:
    """Return the cell with what each block used, in order."""
    blocks = [
        block.model_copy(update={"energy_j": used})
        for block, used in zip(cell.blocks, joules, strict=True)
    ]
    return cell.model_copy(update={"blocks": blocks})


def test_energy_is_of_all_counters_and_a_shared_one_counts_once() -> None:
    cell = a_cell([[0.2, 0.2]], steps=2, local_batch=4)  # 16 samples in a block of two ranks
    used = with_energy(
        cell, {"GPU-a": 16.0, "host package-0": 8.0}, {"GPU-b": 32.0, "host package-0": 8.5}
    )
    assert speed.energy_j_per_sample(used) == {"GPU": 3.0, "CPU": 8.5 / 16}
    assert speed.energy_j_per_sample(cell) == {}


def test_energy_that_a_round_lacks_is_not_known() -> None:
    cell = a_cell([[0.2], [0.2]])
    assert speed.energy_j_per_sample(with_energy(cell, {"GPU-a": 1.0}, {})) == {}


def test_energy_of_a_part_is_not_passed_off_as_the_whole() -> None:
    cell = a_cell([[0.2, 0.2]], on_gpu=True)
    one_gpu = with_energy(cell, {"GPU-a": 1.0, "one package-0": 1.0}, {"two package-0": 1.0})
    assert speed.energy_j_per_sample(one_gpu) == {"CPU": 2.0 / 16}
    one_host = with_energy(cell, {"GPU-a": 1.0, "one package-0": 1.0}, {"GPU-b": 1.0})
    assert speed.energy_j_per_sample(one_host) == {"GPU": 2.0 / 16}
