"""The run folder: made by rank 0, and taken away again if nothing came of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import RECORD_NAME, read_record


def default_name(config: RunConfig, *, devices: int) -> str:
    """Return the name of a run folder that was given none: it sorts by time and tells what ran."""
    now = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return f"{now}-{config.workload.rpartition(':')[2]}-{config.strategy}-{devices}"


def what_is_left(folder: Path) -> str:
    """Return where the samples of a run that did not end are, as the end of a sentence."""
    if not (folder / RECORD_NAME).exists():
        with contextlib.suppress(OSError):
            folder.rmdir()  # left by a rank 0 that was killed; its name can be used again
        return "nothing had been measured yet"
    if is_complete(folder):
        return f"the run itself was complete, see {folder / RECORD_NAME}"
    if (folder / "checkpoints" / "last.pt").exists():
        return f"go on after the last whole epoch with: perfkit train --resume {folder}"
    return f"what was measured until then is in {folder / RECORD_NAME}, marked incomplete"


def is_complete(folder: Path) -> bool:
    """Whether the run in ``folder`` came to its end."""
    return (folder / RECORD_NAME).exists() and read_record(folder).status == "complete"


@contextlib.contextmanager
def run_folder(config: RunConfig, rank: int) -> Iterator[Path | None]:
    """Yield the new run folder at rank 0 and None elsewhere.

    Raises PerfkitError if it exists, so that no run overwrites another, or cannot be made.
    """
    if rank != 0:
        yield None
        return
    folder = config.runs / (config.name or default_name(config, devices=config.gpus or 1))
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
