"""Several runs side by side: a table and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from perfkit.analysis import speed
from perfkit.analysis.compare import throughput_ratio, why_no_ratio
from perfkit.analysis.training import best_epoch, time_to_train_s
from perfkit.core.errors import PerfkitError
from perfkit.core.files import replacing
from perfkit.core.record import Record
from perfkit.report.console import borderless_table, print_lines
from perfkit.report.figures import BAR, BAR_HEIGHT, CEILING, OUTLINE, ROUND, literal, tidy
from perfkit.report.terminal import (
    COSTS,
    PHASE_NAMES,
    device_words,
    preprocess_words,
    title,
)
from perfkit.report.training import METRIC_NAMES
from perfkit.report.words import duration, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OF_THE_RUN = ("name", "runs", "resume", "baseline")  # options that change nothing that is measured
SUFFIXES = (".png", ".svg", ".pdf")

STEP: dict[str, Any] = {"s": 9, "color": "black", **OUTLINE}
SERIAL: dict[str, Any] = {"s": 36, "marker": "D", "facecolor": "white", "edgecolor": "black"}
PHASE_COLOURS = {
    "data_wait": "#999999",
    "host_to_device": "#e69f00",
    "preprocess": "#cc79a7",
    "forward": "#56b4e9",
    "backward": "#0072b2",
    "optimizer": "#009e73",
    "other": "#dddddd",
}
SAMPLES = {
    "quick look": ("timed pass", "one round"),
    "own loop": ("timed pass", "one round"),
    "training": ("training", "one epoch"),
}


def measured(records: Sequence[Record], paths: Sequence[Path]) -> list[Record]:
    """Return the records; PerfkitError for one in which nothing was timed."""
    for record, path in zip(records, paths, strict=True):
        if not record.cells[0].blocks:
            raise PerfkitError(
                f"{path}: the run stopped before its first timed block; run it again"
            )
    return list(records)


def print_comparison(records: Sequence[Record], console: Console) -> None:
    """Print a row a run: what each cost, and its ratio to the first where there is one."""
    letters = ascii_uppercase[: len(records)]
    named = list(zip(letters, records, strict=True))
    titles = [(letter, f"{record.name}: {title(record)}") for letter, record in named]
    preprocessed = [preprocess_words(record.cells[0]) for record in records]
    if len(set(preprocessed)) > 1:
        titles = [
            (letter, f"{name}, preprocess: {words}")
            for (letter, name), words in zip(titles, preprocessed, strict=True)
        ]
    print_lines(titles, console, key_width=1)
    differ = [(letter, _differing(record, records[0])) for letter, record in named[1:]]
    print_lines([line for line in differ if line[1]], console, key_width=1)
    table = borderless_table()
    table.add_column("", style="bold")
    for cost in COSTS:
        table.add_column(cost.heading, justify="right", no_wrap=True)
    table.add_column("samples/s\nvs A", justify="right", no_wrap=True)
    for letter, record in named:
        told = (cost.tell(record, record.cells[0]) for cost in COSTS)
        table.add_row(letter, *told, _ratio(record, records[0]))
    console.print()
    console.print(table)
    console.print()
    if any(record.training is not None for record in records):
        console.print(_worth_table(named))
        console.print()
    reasons = [(letter, why_no_ratio(record, records[0])) for letter, record in named]
    refused = [(letter, f"has no ratio to A: {reason}") for letter, reason in reasons if reason]
    print_lines(refused, console, key_width=1)
    taints = [(letter, taint) for letter, record in named for taint in record.taints]
    print_lines(taints, console, key_width=1, style="yellow")


def _differing(record: Record, reference: Record) -> str:
    """Return in which options a run differs from another; what was left open is filled in."""
    mine, other = (dict(one.config) for one in (record, reference))
    told = [
        f"{option}={mine[option]} (A: {other[option]})"
        for option in sorted(mine.keys() & other.keys() - set(OF_THE_RUN))
        if mine[option] != other[option]
    ]
    return f"differs from A in {', '.join(told)}" if told else ""


def _worth_table(named: Sequence[tuple[str, Record]]) -> Table:
    """Return a row a training: what it took, and what its best model is worth."""
    table = borderless_table()
    table.add_column("", style="bold")
    for heading in ("epochs", "time to\ntrain", "best\nepoch", "validation\nloss"):
        table.add_column(heading, justify="right", no_wrap=True)
    trainings = [record.training for _, record in named if record.training is not None]
    scored = [training.test or best_epoch(training).validation for training in trainings]
    metrics = list(dict.fromkeys(name for evaluation in scored for name in evaluation.metrics))
    for name in ("loss", *metrics):
        heading = f"test\n{METRIC_NAMES.get(name, name)}"
        table.add_column(heading, justify="right", no_wrap=True)
    for letter, record in named:
        training = record.training
        if training is None:
            continue
        best = best_epoch(training)
        row = [
            f"{len(training.epochs)}",
            duration(time_to_train_s(training)),
            f"{best.epoch}",
            f"{best.validation.loss:.4f}",
        ]
        if training.test is not None:
            values = {"loss": training.test.loss, **training.test.metrics}
            row += [f"{values[name]:.4f}" if name in values else "-" for name in ("loss", *metrics)]
        table.add_row(letter, *row)
    return table


def draw_comparison(records: Sequence[Record], path: Path) -> None:
    """Write a figure of every sample of every run: samples a second, and where a step goes.

    Raises PerfkitError where the file cannot be written; then nothing is left of it.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PerfkitError(f"--figure {path}: has to end in one of {', '.join(SUFFIXES)}")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2 + 0.65 * len(records)), layout="constrained")
    workloads = dict.fromkeys(record.config.workload for record in records)
    hardware = dict.fromkeys(record.environment.hardware for record in records)
    figure.suptitle(literal(f"{', '.join(workloads)} on {' | '.join(hardware)}"), fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    _throughput(left, records)
    _steps(right, records)
    names = [_row_name(letter, r) for letter, r in zip(ascii_uppercase, records, strict=False)]
    left.set_yticks(range(len(records)), names, fontsize=8)
    left.set_ylim(len(records) - 0.5, -0.5)
    left.set_xlim(left=0)
    right.set_xlim(left=0)
    tidy(figure, {"left": left, "right": right})
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
    except OSError as error:
        raise PerfkitError(
            f"--figure {path}: cannot be written ({error.strerror or error})"
        ) from None


def _throughput(axes: Axes, records: Sequence[Record]) -> None:
    """The timed pass as a bar, every round as a dot, and what serial did in the same rounds."""
    for row, record in enumerate(records):
        cell = record.cells[0]
        rate = speed.samples_per_s(cell)
        rounds = [cell.global_batch / seconds for seconds in speed.round_step_s(cell)]
        beside = [one for one in speed.baselines(record) if one.role == "baseline"]
        serial = [speed.samples_per_s(one) for one in beside[:1]]
        ceiling = [one * cell.ceiling for one in serial]
        ends = (row - BAR_HEIGHT / 2, row + BAR_HEIGHT / 2)
        whole, part = SAMPLES[record.kind]
        axes.barh(row, rate, height=BAR_HEIGHT, color=BAR, label=whole)
        axes.scatter(rounds, _spread(row, rounds), label=part, **ROUND)
        if serial:
            axes.vlines(ceiling, *ends, color=CEILING, lw=3, label="ceiling of the strategy")
            axes.scatter(serial, [row], label="serial on one device", zorder=3, **SERIAL)
        _at_the_end(axes, row, f"{significant(rate)}/s")
    axes.set_xlabel("samples per second over all ranks")


def _steps(axes: Axes, records: Sequence[Record]) -> None:
    """The mean phases of the slowest rank as a bar, and each of its steps as a dot."""
    means = [speed.phases(record.cells[0]) for record in records]
    times = [
        speed.host_step_s(record.cells[0], mean.rank)
        for record, mean in zip(records, means, strict=True)
    ]
    shown = {
        name: words
        for name, words in PHASE_NAMES.items()
        if any(name in mean.seconds for mean in means)
    }
    factor, unit = (1e3, "milliseconds") if max(map(max, times)) < 1 else (1.0, "seconds")
    for row, mean in enumerate(means):
        start = 0.0
        for name, words in shown.items():
            width = mean.seconds.get(name, 0.0) * factor
            colour = PHASE_COLOURS[name]
            axes.barh(row, width, left=start, height=BAR_HEIGHT, color=colour, label=words)
            start += width
        steps = [seconds * factor for seconds in times[row]]
        axes.scatter(steps, _spread(row, steps), label="one step", **STEP)
        _at_the_end(axes, row, duration(speed.step_s(records[row].cells[0])))
    axes.set_xlabel(f"{unit} per step of the slowest rank (host clock)")


def _at_the_end(axes: Axes, row: int, text: str) -> None:
    """Write beside the axes, where no sample can be."""
    beside = axes.get_yaxis_transform()  # x in axes, y in data
    axes.text(1.01, row, text, transform=beside, va="center", fontsize=9)


def _spread(row: int, values: Sequence[float]) -> list[float]:
    """Return heights over the bar, first to last, so that no dot hides another and drift shows."""
    count = len(values)
    return [row + 0.8 * BAR_HEIGHT * ((index + 0.5) / count - 0.5) for index in range(count)]


def _row_name(letter: str, record: Record) -> str:
    cell = record.cells[0]
    incomplete = "" if record.status == "complete" else " (incomplete)"
    return f"{letter}   {cell.label}\non {device_words(cell)}\n{record.name}{incomplete}"


def _ratio(record: Record, reference: Record) -> str:
    return "-" if why_no_ratio(record, reference) else f"{throughput_ratio(record, reference):.2f}x"
