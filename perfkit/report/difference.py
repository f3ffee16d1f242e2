"""Before and after as a table, for two runs, two sweeps or two commits."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from perfkit.analysis.diff import SECONDS, SHARE, Difference
from perfkit.report.console import borderless_table
from perfkit.report.words import bounds, duration, significant


def print_differences(found: Sequence[Difference], console: Console) -> None:
    """Print a row a metric: before, after, after over before with its interval, and the verdict."""
    with_place = any(row.metric.where for row in found)
    with_name = any(row.metric.name for row in found)
    table = borderless_table()
    if with_place:
        table.add_column("", style="bold")
    if with_name:
        table.add_column("", style="bold")
    for heading in ("before", "after", "after / before", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    last = None
    for row in found:
        place = row.metric.where if row.metric.where != last else ""
        last = row.metric.where
        ratio = "-" if row.ratio is None else f"{row.ratio.estimate:.3f}x"
        sure = row.ratio is not None and row.ratio.low > 0
        table.add_row(
            *([place] if with_place else []),
            *([row.metric.name] if with_name else []),
            *(_told(value, row.metric.unit) for value in (row.before, row.after)),
            ratio,
            bounds(row.ratio) if row.ratio is not None and sure else "",
            row.verdict,
        )
    console.print(table)
    console.print("of several values the geometric mean, as in the ratio")


def _told(value: float, unit: str) -> str:
    if unit == SECONDS:
        return duration(value)
    if unit == SHARE:
        return f"{value:.1%}"
    return f"{significant(value)} {unit}".rstrip()
