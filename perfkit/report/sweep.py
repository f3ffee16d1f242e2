"""A sweep as a table (terminal, Markdown, CSV) and as sentences."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from perfkit.analysis import speed
from perfkit.analysis.recommendation import Goal, Recommendation, recommend
from perfkit.analysis.sweep import Row, sweep_drift
from perfkit.analysis.sweep_scaling import curves, scaled
from perfkit.analysis.training import time_to_train_s
from perfkit.core.config import Precision, StrategyName
from perfkit.core.files import replacing
from perfkit.core.record import FOREIGN_LOAD, FOREIGN_LOAD_BOUND
from perfkit.core.stats import CONFIDENCE, Verdict
from perfkit.core.sweep import Sweep
from perfkit.report.console import Line, borderless_table, print_lines
from perfkit.report.scaling import by_mode, formatted_scaling, plain_scaling, scaling_lines
from perfkit.report.terminal import foreign_share
from perfkit.report.training import METRIC_NAMES
from perfkit.report.words import bounds, count_of, duration, energy_words, significant

DRIFT_BOUND = 0.05  # of the machine over the sweep; less is not worth a notice
KEY_WIDTH = 25
COSTS_OF: dict[Goal, str] = {
    "time": "the time",
    "throughput per device": "the device time",
    "memory": "the memory",
}
TOLD_ELSEWHERE = ("workload", "data", "image_size")
MOST_MORE = 99  # rounds that are told in figures: nobody adds more
MOST_NAMED = 3  # cells that share a notice are named up to this number


def print_sweep(sweep: Sweep, rows: Sequence[Row], missing: int, console: Console) -> None:
    """Print what was measured and what it comes to."""
    console.print()
    console.print(f"{sweep.name}: {count_of(len(sweep.cells), 'cell')}", style="bold")
    print_lines(_conditions(sweep, rows, missing), console)
    for lines in tables(rows):
        console.print()
        console.print(_table(lines))
    console.print()
    print_lines(scaling_lines(scaled(rows), curves(rows)), console, key_width=KEY_WIDTH)
    print_lines(answers(sweep, rows), console, key_width=KEY_WIDTH)
    print_lines(
        [("notice", notice) for notice in notices(sweep, rows)],
        console,
        key_width=KEY_WIDTH,
        style="yellow",
    )


def tables(rows: Sequence[Row]) -> list[list[list[str]]]:
    """Return the table of all cells, and one of those on several devices for each scaling mode."""
    return [formatted(rows), *(formatted_scaling(part) for part in by_mode(scaled(rows)))]


def _table(lines: Sequence[Sequence[str]]) -> Table:
    table = borderless_table()
    headings, *body = lines
    table.add_column(headings[0], style="bold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in body:
        table.add_row(*line)
    return table


def formatted(rows: Sequence[Row]) -> list[list[str]]:
    """Return headings and a line for every row, as text."""
    first = rows[0].label
    trained = [row for row in rows if _metrics(row)]
    counted = any(row.energy_j_per_sample for row in rows)
    names = list(dict.fromkeys(name for row in trained for name in _metrics(row)))
    table = [
        [
            *("cell", "step", "IQR", "samples/s", f"vs {first}", "95 %", "verdict"),
            *("ceiling", "first step", "peak memory"),
            *(["energy a sample"] if counted else []),
            *(["time to train"] if trained else []),
            *(f"test {METRIC_NAMES.get(name, name)}" for name in names),
        ]
    ]
    for row in rows:
        step, peak = row.step_s, row.peak_mib
        verdict = row.verdict
        table.append(
            [
                row.label,
                duration(step.median),
                f"{(step.third - step.first) / step.median:.0%}",
                significant(row.samples_per_s.median),
                "" if verdict is None else f"{verdict.gain.estimate:.2f}x",
                "" if verdict is None else bounds(verdict.gain),
                "" if verdict is None else verdict_words(verdict),
                f"{row.cell.ceiling:g}x",
                duration(row.time_to_first_step_s),
                "?" if peak is None else f"{peak:,.0f} MiB",
                *([energy_words(row.energy_j_per_sample)] if counted else []),
                *([duration(_time_to_train_s(row))] if trained else []),
                *(f"{_metrics(row)[name]:.4f}" if name in _metrics(row) else "-" for name in names),
            ]
        )
    return table


def verdict_words(verdict: Verdict) -> str:
    """Return a verdict as the table has it."""
    if verdict.more_rounds is None:
        return verdict.word
    if verdict.more_rounds > MOST_MORE:
        return f"{verdict.word}, >{MOST_MORE} more"
    return f"{verdict.word}, ~{verdict.more_rounds} more"


def write_tables(sweep: Sweep, rows: Sequence[Row], missing: int, folder: Path) -> list[Path]:
    """Write what is printed as ``table.md``, and ``table.csv``, in seconds, MiB and joules.

    OSError where they cannot be written.
    """
    markdown, comma = folder / "table.md", folder / "table.csv"
    told = [("notice", notice) for notice in notices(sweep, rows)]
    parts = [
        f"# {sweep.name}\n",
        _listed(_conditions(sweep, rows, missing)),
        *map(_marked, tables(rows)),
        _listed([*scaling_lines(scaled(rows), curves(rows)), *answers(sweep, rows), *told]),
    ]
    with replacing(markdown) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")
    gains = {one.row.label: plain_scaling(one) for one in scaled(rows)}
    plain = [_plain(row) | gains.get(row.label, {}) for row in rows]
    columns = list(dict.fromkeys(name for values in plain for name in values))
    with replacing(comma) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(plain)
    return [markdown, comma]


def _listed(lines: Sequence[Line]) -> str:
    """Return lines as a list in Markdown."""
    return "".join(f"- **{key}**: {text}\n" for key, text in lines)


def _marked(lines: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    headings, *body = lines
    ruler = ["---", *["---:"] * (len(headings) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in (headings, ruler, *body))


def answers(sweep: Sweep, rows: Sequence[Row]) -> list[Line]:
    """Return what to use for which goal, and what that does not say."""
    lines = [(f"for {one.goal}", _advice(one)) for one in recommend(rows)] if len(rows) > 1 else []
    lines += [("skipped", f"{c.label}: {c.skipped}") for c in sweep.cells if c.skipped is not None]
    configs = [sweep.config(index) for index in range(len(sweep.cells))]
    tried = {name for config in configs for name in (config.strategy, config.precision)}
    known = (*get_args(StrategyName), *get_args(Precision))
    others = [name for name in known if name not in tried]
    if others:
        lines.append(("not tried", ", ".join(others)))
    return lines


def notices(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """Return what makes the numbers doubtful."""
    found = [f"{row.label}: {_far(row.slow_rounds)}" for row in rows if row.slow_rounds]
    if sweep.rounds_before:
        before = ", then ".join(f"{rounds}" for rounds in sweep.rounds_before)
        found.append(
            f"rounds were added: first there were {before}; whoever adds them until a result "
            "appears finds one more often by chance than the intervals say"
        )
    found += [
        f"{row.label}: has no ratio to {rows[0].label}: {row.no_ratio}"
        for row in rows
        if row.no_ratio is not None
    ]
    moved = sweep_drift(rows)
    if moved is not None and moved.p_value < 1 - CONFIDENCE:
        change = moved.factor - 1
        if abs(change) > DRIFT_BOUND:
            found.append(
                f"the machine became {abs(change):.0%} {'slower' if change > 0 else 'faster'} over "
                "the sweep: ratios within rounds stand, absolute times are of their moment"
            )
    busy = {row.label: max(foreign_share(r.cells[0]) for r in row.records.values()) for row in rows}
    crowded = [label for label, share in busy.items() if share > FOREIGN_LOAD_BOUND]
    if crowded:
        most = max(busy.values())
        found.append(f"{_named(crowded)}: other processes took up to {most:.0%} of the CPU time")
    taints: dict[str, list[str]] = {}
    for row in rows:
        told = {taint for record in row.records.values() for taint in record.taints}
        for taint in sorted(taint for taint in told if not taint.startswith(FOREIGN_LOAD)):
            taints.setdefault(taint, []).append(row.label)
    return found + [f"{_named(labels)}: {taint}" for taint, labels in taints.items()]


def _far(rounds: Sequence[int]) -> str:
    if len(rounds) == 1:
        return f"round {rounds[0] + 1} lies far from the others, and is kept"
    *most, last = (f"{number + 1}" for number in rounds)
    return f"rounds {', '.join(most)} and {last} lie far from the others, and are kept"


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    return ", ".join(labels[:MOST_NAMED]) + more


def _conditions(sweep: Sweep, rows: Sequence[Row], missing: int) -> list[Line]:
    record = next(iter(rows[0].records.values()))
    config = record.config
    processes = sum(len(row.records) for row in rows)
    px = f", {config.image_size} x {config.image_size} px" if config.image_size else ""
    short = f"; {missing} of them missing" if missing else ""
    base = _base(sweep)
    return [
        ("workload", f"{config.workload} on {record.data.name}{px}"),
        *([("base", base)] if base else []),
        ("machine", f"{sweep.hardware}; torch {record.environment.versions.get('torch', '?')}"),
        (
            "measured",
            f"{processes} fresh processes of perfkit {sweep.command}: every cell once in each of "
            f"{sweep.rounds} rounds, in random order{short}",
        ),
        ("scaling", f"{record.scaling}: the {_fixed(record.scaling)} batch is fixed"),
    ]


def _base(sweep: Sweep) -> str:
    """Return the options that cells have where their names say nothing else."""
    named = sweep.cells[0].label.split()
    options = sweep.cells[0].options.items()
    told = (f"{option}={value}" for option, value in options if option not in TOLD_ELSEWHERE)
    return " ".join(word for word in told if word not in named)


def _fixed(scaling: str) -> str:
    return "global" if scaling == "strong" else "local"


def _advice(one: Recommendation) -> str:
    if one.verdict is None or one.runner_up is None:
        return one.best[0]
    gain = f"{one.verdict.gain.estimate:.2f}x {bounds(one.verdict.gain)}"
    if len(one.best) > 1:
        more = one.verdict.more_rounds or 0
        rounds = f"; about {count_of(more, 'more round')} would tell" if more else ""
        if more > MOST_MORE:
            rounds = f"; more than {MOST_MORE} more rounds would have to tell"
        same = "is equal" if one.verdict.word == "equal" else "tells nothing"
        return (
            f"no recommendation among {_named(one.best)}: {one.runner_up} takes {gain} "
            f"{COSTS_OF[one.goal]} of {one.best[0]}, which {same}{rounds}"
        )
    return f"{one.best[0]}; the runner-up, {one.runner_up}, takes {gain} {COSTS_OF[one.goal]}"


def _metrics(row: Row) -> dict[str, float]:
    """Return the medians of what the trainings scored on the test set; empty for a profile."""
    scores: dict[str, list[float]] = {}
    for record in row.records.values():
        if record.training is not None and record.training.test is not None:
            for name, value in record.training.test.metrics.items():
                scores.setdefault(name, []).append(value)
    return {name: median(values) for name, values in scores.items()}


def _time_to_train_s(row: Row) -> float:
    times = [time_to_train_s(r.training) for r in row.records.values() if r.training is not None]
    return median(times)


def _plain(row: Row) -> dict[str, Any]:
    cell, step, verdict = row.cell, row.step_s, row.verdict
    values: dict[str, Any] = {
        "cell": row.label,
        "strategy": cell.strategy,
        "ranks": cell.ranks,
        "devices": speed.devices(cell),
        "threads": cell.threads,
        "workers": cell.workers,
        "precision": cell.precision,
        "ops": cell.ops,
        "local_batch": cell.local_batch,
        "global_batch": cell.global_batch,
        "processes": len(row.records),
        "step_s_first_quartile": step.first,
        "step_s_median": step.median,
        "step_s_third_quartile": step.third,
        "samples_per_s_median": row.samples_per_s.median,
        "ceiling": cell.ceiling,
        "time_to_first_step_s": row.time_to_first_step_s,
        "peak_mib": row.peak_mib,
        **{f"{kind.lower()}_j_per_sample": used for kind, used in row.energy_j_per_sample.items()},
    }
    if verdict is not None:
        values |= {
            "gain": verdict.gain.estimate,
            "gain_low": verdict.gain.low,
            "gain_high": verdict.gain.high,
            "verdict": verdict.word,
            "more_rounds": verdict.more_rounds,
        }
    if _metrics(row):
        values |= {"time_to_train_s": _time_to_train_s(row)}
        values |= {f"test_{name}": value for name, value in _metrics(row).items()}
    return values
