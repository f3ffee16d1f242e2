"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perfkit.core.errors import PerfkitError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that becomes ``path`` when the block succeeds.

    The name ends as ``path`` does, for writers that choose a format by it. The folder is made if
    it is missing; when the block raises, nothing is left behind and an older file at ``path`` is
    untouched. Raises OSError where the folder or the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_toml_file(path: Path, source: str) -> dict[str, Any]:
    """Return a TOML file; PerfkitError, naming ``source``, where it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PerfkitError(f"{source}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, numbers without end
        raise PerfkitError(f"{source}: is not TOML ({error})") from None
