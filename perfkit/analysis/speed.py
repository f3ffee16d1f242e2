"""From the samples of a Record to costs, gains and phases."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Literal

from perfkit.core.record import GPU, Cell, Record
from perfkit.core.stats import EQUAL_BOUND, Interval, Word, ratio_interval, rounds_needed


def round_step_s(cell: Cell) -> list[float]:
    """Return seconds a step in each round: wall time of the slowest rank over its steps.

    Not the median of steps: loader stalls come in few long steps, which a median hides.
    """
    return list(_step_s_of_rounds(cell).values())


def step_s(cell: Cell) -> float:
    """Return seconds a step over the whole timed pass, on the slowest rank of each round."""
    steps = {block.round: block.step_count for block in cell.blocks}
    costs = _step_s_of_rounds(cell)
    return sum(costs[index] * steps[index] for index in steps) / sum(steps.values())


def samples_per_s(cell: Cell) -> float:
    """Return samples a second over all ranks."""
    return cell.global_batch / step_s(cell)


def epoch_s(cell: Cell, samples_per_epoch: int | None) -> float | None:
    """Return the projected seconds of one epoch of training, incomplete batches dropped.

    None where nothing is known of an epoch.
    """
    if samples_per_epoch is None:
        return None
    return samples_per_epoch // cell.global_batch * step_s(cell)


def host_step_s(cell: Cell, rank: int) -> list[float]:
    """Return the host seconds of every timed step of one rank, in the order they were taken."""
    blocks = [block for block in cell.blocks if block.rank == rank]
    return [step.host_s for block in blocks for step in block.steps]


def loss(cell: Cell) -> float | None:
    """Return the loss of the last timed step over the global batch; None if it was not finite.

    A rank's loss is its part of the global mean times the number of ranks, so the mean over ranks
    is the loss of the global batch.
    """
    last = max(block.round for block in cell.blocks)
    losses = [block.steps[-1].loss for block in cell.blocks if block.round == last]
    finite = [value for value in losses if value is not None]
    return sum(finite) / len(losses) if len(finite) == len(losses) else None


def gain(cell: Cell, baseline: Cell) -> Interval:
    """Return how many times as many samples a second as the baseline, within rounds.

    Under strong scaling, where both train the same global batch, this is the speedup; under weak
    scaling it is the scaled throughput X(N) / X(1).
    """
    return ratio_interval(*_paired_sample_s(baseline, cell))


def word_for(interval: Interval) -> Word:
    """Return what a gain comes to."""
    if interval.low >= 1 - EQUAL_BOUND and interval.high <= 1 + EQUAL_BOUND:
        return "equal"
    if interval.low > 1:
        return "faster"
    return "slower" if interval.high < 1 else "undecided"


def more_rounds(cell: Cell, baseline: Cell) -> int:
    """Return about how many more rounds would decide whether the cell gains; at least one."""
    theirs, ours = _paired_sample_s(baseline, cell)
    return max(rounds_needed(theirs, ours, EQUAL_BOUND) - len(ours), 1)


@dataclass(frozen=True)
class Phases:
    """Mean seconds a step of one rank: its phases and what is left, which sum to the step."""

    rank: int
    clock: Literal["host", "device"]
    seconds: dict[str, float]
    transfer_s: float | None
    """Part of forward and backward that moved tensors between devices, in host time."""


def phases(cell: Cell, clock: Literal["host", "device"] = "host") -> Phases:
    """Return the phases of the rank that took longest over the whole timed pass.

    On the device clock (CUDA events) data wait is the time in which the device had nothing to do
    because the host was waiting for data. Raises ValueError if there is no such clock.
    """
    wall: dict[int, float] = defaultdict(float)
    taken: dict[int, int] = defaultdict(int)
    for block in cell.blocks:
        wall[block.rank] += block.wall_s
        taken[block.rank] += block.step_count
    slowest = max(wall, key=lambda rank: wall[rank])
    steps = [s for block in cell.blocks if block.rank == slowest for s in block.steps]
    if clock == "device" and not all(step.device_phases_s for step in steps):
        raise ValueError(f"cell {cell.label!r} was not measured with CUDA events")
    total: dict[str, float] = defaultdict(float)
    for step in steps:
        for name, seconds in (step.phases_s if clock == "host" else step.device_phases_s).items():
            total[name] += seconds
    means = {name: seconds / len(steps) for name, seconds in total.items()}
    means["other"] = max(wall[slowest] / taken[slowest] - sum(means.values()), 0.0)
    moved = [s.communication_s for s in steps if s.communication_s is not None]
    return Phases(slowest, clock, means, sum(moved) / len(steps) if moved else None)


def exposed_communication(record: Record) -> Interval | None:
    """Return the share of the step that exchanging gradients costs, or None if not measured.

    The step minus the same step without exchange, interleaved: what a trace shows as all-reduce
    runs beside backward, and only what it adds to the step is exposed.
    """
    ablations = [cell for cell in record.cells if cell.role == "ablation" and cell.blocks]
    if not ablations:
        return None
    both = _paired_step_s(ablations[0], record.cells[0])
    if not both[0]:
        return None
    left = ratio_interval(*both)
    return Interval(1 - left.estimate, 1 - left.high, 1 - left.low)


def profiler_inflation(record: Record) -> float | None:
    """Return median traced step over median timed step of rank 0, or None without a trace."""
    if record.traces is None:
        return None
    return median(record.traces.step_s) / median(host_step_s(record.cells[0], 0))


def baselines(record: Record) -> list[Cell]:
    """Return what was measured beside the strategy: serial training, and variants of the run."""
    beside = ("baseline", "variant")
    return [cell for cell in record.cells if cell.role in beside and cell.blocks]


def devices(cell: Cell) -> int:
    """Return the devices of a cell over all ranks."""
    return cell.ranks * cell.devices_per_rank


def is_on_cuda(cell: Cell) -> bool:
    """Whether the cell ran on GPUs."""
    return cell.devices[0][0].startswith("cuda")


def peak_mib(cell: Cell) -> float | None:
    """Return the peak memory of the rank that took most: of its GPUs where it has some."""
    on_gpu = [max(memory.cuda_allocated_mib) for memory in cell.memory if memory.cuda_allocated_mib]
    on_cpu = [m.cpu_peak_mib for m in cell.memory if m.cpu_peak_mib is not None]
    return max(on_gpu or on_cpu, default=None)


def energy_j_per_sample(cell: Cell) -> dict[str, float]:
    """Return the joules a sample of "GPU" and of "CPU", as far as all of it was counted.

    That is: in every block a counter for each GPU of the rank, and for the CPU of its host (with
    whatever else ran on it). A counter that several ranks read, of the package they share or of
    one GPU, counts once.
    """
    joules: dict[str, dict[tuple[int, str], float]] = {"GPU": {}, "CPU": {}}
    for block in cell.blocks:
        on_gpus = [name for name in block.energy_j if name.startswith(GPU)]
        gpus = sum(device.startswith("cuda") for device in cell.devices[block.rank])
        if not on_gpus or len(on_gpus) < gpus:
            joules.pop("GPU", None)
        if len(on_gpus) == len(block.energy_j):
            joules.pop("CPU", None)
        for name, used in block.energy_j.items():
            of_kind = joules.get("GPU" if name in on_gpus else "CPU", {})
            of_kind[block.round, name] = max(used, of_kind.get((block.round, name), 0.0))
    steps = {block.round: block.step_count for block in cell.blocks}
    samples = cell.global_batch * sum(steps.values())
    return {kind: sum(used.values()) / samples for kind, used in joules.items() if used}


def _step_s_of_rounds(cell: Cell) -> dict[int, float]:
    slowest: dict[int, float] = defaultdict(float)
    for block in cell.blocks:
        slowest[block.round] = max(slowest[block.round], block.wall_s / block.step_count)
    return dict(sorted(slowest.items()))


def _paired_sample_s(first: Cell, second: Cell) -> tuple[list[float], list[float]]:
    """Return the seconds a sample of both cells in the rounds that both have."""
    one, other = _paired_step_s(first, second)
    return [s / first.global_batch for s in one], [s / second.global_batch for s in other]


def _paired_step_s(first: Cell, second: Cell) -> tuple[list[float], list[float]]:
    """Return the costs of the rounds that both have: an interrupted run ends within a round."""
    one, other = _step_s_of_rounds(first), _step_s_of_rounds(second)
    both = [index for index in one if index in other]
    return [one[index] for index in both], [other[index] for index in both]
