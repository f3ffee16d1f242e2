"""``perfkit sweep``: measure a matrix of configurations in rounds of fresh processes."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from tyro.conf import Positional

from perfkit.core import cli
from perfkit.core.config import RUN_NAME
from perfkit.core.errors import PerfkitError
from perfkit.core.sweep import (
    MOST_ROUNDS,
    Command,
    Sweep,
    SweepFile,
    read_sweep,
    read_sweep_file,
    sweep_file,
    write_sweep,
)
from perfkit.report.words import count_of

LOCK_NAME = "lock"
DESCRIPTION = (
    "Measure configurations beside each other: every cell once in every round, each time in a "
    "fresh process, in random order."
)


class SweepFlags(BaseModel):
    """What to measure, how often, and where it goes."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    file: Positional[Path | None] = None
    """TOML file: command, rounds, seed, [base], [matrix], [[cells]]. Flags win over it."""
    command: Command | None = None
    """What each process runs: perfkit profile (default) or perfkit train."""
    base: tuple[str, ...] = ()
    """Options of all cells, as in workload=glaucoma image_size=96."""
    matrix: tuple[str, ...] = ()
    """Options of which every combination is a cell, as in strategy=serial,ddp gpus=1,2."""
    cells: tuple[str, ...] = ()
    """Cells by themselves, beside the base: what differs, as in strategy=ddp,gpus=2 workers=2."""
    rounds: int | None = None
    """Processes of each cell; with --resume more than there were. Default: 6."""
    seed: int | None = None
    """Of the order of cells within rounds. Default: 0."""
    runs: Path = Path("runs")
    """Folder that the sweep folder is made in."""
    name: Annotated[str, Field(pattern=RUN_NAME, max_length=200)] | None = None
    """Name of the sweep folder. Default: time and name of the file."""
    resume: Path | None = None
    """Folder of a sweep to go on with; what was measured is kept."""


def main(argv: Sequence[str] | None = None) -> int:
    """Plan and run the sweep, or what is missing of it, and print what it comes to."""
    flags = cli.parse(SweepFlags, argv, prog="perfkit sweep", description=DESCRIPTION)
    # What was asked for is looked at before torch is imported.
    asked = None if flags.resume is not None else _asked(flags)
    sweep, folder = _planned(flags, asked) if asked is not None else _resumed(flags)
    with _alone_in(folder):
        if flags.resume is not None:
            sweep = _with_rounds(read_sweep(folder), flags.rounds, folder)
        return _go_on(sweep, folder)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of the folder; the kernel lets go where this process ends."""
    try:
        lock = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise PerfkitError(f"{folder}: cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PerfkitError(
                f"{folder}: another perfkit sweep is at work there; let it end, or end it first"
            ) from None
        yield


def _go_on(sweep: Sweep, folder: Path) -> int:
    """Run what is missing, and print what it comes to."""
    from perfkit.analysis.sweep import more_seconds
    from perfkit.engine.sweep_folder import missing
    from perfkit.engine.sweep_run import run_sweep
    from perfkit.report.progress import SweepDisplay

    try:
        with SweepDisplay() as display:
            sweep = run_sweep(sweep, folder, display, more_seconds)
    except KeyboardInterrupt:
        left = len(missing(read_sweep(folder), folder))
        print(
            f"perfkit: interrupted; {count_of(left, 'process')} missing; go on with: "
            f"perfkit sweep --resume {folder}",
            file=sys.stderr,
        )
        return cli.EXIT_USER_ERROR
    except OSError as error:
        raise PerfkitError(
            f"{folder}: cannot be written ({error.strerror}); what was measured is there: make "
            f"room, then: perfkit sweep --resume {folder}"
        ) from None
    return _show(sweep, folder)


def _show(sweep: Sweep, folder: Path) -> int:
    from perfkit.analysis.recommendation import rounds_to_add
    from perfkit.analysis.sweep import rows
    from perfkit.analysis.sweep_scaling import curves, scaled
    from perfkit.engine.sweep_folder import missing, read_records
    from perfkit.report.console import make_console, print_lines, print_path
    from perfkit.report.scaling_figure import draw_scaling
    from perfkit.report.sweep import MOST_MORE, print_sweep, write_tables
    from perfkit.report.sweep_figure import draw_sweep
    from perfkit.report.words import duration

    found = rows(sweep, read_records(sweep, folder))
    if not found:
        raise PerfkitError(
            f"{folder}: nothing was measured; {folder / 'logs'} has what each process said"
        )
    left = missing(sweep, folder)
    console = make_console()
    print_sweep(sweep, found, len(left), console)
    figures = [folder / "figures" / name for name in ("sweep.png", "scaling.png")]
    try:
        tables = write_tables(sweep, found, len(left), folder)
        draw_sweep(sweep, found, figures[0])
        draw_scaling(sweep, scaled(found), curves(found), figures[1])
    except OSError as error:
        raise PerfkitError(f"{folder}: cannot be written ({error.strerror})") from None
    console.print()
    for path in tables:
        print_path("table", path, console)
    for path in figures:
        if path.exists():
            print_path("figure", path, console)
    more = rounds_to_add(found)
    if more is not None and more <= MOST_MORE and sweep.rounds + more <= MOST_ROUNDS:
        again = f"perfkit sweep --resume {folder} --rounds {sweep.rounds + more}"
        takes_s = more * sum(cell.planned_s or 0.0 for cell in sweep.cells)
        print_lines([("more rounds", f"{again} (about {duration(takes_s)})")], console)
    if left:
        print(
            f"perfkit: error: {count_of(len(left), 'process')} missing; {folder / 'logs'} has what "
            f"each said; try those again with: perfkit sweep --resume {folder}",
            file=sys.stderr,
        )
    return int(bool(left))


def _asked(flags: SweepFlags) -> SweepFile:
    """Return the file's sweep with the flags in it."""
    given: dict[str, Any] = {}
    if flags.file is not None:
        given = read_sweep_file(flags.file).model_dump(exclude_unset=True)
    own = {"command": flags.command, "rounds": flags.rounds, "seed": flags.seed}
    given |= {name: value for name, value in own.items() if value is not None}
    given["base"] = given.get("base", {}) | _options("--base", flags.base)
    matrix = {
        option: value.split(",") for option, value in _options("--matrix", flags.matrix).items()
    }
    given["matrix"] = given.get("matrix", {}) | matrix
    cells = [_options("--cells", cell.split(",")) for cell in flags.cells]
    given["cells"] = [*given.get("cells", []), *cells]
    return sweep_file(given, _source(flags))


