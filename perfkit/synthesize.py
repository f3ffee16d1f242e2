"""The command that writes synthetic fundus photographs, for a first run without real data."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

import tyro
from pydantic import BaseModel, ConfigDict, Field, model_validator

from perfkit.core import cli

Count = Annotated[int, Field(ge=0)]


class Options(BaseModel):
    """What to write, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    folder: tyro.conf.Positional[Path]
    """Where to write {train,val,test}/{0,1}/*.png: a new or empty folder."""
    train: Count = 120
    """Photographs to train on."""
    val: Count = 28
    """Photographs to validate on."""
    test: Count = 40
    """Photographs to test on."""
    size: Annotated[int, Field(ge=16)] = 512
    """Side of the square photographs in pixels."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all photographs; the same seed writes the same bytes."""

    @model_validator(mode="after")
    def _something_to_write(self) -> Self:
        if not self.train + self.val + self.test:
            raise ValueError(
                "--train 0 --val 0 --test 0: nothing to write; give at least one a positive number"
            )
        return self


def main(argv: Sequence[str] | None = None) -> int:
    """Write the photographs, say what was written and what to type next."""
    options = cli.parse(
        Options,
        argv,
        prog="perfkit synthesize",
        description="Write synthetic fundus photographs, normal (0) and glaucomatous (1).",
    )
    from perfkit.data.synthetic_fundus import write_smdg

    counts = {"train": options.train, "val": options.val, "test": options.test}
    write_smdg(options.folder, counts, size=options.size, seed=options.seed)
    told = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"wrote {told} photographs of {options.size} px to {options.folder}")
    print(f"next: python -m perfkit.profile --data {shlex.quote(str(options.folder))}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
