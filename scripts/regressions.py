"""Did HEAD make a benchmark slower than its merge base? Ends with 1 if so.

Both commits are installed beside each other, sharing torch; in every round each gets a fresh
process, and the two take turns with every case, in random order, so that a round's ratio is of
measurements that lie a second apart; rounds differ by what differs between processes. Verdicts
are those of ``perfkit sweep``: Student's interval of the within-round log-ratios, Holm-corrected
over the cases. A case is a regression where it is slower by that, and by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from perfkit.core.stats import EQUAL_BOUND, Verdict, verdicts

CHECKOUT = Path(__file__).resolve().parents[1]
BENCH = CHECKOUT / "bench"
sys.path.insert(0, f"{BENCH}")

from case import EXPECTED_COMMIT, EXPECTED_FOLDER, UNITS  # noqa: E402  (found by the line above)
from cases import CASES  # noqa: E402

FOLDER = CHECKOUT / ".regressions"
ROUNDS = 6
COMPARED = ("seconds", "MiB")  # shares and ratios can be off to either side, and may be 0
TURNS = 6  # of each side, with each case, in a round
MAIN = ("origin/HEAD", "origin/main", "main")  # names of the main branch, where it has one

Costs = dict[str, list[float]]
"""By "case: cost", a value a round."""


class Side(NamedTuple):
    """One of the two that are compared."""

    commit: str
    folder: Path
    """Where its perfkit is installed."""


class Row(NamedTuple):
    """One cost of one case."""

    name: str
    before: float
    after: float
    verdict: Verdict

    @property
    def is_regression(self) -> bool:
        """Whether it is slower for certain, and by more than is called equal."""
        return self.verdict.word == "slower" and 1 / self.verdict.gain.estimate > 1 + EQUAL_BOUND


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, measure, print, and return 1 where something became slower."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", help="commit to compare with; default: the merge base of HEAD")
    parser.add_argument("--head", default="HEAD", help="commit to judge; default: HEAD")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"pairs of processes; default: {ROUNDS}"
    )
    parser.add_argument("--cases", default="", help="pattern of case names; default: the fast ones")
    flags = parser.parse_args(arguments)
    if flags.rounds < 2:
        parser.error(f"--rounds {flags.rounds}: two are the least from which anything follows")
    try:
        names = chosen_cases(flags.cases)
    except re.error as error:
        parser.error(f"--cases {flags.cases}: is no regular expression ({error})")
    if not names:
        parser.error(f"--cases {flags.cases}: no case is called like that")
    head = revision(flags.head)
    base = revision(flags.base) if flags.base else merge_base(head)
    sides = (Side(base, install(base)), Side(head, install(head)))
    print(f"{base[:9]} -> {head[:9]}: {len(names)} cases, {flags.rounds} rounds", flush=True)
    before, after = measure(sides, names, flags.rounds, seed=0)
    report = FOLDER / f"{base[:9]}-{head[:9]}.json"
    report.write_text(json.dumps({"base": base, "head": head, "before": before, "after": after}))
    rows = compared(before, after)
    print(table(rows))
    print(f"samples  {report}")
    return int(any(row.is_regression for row in rows))


def chosen_cases(pattern: str) -> list[str]:
    """Return the names of the cases that the pattern finds; the fast ones where it is empty."""
    if not pattern:
        return [case.name for case in CASES if case.size == "fast"]
    return [case.name for case in CASES if re.search(pattern, case.name)]


def revision(name: str, checkout: Path = CHECKOUT) -> str:
    """Return the commit of a name."""
    found = git(checkout, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False)
    if not found:
        raise fail(f"{name}: no such commit here")
    return found


def merge_base(head: str) -> str:
    """Return where the branch of ``head`` left the main one; its parent where it is on that."""
    for branch in MAIN:
        found = git(CHECKOUT, "merge-base", head, branch, check=False)
        if found and found != head:
            return found
    return revision(f"{head}~1")


def fail(message: str) -> SystemExit:
    """Return what ends this with 2, which no regression does, after a line on stderr."""
    print(f"perfkit: error: {message}", file=sys.stderr)
    return SystemExit(2)


def git(checkout: Path, *arguments: str, check: bool = True) -> str:
    """Return what git prints; nothing where it fails and ``check`` is off."""
    command = ["git", "-C", f"{checkout}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=check)
    return done.stdout.strip() if done.returncode == 0 else ""


def install(commit: str, repository: Path = CHECKOUT) -> Path:
    """Return where perfkit of ``commit`` is installed, after building it if it is not there.

    One checkout is kept for all builds: only what changed between commits is compiled.
    """
    target = FOLDER / commit
    if target.exists():
        return target
    checkout = FOLDER / "checkout"
    if not checkout.exists():
        FOLDER.mkdir(exist_ok=True)
        git(FOLDER, "clone", "--quiet", "--no-checkout", f"{CHECKOUT}", f"{checkout}")
    git(checkout, "fetch", "--quiet", f"{repository}", commit)
    git(checkout, "checkout", "--quiet", "--force", "--detach", commit)
    unfinished = FOLDER / f"{commit}.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    print(f"building {commit[:9]}", flush=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--target", unfinished, checkout),
        ],
        env={**os.environ, "PERFKIT_CUDA": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise fail(f"{commit} cannot be built:\n{done.stderr}")
    unfinished.rename(target)
    return target


class Measurer:
    """A process that measures cases with one of the two perfkits."""

    def __init__(self, side: Side) -> None:
        environ = {
            **os.environ,
            "PYTHONPATH": f"{side.folder}",
            EXPECTED_FOLDER: f"{side.folder}",
            EXPECTED_COMMIT: side.commit,
        }
        command = [sys.executable, f"{BENCH / 'measure.py'}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )

    def ask(self, case: str) -> None:
        """Ask for a measurement of a case."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{case}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """Return the times and the memory of what was asked for first: the least of its samples."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise fail("a case failed, as above")
        costs = json.loads(answer)["costs"]
        return {c: min(samples) for c, samples in costs.items() if UNITS[c] in COMPARED}

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(sides: Sequence[Side], names: Sequence[str], rounds: int, *, seed: int) -> list[Costs]:
    """Return the costs of every side: the least of all samples of a process.

    What else the machine does only ever adds to a time, so that the least is what varies least
    (Chen and Revels, 2016, "Robust benchmarking in noisy environments").
    """
    shuffler = random.Random(seed)
    order = list(range(len(sides)))
    costs: list[Costs] = [{} for _ in sides]
    for _ in range(rounds):
        processes = [Measurer(side) for side in sides]
        try:
            _warm_up(processes, names)
            for name in names:
                least: list[dict[str, float]] = [{} for _ in sides]
                for _ in range(TURNS):
                    shuffler.shuffle(order)
                    for index in order:
                        processes[index].ask(name)
                        for cost, value in processes[index].answer().items():
                            key, of_one = f"{name}: {cost}", least[index]
                            of_one[key] = min(value, of_one.get(key, math.inf))
                for of_all, of_one in zip(costs, least, strict=True):
                    for key, value in of_one.items():
                        of_all.setdefault(key, []).append(value)
        finally:
            for process in processes:
                process.close()
    return costs


def _warm_up(processes: Sequence[Measurer], names: Sequence[str]) -> None:
    """Have every process import and build what it needs, all at once."""
    for process in processes:
        for name in names:
            process.ask(name)
    for process in processes:
        for _ in names:
            process.answer()


def compared(before: Mapping[str, list[float]], after: Mapping[str, list[float]]) -> list[Row]:
    """Return a row for every cost that both sides have."""
    both = [name for name in before if name in after]
    decided = verdicts([(before[name], after[name]) for name in both])
    return [
        Row(name, median(before[name]), median(after[name]), verdict)
        for name, verdict in zip(both, decided, strict=True)
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text; a ratio above 1 is slower."""
    lines = [f"{'':40} {'before':>12} {'after':>12}   after / before"]
    for row in rows:
        gain = row.verdict.gain
        ratio = f"{1 / gain.estimate:.3f} [{1 / gain.high:.3f}, {1 / gain.low:.3f}]"
        word = "REGRESSION" if row.is_regression else row.verdict.word
        lines.append(f"{row.name:40} {row.before:12.6g} {row.after:12.6g}   {ratio}  {word}")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(fail(f"{error}").code)
