"""From the Records of a sweep to its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from perfkit.analysis import speed
from perfkit.analysis.compare import why_no_ratio
from perfkit.core.config import ProfileConfig, RunConfig, TrainConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Cell, Record
from perfkit.core.stats import Drift, Quartiles, Verdict, drift, outliers, quartiles, verdicts
from perfkit.core.sweep import Sweep
from perfkit.engine.resolve import CPU_DEFAULTS, CUDA_DEFAULTS

VALIDATION_SHARE = 0.15  # of an epoch: about what a look at the validation set takes


def more_seconds(config: RunConfig, trial: Record) -> float:
    """Return the seconds that a process takes beyond the trial of its cell, a profile of few steps.

    ``config`` is what was asked for; what it leaves open has the value that the trial settled on.
    """
    cell = trial.cells[0]
    if isinstance(config, TrainConfig):
        epoch_s = speed.epoch_s(cell, trial.data.samples_per_epoch) or 0.0
        return config.epochs * epoch_s * (1 + VALIDATION_SHARE)
    assert isinstance(config, ProfileConfig)
    defaults = CUDA_DEFAULTS if speed.is_on_cuda(cell) else CPU_DEFAULTS
    taken = sum(block.step_count for block in cell.blocks if block.rank == 0)
    ablations = sum(other.role == "ablation" for other in trial.cells)
    more = (config.steps or defaults["steps"]) - taken
    return max(more, 0) * (1 + ablations) * speed.step_s(cell)


@dataclass(frozen=True)
class Row:
    """One cell of a sweep and what its processes came to, a value a round in every list."""

    label: str
    records: dict[int, Record]
    """By round; a round in which the process failed is missing."""
    verdict: Verdict | None
    """Against the first row, in samples a second; None for that one, or without a common round."""
    slow_rounds: list[int]
    """Rounds whose cost is far from those of the others, for a flag."""
    no_ratio: str | None = None
    """Why a ratio to the first row would mean nothing, as between two models; else None."""

    @property
    def cell(self) -> Cell:
        """What the first of its processes measured: its layout is that of all."""
        return next(iter(self.records.values())).cells[0]

    @property
    def sample_s(self) -> dict[int, float]:
        """Seconds a sample of each process, by round."""
        return {index: sample_seconds(record) for index, record in self.records.items()}

    @property
    def samples_per_s(self) -> Quartiles:
        """Samples a second over all ranks: those of the quartiles of the seconds a sample."""
        first, middle, third = quartiles(list(self.sample_s.values()))
        return Quartiles(1 / third, 1 / middle, 1 / first)

    @property
    def step_s(self) -> Quartiles:
        """Seconds a step: quartiles over the processes."""
        return quartiles([speed.step_s(record.cells[0]) for record in self.records.values()])

    @property
    def time_to_first_step_s(self) -> float:
        """Seconds from the start of a process to the end of its first step, on its slowest rank."""
        return median(max(r.cells[0].time_to_first_step_s) for r in self.records.values())

    @property
    def peak_mib(self) -> float | None:
        """Peak memory of the rank that took most: median over the processes; None if not known."""
        found = [speed.peak_mib(record.cells[0]) for record in self.records.values()]
        known = [value for value in found if value is not None]
        return median(known) if known else None

    @property
    def energy_j_per_sample(self) -> dict[str, float]:
        """Joules a sample of "GPU" and "CPU": medians over the processes; those that are known."""
        found = [speed.energy_j_per_sample(record.cells[0]) for record in self.records.values()]
        kinds = [kind for kind in found[0] if all(kind in one for one in found)]
        return {kind: median(one[kind] for one in found) for kind in kinds}


def rows(sweep: Sweep, records: Mapping[int, Mapping[int, Record]]) -> list[Row]:
    """Return a row for every cell that has been measured, in the order of the sweep.

    Verdicts are corrected for the number of cells. Raises PerfkitError where the processes of a
    cell did not do the same work.
    """
    measured = [index for index in range(len(sweep.cells)) if records.get(index)]
    for index in measured:
        _check_same_work(sweep.cells[index].label, records[index])
    costs = {
        index: {number: sample_seconds(record) for number, record in records[index].items()}
        for index in measured
    }
    first = measured[0] if measured else 0
    of_each = {index: next(iter(records[index].values())) for index in measured}
    refused = {index: why_no_ratio(of_each[index], of_each[first]) for index in measured}
    compared = [
        index
        for index in measured
        if index != first and refused[index] is None and costs[index].keys() & costs[first].keys()
    ]
    decided = verdicts([in_both(costs[first], costs[index]) for index in compared])
    found = dict(zip(compared, decided, strict=True))
    return [
        Row(
            sweep.cells[index].label,
            dict(records[index]),
            found.get(index),
            [list(costs[index])[position] for position in outliers(list(costs[index].values()))],
            refused[index],
        )
        for index in measured
    ]


def _check_same_work(label: str, records: Mapping[int, Record]) -> None:
    (first, one), *others = sorted(records.items())
    for number, record in others:
        reason = why_no_ratio(record, one)
        if reason is not None:
            raise PerfkitError(
                f"{label}: in rounds {first + 1} and {number + 1} the work was not the same "
                f"({reason}); measure again, in a sweep of its own"
            )


def in_both(
    other: Mapping[int, float], ours: Mapping[int, float]
) -> tuple[list[float], list[float]]:
    """Return the costs of the rounds that both have, in the same order."""
    both = sorted(other.keys() & ours.keys())
    return [other[index] for index in both], [ours[index] for index in both]


def sample_seconds(record: Record) -> float:
    """Return the seconds a sample of the whole timed pass, or of all epochs of a training."""
    return speed.step_s(record.cells[0]) / record.cells[0].global_batch


def sweep_drift(found: Sequence[Row]) -> Drift | None:
    """Return how the machine moved over the sweep: every process's cost over its cell's median.

    In the order in which they ran; None with fewer than three processes.
    """
    relative: list[tuple[str, float]] = []
    for row in found:
        middle = median(row.sample_s.values())
        relative += [
            (record.created_at, sample_seconds(record) / middle) for record in row.records.values()
        ]
    if len(relative) < 3:
        return None
    return drift([cost for _, cost in sorted(relative)])
