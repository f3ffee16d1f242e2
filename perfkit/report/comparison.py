"""Several runs side by side: a table and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from perfkit.analysis import speed
from perfkit.analysis.compare import throughput_ratio, why_no_ratio
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Record
from perfkit.report.terminal import cost_rows, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")


def measured(records: Sequence[Record], paths: Sequence[Path]) -> list[Record]:
    """Return the records; PerfkitError for one in which nothing was timed."""
    for record, path in zip(records, paths, strict=True):
        if not record.cells[0].blocks:
            raise PerfkitError(
                f"{path}: the run stopped before its first timed block; run it again"
            )
    return list(records)


def print_comparison(records: Sequence[Record], console: Console) -> None:
    """Print the runs in columns: what each cost, and its ratio to the first where there is one."""
    letters = ascii_uppercase[: len(records)]
    for letter, record in zip(letters, records, strict=True):
        console.print(f"[bold]{letter}[/bold]  {_name(record)}: {title(record)}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for letter, record in zip(letters, records, strict=True):
        table.add_column(f"{letter}\n{record.cells[0].strategy}", justify="right")
    for name, value in cost_rows():
        table.add_row(name, *(value(record, record.cells[0]) for record in records))
    table.add_row("samples/s, relative to A", *(_ratio(record, records[0]) for record in records))
    console.print(Padding(table, (1, 0)))
    for letter, record in zip(letters, records, strict=True):
        reason = why_no_ratio(record, records[0])
        if reason:
            console.print(f"{letter} has no ratio to A: {reason}", soft_wrap=True)
        for taint in record.taints:
            console.print(f"[yellow]{letter}:[/yellow] {taint}", soft_wrap=True)


def draw_comparison(records: Sequence[Record], path: Path) -> None:
    """Write a figure of every round of every run: samples a second, and where a step goes."""
    if path.suffix not in SUFFIXES:
        raise PerfkitError(f"--figure {path}: has to end in one of {', '.join(SUFFIXES)}")
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    height = 1.6 + 0.55 * len(records)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, height), sharey=True, layout="constrained"
    )
    names = [f"{_name(record)}\n{record.cells[0].label}" for record in records]
    _draw_throughput(left, records)
    _draw_phases(right, records)
    left.set_yticks(range(len(records)), names, fontsize=8)
    left.invert_yaxis()
    first = records[0]
    figure.suptitle(f"{first.config.workload} · {first.environment.hardware}", fontsize=10)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise PerfkitError(f"--figure {path}: cannot be written ({error.strerror})") from None
    finally:
        plt.close(figure)


def _draw_throughput(axes: Axes, records: Sequence[Record]) -> None:
    """Every round as a dot, the whole pass as a bar, and what the strategy could reach."""
    for row, record in enumerate(records):
        cell = record.cells[0]
        axes.barh(row, speed.samples_per_s(cell), height=0.55, color="#9ecae1", zorder=1)
        rounds = [cell.global_batch / seconds for seconds in speed.round_step_s(cell)]
        axes.scatter(rounds, [row] * len(rounds), s=14, color="#08519c", zorder=3)
        baselines = speed.baselines(record)
        if baselines:
            ideal = speed.samples_per_s(baselines[0]) * cell.ceiling
            axes.plot([ideal, ideal], [row - 0.36, row + 0.36], color="#d95f02", lw=2, zorder=2)
    axes.plot([], [], color="#d95f02", lw=2, label="ceiling: serial (same threads) x ceiling")
    axes.scatter([], [], s=14, color="#08519c", label="one round")
    axes.set_xlabel("samples per second")
    axes.set_xlim(left=0)
    axes.legend(fontsize=7, loc="lower right")


def _draw_phases(axes: Axes, records: Sequence[Record]) -> None:
    colours = ["#bdbdbd", "#fdae6b", "#6baed6", "#2171b5", "#74c476", "#f0f0f0"]
    for row, record in enumerate(records):
        left = 0.0
        seconds = speed.phases(record.cells[0]).seconds
        for colour, (name, value) in zip(colours, seconds.items(), strict=True):
            label = name.replace("_", " ") if row == 0 else None
            axes.barh(row, value, left=left, height=0.55, color=colour, label=label)
            left += value
    axes.set_xlabel("seconds per step, slowest rank (host clock)")
    axes.legend(fontsize=7, loc="lower right")


def _name(record: Record) -> str:
    return record.name + ("" if record.status == "complete" else " (incomplete)")


def _ratio(record: Record, reference: Record) -> str:
    return "-" if why_no_ratio(record, reference) else f"{throughput_ratio(record, reference):.2f}x"
