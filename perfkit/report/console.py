"""Lines and tables on a console."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED_WIDTH = 10_000
KEY_WIDTH = 13

Line = tuple[str, str]  # what it is about, and the sentence


def make_console() -> Console:
    """Return a console for stdout that takes brackets in names and paths for what they are.

    A file or a pipe has no width: nothing is wrapped in it.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    return console


def print_lines(
    lines: Sequence[Line], console: Console, *, key_width: int = KEY_WIDTH, style: str = "bold"
) -> None:
    """Print sentences beside what each is about, wrapped at words where the console ends."""
    indent = " " * (key_width + 2)
    for key, text in lines:
        wrapped = textwrap.fill(
            text,
            console.width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,  # a path in pieces cannot be copied
            break_on_hyphens=False,
        )
        styled = Text.assemble((f"{key:<{len(indent)}}", style), wrapped[len(indent) :])
        console.print(styled, soft_wrap=True)


def print_path(key: str, path: Path, console: Console) -> None:
    """Print a path in one piece, however long."""
    console.print(f"{key:<{KEY_WIDTH}}  {path}", soft_wrap=True)


def borderless_table() -> Table:
    """Return an empty table without lines, two spaces between its columns."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
