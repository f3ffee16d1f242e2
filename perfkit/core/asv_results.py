"""Results that asv (airspeed velocity) keeps of a commit; see its documentation, "Reference".

A file a commit and environment, ``<results>/<machine>/<commit>-<environment>.json``: "results" maps
a benchmark to a list in the order of "result_columns", whose values are lists over its parameters.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from perfkit.core.errors import PerfkitError

FORMAT = 2  # asv's "version" of a file
LEAST, MOST = 1e-15, 1e15  # of a cost that can be, but for 0
HASH_LENGTH = 8  # of a commit in the name of a file, as in asv.conf.json


class Benchmark(NamedTuple):
    """What was measured of one benchmark, with one value of its parameters."""

    samples: list[float]
    unit: str
    version: str


class CommitResults(NamedTuple):
    """All that was measured of a commit."""

    commit: str
    machine: str
    environment: str
    benchmarks: dict[str, Benchmark]


def read_commit(results: Path, commit: str) -> CommitResults:
    """Return what asv kept of a commit, given by its hash.

    Raises PerfkitError where there is nothing, where it is of several machines or environments,
    where it is damaged, or where samples were not kept.
    """
    name = f"{commit[:HASH_LENGTH]}-*.json"
    try:
        is_folder = results.is_dir()
    except OSError:  # a name that no folder can have
        is_folder = False
    if not is_folder:
        raise PerfkitError(
            f"{results}: is no folder; name the one in which asv keeps its results with --results, "
            "or measure: asv run --record-samples"
        )
    files = sorted([*results.glob(name), *results.glob(f"*/{name}")])
    if not files:
        raise PerfkitError(
            f"{results}: has no results of commit {commit[:HASH_LENGTH]}; measure it: "
            f"asv run --record-samples {commit[:HASH_LENGTH]}^!"
        )
    if len(files) > 1:
        named = ", ".join(f"{file.parent.name}/{file.name}" for file in files)
        raise PerfkitError(
            f"{results}: has several results of one commit ({named}); name the folder of one "
            "machine with --results, or move those of an environment away"
        )
    content = _read(files[0])
    try:
        units = _units(results)
        columns = content["result_columns"]
        benchmarks: dict[str, Benchmark] = {}
        for name, values in content["results"].items():
            of = dict(zip(columns, values, strict=False))
            samples = of.get("samples") or []
            for parameters, taken in zip(itertools.product(*of["params"]), samples, strict=False):
                if taken:
                    _check(taken, files[0], name)
                    label = f"{name}({', '.join(parameters)})" if parameters else name
                    benchmarks[label] = Benchmark(taken, units.get(name, ""), f"{of['version']}")
        found = CommitResults(
            content["commit_hash"], files[0].parent.name, content["env_name"], benchmarks
        )
    except (KeyError, TypeError, AttributeError):
        raise PerfkitError(
            f"{files[0]}: is no results file of asv, or a damaged one; measure again: "
            "asv run --record-samples"
        ) from None
    if not benchmarks:
        raise PerfkitError(
            f"{files[0]}: has no samples, only medians; measure again: asv run --record-samples"
        )
    return found


def _check(samples: list[Any], file: Path, name: str) -> None:
    """Raise PerfkitError unless these are numbers that can be costs."""
    if not all(type(one) in (int, float) and (one == 0 or LEAST <= one <= MOST) for one in samples):
        raise PerfkitError(
            f"{file}: the samples of {name} are no costs (numbers from {LEAST:g} to {MOST:g}, or "
            "0); measure again: asv run --record-samples"
        )


def _units(results: Path) -> dict[str, str]:
    """Return the units of all benchmarks that asv knows."""
    files = [folder / "benchmarks.json" for folder in (results, results.parent)]
    known = next((_read(file) for file in files if file.exists()), {})
    return {
        name: f"{facts.get('unit')}" for name, facts in known.items() if isinstance(facts, dict)
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        # Not orjson: asv writes NaN for what was skipped.
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise PerfkitError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise PerfkitError(f"{file}: is not a whole JSON file ({error})") from None
    if not isinstance(content, dict) or content.get("version") != FORMAT:
        raise PerfkitError(f"{file}: is no results file of asv of format {FORMAT}")
    return content
