"""``perfkit compare``: runs side by side; what changed between two runs, sweeps or commits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from tyro.conf import Positional

from perfkit.core import cli
from perfkit.core.errors import PerfkitError
from perfkit.core.sweep import SWEEP_NAME, read_sweep
from perfkit.report.words import count_of

if TYPE_CHECKING:
    from rich.console import Console

    from perfkit.analysis.diff import Metric
    from perfkit.core.record import Record

MOST_RUNS = 26  # a letter each
STORED_SETS = "preprocessed"
"""The folder that ``--preprocess offline`` makes among the runs: ``runs/*`` names it too."""
FIGURE = Path("compare.png")
ASV_RESULTS = Path(".asv/results")
SIDES = ("before", "after")
UNPAIRED = (
    "unpaired: what the machine did between the two is in every ratio; perfkit sweep measures both "
    "in the same rounds"
)
OF_COMMITS = (
    "one process each, one after the other: what differs from process to process is in no "
    "interval, and what the machine did in between in every ratio; make regressions gives both "
    "commits turns"
)
ONE_PROCESS = (
    "one process each: what differs from process to process is in no interval; perfkit sweep "
    "measures several"
)


class CompareFlags(BaseModel):
    """What to compare, and where the figure goes."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    runs: Positional[tuple[Path, ...]]
    """Run folders, the first of which the others are held against; or two sweep folders; or two
    commits that asv measured, as in HEAD~1 HEAD."""
    figure: Path | None = None
    """Where the figure of runs is written (.png, .svg or .pdf). Default: compare.png."""
    results: Path | None = None
    """Where asv keeps its results of commits. Default: .asv/results."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read what is named, print it side by side, and what changed where there are two."""
    flags = cli.parse(
        CompareFlags,
        argv,
        prog="perfkit compare",
        description="Print runs side by side, absolute cost first, and draw every sample. Of two "
        "runs, sweeps or commits: what changed, by how much, and how sure that is.",
    )
    from perfkit.report.console import make_console

    console = make_console()
    named = [path for path in flags.runs if path.name != STORED_SETS or not _exists(path)]
    sweeps = [path for path in named if _exists(path / SWEEP_NAME)]
    commits = [path for path in named if not _exists(path) and _commit(f"{path}")]
    for kind, found in (("a sweep", sweeps), ("a commit", commits)):
        if found and len(found) < len(named):
            other = next(path for path in named if path not in found)
            raise PerfkitError(f"{found[0]} is {kind} and {other} is none: compare two of a kind")
    if flags.figure is not None and (sweeps or commits):
        raise PerfkitError(f"--figure {flags.figure}: is drawn of runs only; leave it out")
    if flags.results is not None and not commits:
        raise PerfkitError(f"--results {flags.results}: is about commits only; leave it out")
    if sweeps:
        _compare_sweeps(*_two(named, "sweep folders"), console)
    elif commits:
        _compare_commits(*_two(named, "commits"), flags.results or ASV_RESULTS, console)
    else:
        _compare_runs(named, flags.figure or FIGURE, console)
    return 0


def _compare_runs(folders: Sequence[Path], figure: Path, console: Console) -> None:
    if not folders:
        raise PerfkitError("name at least one run folder, as in: perfkit compare runs/a runs/b")
    if len(folders) > MOST_RUNS:
        raise PerfkitError(f"{len(folders)} runs are too many to compare at once ({MOST_RUNS})")

    from perfkit.analysis.diff import of_runs
    from perfkit.core.record import read_record
    from perfkit.report.comparison import draw_comparison, measured, print_comparison

    records = measured([read_record(path) for path in folders], folders)
    draw_comparison(records, figure)  # first: what cannot be written is said at once
    print_comparison(records, console)
    if len(records) == 2:
        _print(of_runs(*records), ONE_PROCESS, console)
    print(f"\nfigure  {figure}")


def _compare_sweeps(before: Path, after: Path, console: Console) -> None:
    from perfkit.analysis.diff import of_sweeps, only_in_one
    from perfkit.engine.sweep_folder import read_records
    from perfkit.report.console import print_lines

    sweeps = [read_sweep(folder) for folder in (before, after)]
    found = [
        (sweep, read_records(sweep, folder))
        for sweep, folder in zip(sweeps, (before, after), strict=True)
    ]
    metrics = of_sweeps(*found)
    if not metrics:
        raise PerfkitError(f"{before} and {after}: have no measured cell in common")
    lines = [
        (word, f"{folder}: {sweep.created_at}, on {sweep.hardware}; {_processes(records)}")
        for word, folder, (sweep, records) in zip(SIDES, (before, after), found, strict=True)
    ]
    for word, labels in zip(SIDES, only_in_one(*found), strict=True):
        lines += [(f"only {word}", ", ".join(labels))] if labels else []
    print_lines(lines, console)
    _print(metrics, UNPAIRED, console)


def _compare_commits(before: Path, after: Path, results: Path, console: Console) -> None:
    from perfkit.analysis.diff import of_commits
    from perfkit.core.asv_results import read_commit
    from perfkit.report.console import print_lines

    one, two = (read_commit(results, _commit(f"{name}")) for name in (before, after))
    why = "other machine" if one.machine != two.machine else None
    if one.environment != two.environment:
        why = why or "other environment"
    metrics = of_commits(one.benchmarks, two.benchmarks, why)
    if not metrics:
        raise PerfkitError(f"{before} and {after}: have no benchmark in common")
    lines = [
        (word, f"{side.commit}, on {side.machine}, {side.environment}")
        for word, side in zip(SIDES, (one, two), strict=True)
    ]
    for word, mine, other in (("before", one, two), ("after", two, one)):
        alone = sorted(mine.benchmarks.keys() - other.benchmarks.keys())
        lines += [(f"only {word}", ", ".join(alone))] if alone else []
    print_lines(lines, console)
    _print(metrics, OF_COMMITS, console)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _print(metrics: Sequence[Metric], caution: str, console: Console) -> None:
    from perfkit.analysis.diff import differences
    from perfkit.report.difference import print_differences

    console.print()
    print_differences(differences(metrics), console)
    console.print()
    console.print(caution, style="yellow")


def _processes(records: Mapping[int, Mapping[int, Record]]) -> str:
    processes = sum(len(of_cell) for of_cell in records.values())
    return f"{count_of(processes, 'process')} of {count_of(len(records), 'cell')}"


def _two(named: Sequence[Path], what: str) -> tuple[Path, Path]:
    if len(named) != 2:
        raise PerfkitError(f"two {what} can be compared, not {len(named)}")
    return named[0], named[1]


def _commit(name: str) -> str:
    """Return the hash of a commit by any of its names; nothing where it is none."""
    command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(cli.run(main))
