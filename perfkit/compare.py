"""``perfkit compare``: print runs side by side, and draw them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from tyro.conf import Positional

from perfkit.core import cli
from perfkit.core.errors import PerfkitError

MOST_RUNS = 26  # a letter each
STORED_SETS = "preprocessed"
"""The folder that ``--preprocess offline`` makes among the runs: ``runs/*`` names it too."""


class CompareFlags(BaseModel):
    """What to compare, and where the figure goes."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    runs: Positional[tuple[Path, ...]]
    """Run folders; the first is the one the others are held against."""
    figure: Path = Path("compare.png")
    """Where the figure is written (.png, .svg or .pdf)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the Records, print the table, write the figure."""
    flags = cli.parse(
        CompareFlags,
        argv,
        prog="perfkit compare",
        description="Print runs side by side, absolute cost first, and draw every sample.",
    )
    folders = [path for path in flags.runs if path.name != STORED_SETS]
    if not folders:
        raise PerfkitError("name at least one run folder, as in: perfkit compare runs/a runs/b")
    if len(folders) > MOST_RUNS:
        raise PerfkitError(f"{len(folders)} runs are too many to compare at once ({MOST_RUNS})")

    from perfkit.core.record import read_record
    from perfkit.report.comparison import draw_comparison, measured, print_comparison
    from perfkit.report.terminal import make_console

    records = measured([read_record(path) for path in folders], folders)
    draw_comparison(records, flags.figure)  # first: what cannot be written is said at once
    print_comparison(records, make_console())
    print(f"\nfigure  {flags.figure}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
