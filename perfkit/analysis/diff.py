"""What changed between two runs, two sweeps or two commits, metric by metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from perfkit.analysis import speed
from perfkit.analysis.compare import why_no_ratio
from perfkit.analysis.sweep import sample_seconds
from perfkit.analysis.training import time_to_train_s
from perfkit.core.asv_results import Benchmark
from perfkit.core.part import MOST
from perfkit.core.record import Record
from perfkit.core.stats import Interval, Word, unpaired_ratio_interval, unpaired_verdicts
from perfkit.core.sweep import Sweep

SECONDS, SHARE = "seconds", "share of a step"
# What a verdict on costs comes to in words, for seconds and for all else.
TIME_WORDS: dict[Word, str] = {"equal": "no difference"}
OTHER_WORDS: dict[Word, str] = {"faster": "less", "slower": "more", "equal": "no difference"}

Records = Mapping[int, Record]
"""Of the processes of one configuration, by round."""


@dataclass(frozen=True)
class Metric:
    """One quantity, measured before and after."""

    where: str
    """The cell or the case; empty for a run."""
    name: str
    unit: str
    before: Sequence[float]
    after: Sequence[float]
    """A value a process, or a round of a single one; either may be empty."""
    why_not: str | None = None
    """Why the two may not be compared, or None."""
    of_processes: bool = True
    """A value is of a process; else all are of one: what differs between processes is in none."""


@dataclass(frozen=True)
class Difference:
    """What became of a metric."""

    metric: Metric
    before: float
    after: float
    """Geometric means, as in the ratio; medians where there is a 0."""
    ratio: Interval | None
    """After over before, unpaired; None where the two cannot be compared."""
    verdict: str
    """faster, slower (of other units: less, more), no difference, undecided, or why not."""


def differences(metrics: Sequence[Metric]) -> list[Difference]:
    """Return a row for each metric that both sides have.

    Verdicts on processes are corrected for their number. Of one process each the interval is that
    of its rounds or samples, by the bootstrap, and the word is what it says. Two values on each
    side are the least for a verdict, and a ratio needs positive ones.
    """
    known = [metric for metric in metrics if metric.before and metric.after]
    reasons = [_why_not(metric) for metric in known]
    # Costs of the other before ours: a factor above 1 is that ours takes less.
    decided = iter(
        unpaired_verdicts(
            [
                (metric.before, metric.after)
                for metric, reason in zip(known, reasons, strict=True)
                if reason is None and metric.of_processes
            ]
        )
    )
    found = []
    for metric, reason in zip(known, reasons, strict=True):
        ratio, said = None, f"not comparable: {reason}"
        if reason is None:
            if metric.of_processes:
                word, gain, _ = next(decided)
            else:
                gain = unpaired_ratio_interval(metric.before, metric.after)
                word = speed.word_for(gain)
            high = 1 / gain.low if gain.low > 0 else float("inf")
            ratio = Interval(1 / gain.estimate, 1 / gain.high, high)
            words = TIME_WORDS if metric.unit == SECONDS else OTHER_WORDS
            said = words.get(word, word)
            if min(len(metric.before), len(metric.after)) < 2:
                said = "too few values"
            elif not metric.of_processes:
                said += ", one process each"
        found.append(Difference(metric, _middle(metric.before), _middle(metric.after), ratio, said))
    return found


def _middle(values: Sequence[float]) -> float:
    return geometric_mean(values) if min(values) > 0 else median(values)


def _why_not(metric: Metric) -> str | None:
    if metric.why_not is not None:
        return metric.why_not
    values = (*metric.before, *metric.after)
    if min(values) <= 0:
        return "there are values that are not positive"
    return None if min(values) >= 1 / MOST and max(values) <= MOST else "there are absurd values"


def of_runs(before: Record, after: Record) -> list[Metric]:
    """Return the metrics of two runs: one process each, whose rounds stand for the time."""
    why = why_no_ratio(after, before)
    metrics = _of_processes("", {0: before}, {0: after}, why)
    old, new = (
        [step_s / run.cells[0].global_batch for step_s in speed.round_step_s(run.cells[0])]
        for run in (before, after)
    )
    time = Metric("", "time per sample", SECONDS, old, new, why, of_processes=False)
    return [time, *metrics[1:]]


def of_sweeps(
    before: tuple[Sweep, Mapping[int, Records]], after: tuple[Sweep, Mapping[int, Records]]
) -> list[Metric]:
    """Return the metrics of the cells that both sweeps have: those of the same options."""
    (first, old), (second, new) = before, after
    where = {_options(second, index): index for index in range(len(second.cells))}
    metrics = []
    for index, cell in enumerate(first.cells):
        other = where.get(_options(first, index))
        if other is None or not old.get(index) or not new.get(other):
            continue
        one, two = next(iter(old[index].values())), next(iter(new[other].values()))
        metrics += _of_processes(cell.label, old[index], new[other], why_no_ratio(two, one))
    return metrics


def only_in_one(
    before: tuple[Sweep, Mapping[int, Records]], after: tuple[Sweep, Mapping[int, Records]]
) -> tuple[list[str], list[str]]:
    """Return the labels of the cells that were measured in the first only, and in the second."""
    sides = [
        {
            _options(sweep, index): cell.label
            for index, cell in enumerate(sweep.cells)
            if records.get(index)
        }
        for sweep, records in (before, after)
    ]
    return (
        [label for options, label in sides[0].items() if options not in sides[1]],
        [label for options, label in sides[1].items() if options not in sides[0]],
    )


def of_commits(
    before: Mapping[str, Benchmark], after: Mapping[str, Benchmark], why: str | None
) -> list[Metric]:
    """Return the benchmarks that both commits have; ``why`` says what speaks against all of them.

    A benchmark whose version differs measured something else.
    """
    metrics = []
    for name, one in before.items():
        two = after.get(name)
        if two is not None:
            changed = "another version of the benchmark" if one.version != two.version else None
            metrics.append(
                Metric(name, "", one.unit, one.samples, two.samples, why or changed, False)
            )
    return metrics


def _options(sweep: Sweep, index: int) -> str:
    return f"{sweep.command} {sweep.config(index).model_dump_json()}"


def _of_processes(where: str, before: Records, after: Records, why: str | None) -> list[Metric]:
    """Return all metrics of some processes; "time per sample" is the first."""
    metrics = [
        Metric(where, name, unit, _values(take, before), _values(take, after), why)
        for name, (unit, take) in METRICS.items()
    ]
    scores = dict.fromkeys(
        name for side in (before, after) for record in side.values() for name in _scores(record)
    )
    for name in scores:
        old, new = (
            [_scores(record)[name] for record in side.values() if name in _scores(record)]
            for side in (before, after)
        )
        metrics.append(Metric(where, f"test {name}", "", old, new, why))
    return metrics


def _values(take: Callable[[Record], float | None], records: Records) -> list[float]:
    found = [take(record) for record in records.values()]
    return [value for value in found if value is not None]


def _exposed(record: Record) -> float | None:
    share = speed.exposed_communication(record)
    return None if share is None else share.estimate


def _energy(record: Record, kind: str) -> float | None:
    return speed.energy_j_per_sample(record.cells[0]).get(kind)


def _to_train(record: Record) -> float | None:
    return None if record.training is None else time_to_train_s(record.training)


def _scores(record: Record) -> dict[str, float]:
    test = None if record.training is None else record.training.test
    return {} if test is None else dict(test.metrics)


METRICS: dict[str, tuple[str, Callable[[Record], float | None]]] = {
    "time per sample": (SECONDS, sample_seconds),
    "time to first step": (SECONDS, lambda record: max(record.cells[0].time_to_first_step_s)),
    "time to train": (SECONDS, _to_train),
    "exposed communication": (SHARE, _exposed),
    "GPU energy per sample": ("J", lambda record: _energy(record, "GPU")),
    "CPU energy per sample": ("J", lambda record: _energy(record, "CPU")),
    "peak memory": ("MiB", lambda record: speed.peak_mib(record.cells[0])),
}
"""Of one process: the unit, and the value or None. Of all of them less is better."""
