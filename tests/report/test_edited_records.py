"""Records edited by hand: what a number of them may be, no view of them fails on."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from records import a_baseline, a_cell, a_record, a_training, some_traces
from rich.console import Console
from sweep_records import a_sweep

from perfkit.analysis.diff import differences, of_runs
from perfkit.analysis.sweep import rows
from perfkit.core.errors import PerfkitError
from perfkit.core.record import RECORD_NAME, Record, read_record
from perfkit.report.comparison import print_comparison
from perfkit.report.difference import print_differences
from perfkit.report.sweep import print_sweep, write_tables
from perfkit.report.terminal import print_run
from perfkit.report.training import print_training

RUN = a_record(
    a_cell([[0.2, 0.25]] * 3, communication_s=0.01, on_gpu=True),
    a_baseline([0.3, 0.3, 0.4]),
    traces=some_traces([0.2, 0.3]),
)
TRAINING = a_training([0.5, 0.25, 0.75])


def numbers(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield where numbers are in JSON; of lists only in the first of their items."""
    if isinstance(part, dict):
        for name, inner in part.items():
            yield from numbers(inner, (*path, name))
    elif isinstance(part, list) and part:
        yield from numbers(part[0], (*path, 0))
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield path


def edited(record: Record, path: tuple[str | int, ...], value: float) -> bytes:
    content = copy.deepcopy(record.model_dump(mode="json"))
    inner: Any = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return orjson.dumps(content)


def look_at(record: Record, original: Record, folder: Path, console: Console) -> None:
    """Make every view that tells of numbers, those of two beside the Record as it was."""
    if record.training is None:
        print_run(folder, console)
    else:
        print_training(folder, console)
    print_comparison([record, original], console)
    print_differences(differences(of_runs(original, record)), console)
    sweep = a_sweep({"workers": 2}, rounds=2)
    found = rows(sweep, {0: {0: original, 1: original}, 1: {0: record, 1: original}})
    print_sweep(sweep, found, 0, console)
    write_tables(sweep, found, 0, folder)


@pytest.mark.parametrize("record", [RUN, TRAINING], ids=["run", "training"])
@pytest.mark.parametrize("value", [-1, 0, 5e-324, 1e15, 1.7e308])
def test_no_number_in_a_record_ends_in_a_traceback(
    record: Record, value: float, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), width=200)
    for path in numbers(record.model_dump(mode="json")):
        (tmp_path / RECORD_NAME).write_bytes(edited(record, path, value))
        try:
            look_at(read_record(tmp_path), record, tmp_path, console)
        except PerfkitError:
            continue
        except Exception as error:
            pytest.fail(f"{value} as {path}: {error!r}")
