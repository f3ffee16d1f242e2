"""Which cell of a sweep to use, for what, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from perfkit.analysis import speed
from perfkit.analysis.sweep import Row, in_both
from perfkit.core.record import Record
from perfkit.core.stats import Verdict, verdicts

Goal = Literal["time", "throughput per device", "memory"]


@dataclass(frozen=True)
class Recommendation:
    """The best cell for a goal, or those among which no best can be told."""

    goal: Goal
    best: list[str]
    """One label where the best is decided; several that cannot be told apart, cheapest first."""
    runner_up: str | None
    """The next cheapest, of those that cannot be told apart where there are any; None where there
    is no other."""
    verdict: Verdict | None
    """Of the cheapest cell against the runner-up."""


def recommend(rows: Sequence[Row]) -> list[Recommendation]:
    """Return a recommendation for every goal that the Records of the sweep tell about.

    The cheapest cell is recommended where it is faster (or takes less) than the next by the
    interval of their common rounds, corrected for the number of other cells; cells that differ from
    it by less than can be told are named beside it. Cells without a ratio to the first, such as
    those of another model, do other work and are left out.
    """
    rows = [row for row in rows if row.no_ratio is None]
    found = []
    for goal in ("time", "throughput per device", "memory"):
        costs = {row.label: _costs(goal, row) for row in rows}
        if all(costs.values()):
            found.append(_best(goal, costs))
    return found


def rounds_to_add(rows: Sequence[Row]) -> int | None:
    """Return about how many more rounds would tell the best cell for time.

    None where it is told, or where nothing tells.
    """
    for one in recommend(rows):
        if one.goal == "time" and one.verdict is not None and len(one.best) > 1:
            return one.verdict.more_rounds
    return None


def _best(goal: Goal, costs: dict[str, dict[int, float]]) -> Recommendation:
    order = sorted(costs, key=lambda label: median(costs[label].values()))
    best, others = order[0], order[1:]
    others = [label for label in others if costs[label].keys() & costs[best].keys()]
    decided = verdicts([in_both(costs[label], costs[best]) for label in others])
    tied = [
        label for label, verdict in zip(others, decided, strict=True) if verdict.word != "faster"
    ]
    if not others:
        return Recommendation(goal, [best], None, None)
    next_one = (tied or others)[0]
    return Recommendation(goal, [best, *tied], next_one, decided[others.index(next_one)])


def _costs(goal: Goal, row: Row) -> dict[int, float]:
    """Return what the goal wants little of, by round; empty where it is not known."""
    if goal == "time":
        return row.sample_s
    if goal == "throughput per device":
        devices = speed.devices(row.cell)
        return {index: seconds * devices for index, seconds in row.sample_s.items()}
    peaks = {index: _peak(record) for index, record in row.records.items()}
    return {index: peak for index, peak in peaks.items() if peak}  # 0: nothing on its GPUs


def _peak(record: Record) -> float | None:
    return speed.peak_mib(record.cells[0])
