"""Results that asv (airspeed velocity) keeps of a commit; see its documentation, "Reference".

A file a commit and environment, ``<results>/<machine>/<commit>-<environment>.json``: "results" maps
a benchmark to a list in the order of "result_columns", whose values are lists over its parameters.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from perfkit.core.errors import PerfkitError

FORMAT = 2  # asv's "version" of a file
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
    files = sorted(results.glob(f"*/{commit[:HASH_LENGTH]}-*.json"))
    if not files:
        raise PerfkitError(
            f"{results}: has no results of commit {commit[:HASH_LENGTH]}; measure it: "
            f"asv run --record-samples {commit[:HASH_LENGTH]}^!"
        )
    if len(files) > 1:
        named = ", ".join(f"{file.parent.name}/{file.name}" for file in files)
        raise PerfkitError(f"{results}: has several results of one commit ({named}); name a folder")
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
                    label = f"{name}({', '.join(parameters)})" if parameters else name
                    benchmarks[label] = Benchmark(taken, units.get(name, ""), f"{of['version']}")
        found = CommitResults(
            content["commit_hash"], files[0].parent.name, content["env_name"], benchmarks
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise PerfkitError(f"{files[0]}: is no results file of asv ({error!r})") from None
    if not benchmarks:
        raise PerfkitError(
            f"{files[0]}: has no samples, only medians; measure again: asv run --record-samples"
        )
    return found


def _units(results: Path) -> dict[str, str]:
    """Return the units of all benchmarks that asv knows."""
    file = results / "benchmarks.json"
    known = _read(file) if file.exists() else {}
    return {name: facts["unit"] for name, facts in known.items() if isinstance(facts, dict)}


def _read(file: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(file.read_bytes())
    except OSError as error:
        raise PerfkitError(f"{file}: cannot be read ({error.strerror})") from None
    except orjson.JSONDecodeError as error:
        raise PerfkitError(f"{file}: is not a whole JSON file ({error})") from None
    if not isinstance(content, dict) or content.get("version") != FORMAT:
        raise PerfkitError(f"{file}: is no results file of asv of format {FORMAT}")
    return content
