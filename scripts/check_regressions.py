"""How often does scripts/regressions.py find what is there, and what is not?

In a repository made for it, one case is slowed by 5, 10 and 20 % in a commit each, by waiting in
its call. Each comparison is of a commit with HEAD, over ROUNDS rounds; so is that of HEAD with a
second installation of HEAD, where whatever is found is a false alarm. Prints Markdown, with
Clopper-Pearson bounds. Use a machine that does nothing else, for three quarters of an hour.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from regressions import FOLDER, ROUNDS, TURNS, Row, Side, compared, git, install, measure, revision
from scipy.stats import binomtest

from perfkit.measure.environment import describe_environment

SLOWED = "preprocess-call"
FEW = (SLOWED, "squeeze-excite-call", "step-of-nothing")
PLANTED = (5, 10, 20)
KINDS = ("nothing (same commit)", *(f"{percent} %" for percent in PLANTED))
# Appended to the module that the case takes its operator from.
WAITING = """

def _slowed(call):
    from time import perf_counter

    def slow(*arguments, **options):
        started = perf_counter()
        result = call(*arguments, **options)
        until = perf_counter() + {share} * (perf_counter() - started)
        while perf_counter() < until:
            pass
        return result

    return slow


clahe_gamma_median = _slowed(clahe_gamma_median)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant, install, compare, print; return 1 where 20 % was missed or found elsewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--same", type=int, default=40, help="of the same commit; default: 40")
    parser.add_argument("--planted", type=int, default=20, help="of those with each; default: 20")
    flags = parser.parse_args(arguments)
    if not 0 < flags.planted <= flags.same:
        parser.error(f"--same {flags.same} --planted {flags.planted}: 1 <= planted <= same")
    head = revision("HEAD")
    with tempfile.TemporaryDirectory() as repository:
        sides = installed(head, Path(repository))
    found: dict[str, list[list[Row]]] = {name: [] for name in KINDS}
    for index in range(flags.same):
        now = sides if index < flags.planted else sides[:2]
        before, *afters = measure(now, FEW, ROUNDS, seed=index)
        for name, after in zip(KINDS, afters, strict=False):
            found[name].append(compared(before, after))
        print(f"{index + 1} of {flags.same}", file=sys.stderr, flush=True)
    print(conditions(head))
    print(table(found))
    return int(any(flagged(rows) != [SLOWED] for rows in found[KINDS[-1]]))


def installed(head: str, repository: Path) -> list[Side]:
    """Return HEAD, HEAD once more, and a commit for each planted slowdown."""
    once = install(head)
    again = FOLDER / f"{head}.again"
    if not again.exists():
        shutil.copytree(once, again)
    sides = [Side(head, once), Side(head, again)]
    git(repository, "clone", "--quiet", f"{FOLDER / 'checkout'}", ".")
    for percent in PLANTED:
        git(repository, "checkout", "--quiet", "--force", "--detach", head)
        module = repository / "perfkit" / "ops" / "clahe_torch.py"
        source = module.read_text(encoding="utf-8")
        module.write_text(source + WAITING.format(share=percent / 100), encoding="utf-8")
        who = ("-c", "user.name=perfkit", "-c", "user.email=perfkit@localhost")
        git(repository, *who, "commit", "--quiet", "--all", "-m", f"{percent} % slower")
        commit = revision("HEAD", repository)
        sides.append(Side(commit, install(commit, repository)))
    return sides


def flagged(rows: Sequence[Row]) -> list[str]:
    """Return the cases in which a regression was found."""
    return [row.name.partition(":")[0] for row in rows if row.is_regression]


def conditions(head: str) -> str:
    """Return what was measured, where and when."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {head[:9]}, "
        f"{describe_environment('perfkit').hardware}, torch {torch.__version__}: comparisons of "
        f"{ROUNDS} rounds of fresh processes with {TURNS} turns of each case, which are "
        f"{', '.join(FEW)}; {SLOWED} is slowed.\n"
    )


def table(found: Mapping[str, Sequence[Sequence[Row]]]) -> str:
    """Return how often what was flagged, a line a kind of comparison."""
    lines = [
        f"| planted | {SLOWED} flagged | 95 % | another case flagged | 95 % |",
        "| --- | ---: | --- | ---: | --- |",
    ]
    for kind, comparisons in found.items():
        cases = [flagged(rows) for rows in comparisons]
        hits = sum(SLOWED in names for names in cases)
        others = sum(bool(set(names) - {SLOWED}) for names in cases)
        cells = (kind, *rate(hits, len(cases)), *rate(others, len(cases)))
        lines.append("| " + " | ".join(cells) + " |")
    same = found[KINDS[0]]
    share, bound = rate(sum(bool(flagged(rows)) for rows in same), len(same))
    lines += ["", f"False alarms of the same commit, in any case: {share}, 95 % {bound}.", ""]
    for kind, comparisons in found.items():
        ratios = sorted(
            1 / row.verdict.gain.estimate
            for rows in comparisons
            for row in rows
            if row.name.startswith(SLOWED)
        )
        if ratios:
            lines.append(
                f"{SLOWED}, {kind}: {median(ratios):.3f} times as long in the middle of "
                f"{len(ratios)} comparisons, {ratios[0]:.3f} to {ratios[-1]:.3f}."
            )
    return "\n".join(lines)


def rate(count: int, of: int) -> tuple[str, str]:
    """Return a share and its Clopper-Pearson interval."""
    interval = binomtest(count, of).proportion_ci(method="exact")
    return f"{count} of {of}", f"[{interval.low:.1%}, {interval.high:.1%}]"


if __name__ == "__main__":
    sys.exit(main())
