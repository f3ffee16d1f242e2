"""From what a user asks a sweep for to its cells: which can run here, and why the others cannot."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import ValidationError

from perfkit.core.errors import PerfkitError, first_problem
from perfkit.core.host import available_cores
from perfkit.core.sweep import Command, Options, PlannedCell, Sweep, SweepFile, config_of
from perfkit.engine.command import refuse_crowd
from perfkit.engine.start import settled
from perfkit.measure.environment import describe_environment
from perfkit.strategies import STRATEGIES


class _ImpossibleError(Exception):
    """No machine can run this."""


def plan(file: SweepFile, name: str, source: str) -> Sweep:
    """Return the sweep that ``file`` asks for on this machine.

    What this machine cannot run is skipped with the reason; so is what no machine could run where
    it comes out of the matrix, whose product has holes. A cell that was asked for by itself and
    that no machine could run, two cells that are the same, and a sweep of which nothing is left are
    PerfkitErrors that name ``source``.
    """
    _refuse_typos(file, source)
    cells: list[PlannedCell] = []
    configs: list[dict[str, object]] = []
    combinations = file.combinations()
    by_hand = len(combinations) - len(file.cells)
    for index, changed in enumerate(combinations):
        label = label_of(changed)
        options = {**file.base, **changed}
        config = _as_config(file.command, options)
        if config in configs:
            twin = cells[configs.index(config)].label
            raise PerfkitError(f"{source}: cells {twin!r} and {label!r} are the same")
        configs.append(config)
        try:
            skipped = _why_not_here(file.command, options)
        except _ImpossibleError as error:
            if index >= by_hand or not file.matrix:
                raise PerfkitError(f"{source}: cell {label!r}: {error}") from None
            skipped = str(error)
        cells.append(PlannedCell(label=label, options=options, skipped=skipped))
    if all(cell.skipped for cell in cells):
        raise PerfkitError(f"{source}: no cell can run here; the first: {cells[0].skipped}")
    return Sweep(
        name=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=file.command,
        rounds=file.rounds,
        seed=file.seed,
        hardware=describe_environment("perfkit").hardware,
        cells=cells,
    )


def label_of(changed: Options) -> str:
    """Return the name of a cell in tables: what differs from the base."""
    return " ".join(f"{option}={value}" for option, value in changed.items()) or "base"


def _refuse_typos(file: SweepFile, source: str) -> None:
    """Raise PerfkitError for a value of the matrix that its option can have in no combination."""
    for option, values in file.matrix.items():
        for value in values:
            try:
                config_of(file.command, {option: value})
            except ValidationError as error:
                field, _, reason = first_problem(error)
                if field == option:
                    raise PerfkitError(f"{source}: {option} = {value!r}: {reason}") from None


def _as_config(command: Command, options: Options) -> dict[str, object]:
    """Return what tells two cells apart: options as they are meant, not as they are written."""
    try:
        return config_of(command, options).model_dump()
    except ValidationError:
        return dict(options)


def _why_not_here(command: Command, options: Options) -> str | None:
    try:
        config = config_of(command, options)
        layout = STRATEGIES[config.strategy].layout(config)
    except ValidationError as error:
        option, value, reason = first_problem(error)
        raise _ImpossibleError(f"{option} = {value!r}: {reason}" if option else reason) from None
    except PerfkitError as error:
        raise _ImpossibleError(str(error)) from None
    try:
        refuse_crowd(config, layout)
        config, choice, _ = settled(config, layout, local_rank=0, local_world_size=layout.ranks)
    except PerfkitError as error:
        return str(error)
    # Ranks that share cores say nothing of how training scales.
    needed, cores = layout.ranks * (config.threads or 1), available_cores()
    if choice.devices[0].torch_device.type == "cpu" and needed > cores:
        return (
            f"{layout.ranks} rank(s) x {config.threads} thread(s) need {needed} cores, and this "
            f"process may use {cores}"
        )
    return None
