"""The folder of a sweep: where the Records of its processes are, and which are missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import RECORD_NAME, Record, read_record
from perfkit.core.sweep import NOT_IN_SWEEPS, Sweep
from perfkit.engine.folder import is_complete

PROCESSES = "processes"
"""The folder of all run folders of a sweep, and of the data sets that they store and share."""


def record_folder(folder: Path, round_index: int, index: int) -> Path:
    """Return the run folder of a cell in a round."""
    return folder / PROCESSES / f"round{round_index + 1}-cell{index + 1}"


def trial_folder(folder: Path, index: int) -> Path:
    """Return the run folder of a cell's trial."""
    return folder / PROCESSES / f"trial-cell{index + 1}"


def turns(sweep: Sweep) -> Iterator[tuple[int, int]]:
    """Yield (round, cell) in the order in which they are run."""
    for round_index in range(sweep.rounds):
        for index in sweep.order(round_index):
            yield round_index, index


def missing(sweep: Sweep, folder: Path) -> list[tuple[int, int]]:
    """Return the (round, cell) whose Record is not there or not complete."""
    return [turn for turn in turns(sweep) if not is_complete(record_folder(folder, *turn))]


def read_records(sweep: Sweep, folder: Path) -> dict[int, dict[int, Record]]:
    """Return the complete Records by cell and round.

    Raises PerfkitError for one that is damaged, or that is not of the cell whose place it takes.
    """
    found: dict[int, dict[int, Record]] = {}
    for round_index, index in turns(sweep):
        run = record_folder(folder, round_index, index)
        again = f"delete {run}, then: perfkit sweep --resume {folder}"
        try:
            if not is_complete(run):
                continue
            record = read_record(run)
        except PerfkitError as error:
            raise PerfkitError(f"{error}; {again}") from None
        if record.name != run.name:
            raise PerfkitError(f"{run / RECORD_NAME}: is a copy of run {record.name!r}; {again}")
        if not record.cells[0].blocks:
            raise PerfkitError(f"{run / RECORD_NAME}: holds nothing that was timed; {again}")
        if record.environment.hardware != sweep.hardware:
            raise PerfkitError(
                f"{run / RECORD_NAME}: was measured on {record.environment.hardware}, the sweep on "
                f"{sweep.hardware}; measure both in sweeps of their own"
            )
        changed = _first_difference(sweep.config(index), record)
        if changed is not None:
            raise PerfkitError(
                f"{run / RECORD_NAME}: is no run of cell {sweep.cells[index].label!r} ({changed}); "
                f"{again}"
            )
        found.setdefault(index, {})[round_index] = record
    return found


def _first_difference(asked: RunConfig, record: Record) -> str | None:
    """Return in which option a run is another than was asked for; what is open may be anything."""
    ran, measured = record.config, record.cells[0]
    if type(ran) is not type(asked):
        return "it is of another command"
    for option in sorted(set(type(asked).model_fields) - set(NOT_IN_SWEEPS)):
        wanted, got = getattr(asked, option), getattr(ran, option)
        if wanted is not None and wanted != got:
            return f"{option} is {got}, asked for was {wanted}"
    for option in ("strategy", "workers", "precision"):
        wanted, got = getattr(asked, option), getattr(measured, option)
        if wanted != got:
            return f"{option} of what was measured is {got}, asked for was {wanted}"
    return None
