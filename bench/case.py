"""What a benchmark case is, and which perfkit it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import perfkit

CHECKOUT = Path(__file__).resolve().parents[1]
TURNS = 3  # measurements in each of several processes; the first of them warms up

UNITS = {
    "seconds": "seconds",
    "seconds per sample": "seconds",
    "inverse efficiency": "devices / speedup",
    "exposed communication": "share of a step",
    "peak memory": "MiB",
}
"""Costs and what they are counted in. Of all of them less is better: asv knows nothing else."""

EXPECTED_FOLDER, EXPECTED_COMMIT = "PERFKIT_BENCH_FOLDER", "PERFKIT_BENCH_COMMIT"
"""Environment variables that say which perfkit has to be measured, where it is not this one."""


@dataclass(frozen=True)
class Measurement:
    """Samples of every cost, what they should be held against, and their conditions."""

    costs: Mapping[str, list[float]]
    """By names in UNITS, in the order of ``Case.costs``."""
    finding: str
    conditions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One thing to measure; ``measure`` sets up, measures and cleans up by itself."""

    name: str
    group: str
    measure: Callable[[], Measurement]
    size: Literal["fast", "quick", "full"] = "full"
    """Fast takes a second or two a process; without --full, fast and quick ones are measured."""
    costs: tuple[str, ...] = ("seconds",)
    """What it yields; the first in seconds."""
    needs: str | None = None
    """A module it cannot run without."""
    processes: int = 1
    """More than one: each measures it afresh, and a sample is the least of a process. What differs
    from process to process, such as where its memory lies, is then between the samples."""
    version: str = "1"
    """Another one begins a new history: change it with what is measured."""

    def why_not(self) -> str | None:
        """Return why it cannot run here, or None."""
        missing = self.needs is not None and find_spec(self.needs) is None
        return f"{self.needs} is not installed" if missing else None

    def run(self) -> Measurement:
        """Measure what ought to be measured, or raise RuntimeError."""
        measured = measured_perfkit()
        found = self.measure() if self.processes == 1 else self._in_processes()
        if tuple(found.costs) != self.costs:
            raise RuntimeError(f"{self.name} yields {tuple(found.costs)}, not {self.costs}")
        return Measurement(found.costs, found.finding, found.conditions | measured)

    def _in_processes(self) -> Measurement:
        """Return the least of every process, and what the one in the middle found."""
        each = [in_a_fresh_process(self.name, TURNS) for _ in range(self.processes)]
        costs = {
            cost: [min(sample for one in turns for sample in one.costs[cost]) for turns in each]
            for cost in self.costs
        }
        by_cost = sorted(range(len(each)), key=costs[self.costs[0]].__getitem__)
        middle = each[by_cost[len(each) // 2]][-1]
        conditions = {**middle.conditions, "a sample": "least of a fresh process"}
        return Measurement(costs, middle.finding, conditions)


def in_a_fresh_process(name: str, turns: int) -> list[Measurement]:
    """Return what a new process measures of a case, several times in turn."""
    command = [sys.executable, f"{CHECKOUT / 'bench' / 'measure.py'}"]
    asked = f"{name}\n" * turns
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return [Measurement(**json.loads(answer)) for answer in done.stdout.splitlines()]


def measured_perfkit() -> dict[str, str]:
    """Return which perfkit is measured: its folder and the commit that was built into it.

    Raises RuntimeError unless that is the one asked for: under asv the installed commit in the
    environment, else this checkout. An old build or a perfkit from elsewhere would pass its
    numbers off as those of this source.
    """
    # In a process of its own, as many cases measure: it may find another perfkit than this one.
    found = subprocess.run(
        [
            *(sys.executable, "-P", "-c"),
            "import perfkit.ops; print(perfkit.__file__, perfkit.ops.build_info().commit)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise RuntimeError(f"perfkit cannot be imported: {found.stderr}")
    file, commit = found.stdout.split()
    folder = Path(file).resolve().parent
    wanted_folder, wanted_commit = _expected()
    for place in (folder, Path(perfkit.__file__).resolve().parent):
        if not place.is_relative_to(wanted_folder):
            raise RuntimeError(f"perfkit is from {place}, not from {wanted_folder}")
    if commit != wanted_commit:
        raise RuntimeError(
            f"{folder} was built at commit {commit}, not at {wanted_commit}; run make build"
        )
    return {"perfkit": f"{folder}", "commit": commit, "uncommitted changes": _uncommitted(folder)}


def _uncommitted(folder: Path) -> str:
    """Return the changed files of the checkout; nothing for an installed perfkit."""
    if folder != CHECKOUT / "perfkit":
        return ""
    command = ["git", "-C", CHECKOUT, "status", "--porcelain", "--untracked-files=no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ", ".join(line[3:] for line in done.stdout.splitlines())


def _expected() -> tuple[Path, str]:
    folder, commit = os.environ.get("ASV_ENV_DIR"), os.environ.get("ASV_COMMIT")
    if EXPECTED_FOLDER in os.environ:
        folder, commit = os.environ[EXPECTED_FOLDER], os.environ[EXPECTED_COMMIT]
    if folder is not None and commit is not None:
        return Path(folder).resolve(), commit
    head = subprocess.run(
        ["git", "-C", CHECKOUT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return CHECKOUT / "perfkit", head.stdout.strip() or "None"
