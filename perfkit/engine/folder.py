"""The run folder: made by rank 0, and taken away again if nothing came of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError


@contextlib.contextmanager
def run_folder(config: RunConfig, rank: int) -> Iterator[Path | None]:
    """Yield the new run folder at rank 0 and None elsewhere.

    Raises PerfkitError if it exists, so that no run overwrites another, or cannot be made.
    """
    if rank != 0:
        yield None
        return
    now = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    workload = config.workload.rpartition(":")[2]
    folder = config.runs / (config.name or f"{now}-{workload}-{config.strategy}-{config.gpus}")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise PerfkitError(f"run folder {folder} exists; give another --name or --runs") from None
    except OSError as error:
        raise PerfkitError(
            f"run folder {folder} cannot be made ({error.strerror}); choose another --runs"
        ) from None
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # succeeds only while it is empty