def _source(flags: SweepFlags) -> str:
    return "sweep" if flags.file is None else f"{flags.file}"


def _options(flag: str, pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not (option and equals and value):
            raise PerfkitError(f"{flag} {pair}: has to be option=value, as in workers=2")
        if option.replace("-", "_") in found:
            raise PerfkitError(f"{flag} {pair}: {option} is given twice; name it once")
        found[option.replace("-", "_")] = value
    return found


def _planned(flags: SweepFlags, asked: SweepFile) -> tuple[Sweep, Path]:
    """Plan the sweep and make its folder."""
    from perfkit.engine.sweep_plan import plan

    now = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    name = flags.name or f"{now}-{flags.file.stem if flags.file is not None else 'sweep'}"
    folder = flags.runs / name
    if _exists(folder):
        raise PerfkitError(
            f"{folder} exists; give another --name, or go on with it: "
            f"perfkit sweep --resume {folder}"
        )
    sweep = plan(asked, name, _source(flags))
    try:
        folder.mkdir(parents=True)
        write_sweep(sweep, folder)
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()  # its name can be used again
        raise PerfkitError(
            f"sweep folder {folder} cannot be made ({error.strerror}); choose another --runs"
        ) from None
    return sweep, folder


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError as error:  # a name that no folder can have
        raise PerfkitError(
            f"sweep folder {folder} cannot be made ({error.strerror}); choose another --name"
        ) from None


def _resumed(flags: SweepFlags) -> tuple[Sweep, Path]:
    """Return a sweep to go on with."""
    folder = flags.resume
    assert folder is not None
    if flags != SweepFlags(resume=folder, rounds=flags.rounds):
        raise PerfkitError(
            f"--resume {folder}: goes on as planned; leave out all other options but --rounds"
        )
    sweep = read_sweep(folder)
    from perfkit.measure.environment import describe_environment

    hardware = describe_environment("perfkit").hardware
    if hardware != sweep.hardware:
        raise PerfkitError(
            f"--resume {folder}: was begun on {sweep.hardware}, this is {hardware}; go on there, "
            "or measure again here"
        )
    from perfkit.engine.sweep_folder import read_records

    read_records(sweep, folder)  # what does not belong here is told before anything runs
    return sweep, folder


def _with_rounds(sweep: Sweep, rounds: int | None, folder: Path) -> Sweep:
    """Return the sweep with so many rounds: those that were measured or first planned stay."""
    if rounds is None:
        return sweep
    from perfkit.engine.sweep_folder import read_records

    measured = [index + 1 for of_cell in read_records(sweep, folder).values() for index in of_cell]
    try:
        more = sweep.with_rounds(rounds, measured=max(measured, default=0))
        write_sweep(more, folder)
    except ValueError as error:
        raise PerfkitError(f"--rounds {rounds}: {error}") from None
    except OSError as error:
        raise PerfkitError(f"{folder}: cannot be written ({error.strerror})") from None
    return more


if __name__ == "__main__":
    sys.exit(cli.run(main))
