"""A sweep: which cells it has, in which order they take turns, and what came of the plan.

``SweepFile`` is what a user asks for, ``Sweep`` what is kept in ``sweep.json`` of the sweep folder.
The Records of its processes are beside it; nothing is copied out of them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perfkit.core.config import ProfileConfig, RunConfig, TrainConfig
from perfkit.core.errors import PerfkitError, first_problem
from perfkit.core.files import read_toml_file
from perfkit.core.part import Amount, Part, PositiveCount
from perfkit.core.versioned import read_versioned, write_versioned

SWEEP_NAME = "sweep.json"
SCHEMA_MAJOR, SCHEMA_MINOR = 2, 0
SCHEMA_VERSION = f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}"

Command = Literal["profile", "train"]
CONFIGS: dict[Command, type[ProfileConfig] | type[TrainConfig]] = {
    "profile": ProfileConfig,
    "train": TrainConfig,
}
# The sweep names and places its runs by itself, and measures its cells beside each other.
NOT_IN_SWEEPS = ("name", "runs", "baseline", "resume")

MOST_ROUNDS = 1000
Rounds = Annotated[int, Field(ge=2, le=MOST_ROUNDS)]
MOST_CELLS = 1000
Option = bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | str  # of a JSON file
Options = dict[str, Option]


class SweepFile(BaseModel):
    """What to measure: options that all cells share, and those in which they differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Command = "profile"
    rounds: Rounds = 6
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    base: Options = {}
    matrix: dict[str, Annotated[list[Option], Field(min_length=1)]] = {}
    cells: list[Options] = []

    @model_validator(mode="after")
    def _known_options(self) -> SweepFile:
        known = set(CONFIGS[self.command].model_fields) - set(NOT_IN_SWEEPS)
        named: list[Iterable[str]] = [self.base, self.matrix, *self.cells]
        for options in named:
            for option in options:
                if option in NOT_IN_SWEEPS:
                    raise ValueError(f"{option}: is the sweep's own; leave it out")
                if option not in known:
                    raise ValueError(
                        f"unknown option {option!r}; known are {', '.join(sorted(known))}"
                    )
        products = math.prod(len(values) for values in self.matrix.values())
        if products + len(self.cells) > MOST_CELLS:
            raise ValueError(
                f"{products + len(self.cells)} cells are too many to take turns ({MOST_CELLS})"
            )
        if not self.matrix and not self.cells:
            raise ValueError("nothing differs; give a matrix, or cells beside the base")
        return self

    def combinations(self) -> list[Options]:
        """Return what makes each cell differ from the base: the products of the matrix, then cells.

        Without a matrix the base itself is the first cell.
        """
        values = itertools.product(*self.matrix.values())
        products = [dict(zip(self.matrix, chosen, strict=True)) for chosen in values]
        return [*products, *self.cells]


class PlannedCell(Part):
    """One configuration of a sweep."""

    label: str
    """What differs from the base, as in "strategy=ddp gpus=2"; "base" where nothing does."""
    options: Options
    """All options that were asked for, those of the base included."""
    skipped: str | None = None
    """Why this machine cannot run it; None where it can."""
    planned_s: Amount | None = None
    """Seconds that one of its processes was expected to take, from its trial; None before."""


class Sweep(Part):
    """The plan of a sweep, and what is known of it before anything is timed."""

    schema_version: str = SCHEMA_VERSION
    """major.minor: readers refuse a newer major version."""
    name: str
    """Name of the sweep folder."""
    created_at: str
    """Start of the sweep: ISO 8601, UTC."""
    command: Command
    """What each process runs: perfkit profile or perfkit train."""
    rounds: Rounds
    """Processes of each cell; in every round each cell has one."""
    rounds_before: list[PositiveCount] = Field(default_factory=list)
    """What ``rounds`` was before more were added, the first plan first: the result may have been
    looked at each time."""
    seed: int
    """Of the order of cells within the rounds."""
    hardware: str
    """Of this machine, as in the environment of a Record."""
    cells: Annotated[list[PlannedCell], Field(min_length=1)]
    """In the order of the file; the first is what the others are held against."""

    def order(self, round_index: int) -> list[int]:
        """Return the indices of the cells that can run, in the order of this round's turns."""
        indices = [i for i, cell in enumerate(self.cells) if cell.skipped is None]
        random.Random(f"{self.seed}/{round_index}").shuffle(indices)
        return indices

    @model_validator(mode="after")
    def _rounds_were_added(self) -> Self:
        counts = [*self.rounds_before, self.rounds]
        if counts != sorted(set(counts)):
            raise ValueError(f"rounds: {self.rounds} do not come after {self.rounds_before}")
        return self

    def with_rounds(self, rounds: int, *, measured: int) -> Sweep:
        """Return the sweep with more rounds; those that there were keep their order.

        Rounds that were added and not ``measured`` can be taken back. Raises ValueError for fewer
        than that, or than were planned at first, and for more than a sweep may have.
        """
        least = max(measured, (*self.rounds_before, self.rounds)[0])
        if not least <= rounds <= MOST_ROUNDS:
            raise ValueError(f"the sweep may have {least} to {MOST_ROUNDS}")
        before = [count for count in (*self.rounds_before, self.rounds) if count < rounds]
        return self.model_copy(update={"rounds": rounds, "rounds_before": before})

    def config(self, index: int) -> RunConfig:
        """Return the configuration of a cell as the user left it, with no name and no folder."""
        return config_of(self.command, self.cells[index].options)


def config_of(command: Command, options: Options) -> RunConfig:
    """Return the configuration of a cell; pydantic.ValidationError where a value is refused.

    A profile takes two blocks and no trace unless the options say otherwise: variation is sought
    between processes.
    """
    own = {"rounds": 2, "trace_steps": 0, "baseline": ("none",)} if command == "profile" else {}
    return CONFIGS[command].model_validate({**own, **options})


def read_sweep_file(path: Path) -> SweepFile:
    """Return a sweep file; PerfkitError where it is missing, is not TOML, or asks for nonsense."""
    return sweep_file(read_toml_file(path, f"{path}"), f"{path}")


def sweep_file(content: dict[str, Any], source: str) -> SweepFile:
    """Return what ``source`` asks for; PerfkitError, naming it, where that is nonsense."""
    try:
        return SweepFile.model_validate(content)
    except ValidationError as error:
        field, value, reason = first_problem(error)
        where = f"{field} = {value!r}: " if field else ""
        raise PerfkitError(f"{source}: {where}{reason}") from None


def write_sweep(sweep: Sweep, folder: Path) -> None:
    """Write ``sweep.json`` into ``folder``, whole or not at all; OSError where it cannot be."""
    write_versioned(sweep, folder / SWEEP_NAME)


def read_sweep(folder: Path) -> Sweep:
    """Return the plan in a sweep folder; PerfkitError says what is wrong with it."""
    file, version = folder / SWEEP_NAME, (SCHEMA_MAJOR, SCHEMA_MINOR)
    sweep = read_versioned(file, Sweep, "sweep", version, "name the folder of a sweep")
    for index in range(len(sweep.cells)):
        try:
            sweep.config(index)
        except ValidationError as error:
            field, _, reason = first_problem(error)
            place = f"cells.{index}.options.{field}"
            raise PerfkitError(f"{file}: is not a valid sweep ({place}: {reason})") from None
    return sweep
