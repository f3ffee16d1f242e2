"""What the cells of a sweep gain over serial training, and the curves they lie on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, NamedTuple

from perfkit.analysis import speed
from perfkit.analysis.compare import work
from perfkit.analysis.scaling import Fit, amdahl, karp_flatt, usl, why_no_fit
from perfkit.analysis.sweep import Row, in_both
from perfkit.core.stats import Interval, ratio_interval

DATA_PARALLEL = "ddp"
"""The strategy whose devices all do the same: laws of scaling are about such."""

Axis = Literal["devices", "threads"]


class Gain(NamedTuple):
    """What a cell gains over a serial one, within the rounds that both have."""

    baseline: str
    """Label of the serial cell."""
    factor: Interval
    """Times the samples a second: under strong scaling the speedup, under weak scaling the scaled
    throughput X(N) / X(1)."""


@dataclass(frozen=True)
class Scaled:
    """A cell on several devices beside serial training of the same."""

    row: Row
    devices: int
    equal_threads: Gain | None
    """Over serial training on as many threads as each rank has (on a GPU, on one GPU): what the
    devices bring. None where the sweep has no such cell."""
    equal_cores: Gain | None
    """Over serial training on as many threads as all ranks have together: what choosing the
    strategy brings. None on a GPU, where that is the same, or without such a cell."""

    @property
    def scaling(self) -> str:
        """Strong or weak; the two are never put side by side."""
        return next(iter(self.row.records.values())).scaling

    @property
    def efficiency(self) -> Interval | None:
        """The gain over equal threads, over the number of devices."""
        gain = self.equal_threads
        return None if gain is None else Interval(*(x / self.devices for x in gain.factor))

    @property
    def serial_fraction(self) -> Interval | None:
        """The experimentally determined serial fraction (`karp_flatt`).

        Of data parallel training under strong scaling; else None.
        """
        gain = self.equal_threads
        if gain is None or self.row.cell.strategy != DATA_PARALLEL or self.scaling != "strong":
            return None
        of = [karp_flatt(value, self.devices) for value in gain.factor if value > 0]
        return Interval(of[0], of[-1], of[1]) if len(of) == len(gain.factor) else None

    @property
    def exposed_communication(self) -> float | None:
        """Share of a step that exchanging gradients adds: median over the processes."""
        found = [speed.exposed_communication(record) for record in self.row.records.values()]
        known = [share.estimate for share in found if share is not None]
        return median(known) if known else None


@dataclass(frozen=True)
class Curve:
    """Cells that differ in the number of devices, or of threads, and in nothing else."""

    label: str
    axis: Axis
    same_work: bool
    """The global batch is the same at every count: seconds for the same work can be compared."""
    points: dict[int, Row]
    """By the count on the axis, in its order."""

    @property
    def rates(self) -> list[float]:
        """Samples a second at each count: medians over the processes."""
        return [row.samples_per_s.median for row in self.points.values()]

    def why_no_law(self) -> str | None:
        """Return why no law can be fitted, or None."""
        return why_no_fit(list(self.points))

    def laws(self) -> dict[str, Fit]:
        """Return what was fitted, by "Amdahl" and "USL": the first for the same work only.

        Raises ValueError as `why_no_law` says.
        """
        counts = list(self.points)
        found = {"USL": usl(counts, self.rates)}
        if self.same_work:
            found["Amdahl"] = amdahl(counts, [1 / rate for rate in self.rates])
        return found


def scaled(rows: Sequence[Row]) -> list[Scaled]:
    """Return every row on several devices beside the serial rows of the same work."""
    found = []
    for row in rows:
        devices, cell = speed.devices(row.cell), row.cell
        if devices < 2:
            continue
        kin = [one for one in rows if one.cell.strategy == "serial" and _work(one) == _work(row)]
        if speed.is_on_cuda(cell):
            found.append(Scaled(row, devices, _gain(row, kin), None))
            continue
        per_rank = [one for one in kin if one.cell.threads == cell.threads]
        in_all = [one for one in kin if one.cell.threads == cell.ranks * cell.threads]
        equal_cores = _gain(row, in_all) if cell.ranks > 1 else None
        found.append(Scaled(row, devices, _gain(row, per_rank), equal_cores))
    return found


def curves(rows: Sequence[Row]) -> list[Curve]:
    """Return the curves with two counts or more: data parallel over devices, any over threads.

    Serial training is data parallel on one device. Ranks and threads are axes of their own.
    """
    over_devices: dict[object, dict[int, Row]] = {}
    over_threads: dict[object, dict[int, Row]] = {}
    for row in rows:
        cell = row.cell
        threads = None if speed.is_on_cuda(cell) else cell.threads
        if cell.strategy in ("serial", DATA_PARALLEL):
            key = (_work(row), threads)
            over_devices.setdefault(key, {}).setdefault(speed.devices(cell), row)
        if threads is not None:
            same = (_work(row), cell.strategy, cell.ranks, cell.devices_per_rank)
            over_threads.setdefault(same, {}).setdefault(threads, row)
    found = [
        *(_curve("devices", points) for points in over_devices.values() if len(points) > 1),
        *(_curve("threads", points) for points in over_threads.values() if len(points) > 1),
    ]
    often = Counter(curve.label for curve in found)
    return [_with_last_cell(curve) if often[curve.label] > 1 else curve for curve in found]


def _with_last_cell(curve: Curve) -> Curve:
    """Return a curve whose label names its last cell, which tells it from others like it."""
    last = curve.points[max(curve.points)].label
    return replace(curve, label=f"{curve.label} (up to {last})")


def _curve(axis: Axis, points: dict[int, Row]) -> Curve:
    cell = points[max(points)].cell
    if axis == "threads":
        ranks = f" on {cell.ranks} ranks" if cell.ranks > 1 else ""
        label = f"{cell.strategy}{ranks}, over threads a rank"
    else:
        threads = "" if speed.is_on_cuda(cell) else f", {_threads(cell.threads)} a rank"
        label = f"{cell.strategy} over devices{threads}"
    batches = {row.cell.global_batch for row in points.values()}
    return Curve(label, axis, len(batches) == 1, dict(sorted(points.items())))


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _gain(row: Row, baselines: Sequence[Row]) -> Gain | None:
    """Return the gain over the first of these serial rows that has a round in common."""
    for baseline in baselines:
        both = in_both(baseline.sample_s, row.sample_s)
        if both[0]:
            return Gain(baseline.label, ratio_interval(*both))
    return None


def _work(row: Row) -> tuple[object, ...]:
    """Return what has to be the same for a difference to be one of devices or threads."""
    cell = row.cell
    same = work(next(iter(row.records.values())))
    return (*same.values(), cell.workers, cell.precision, cell.preprocess, cell.ops)
