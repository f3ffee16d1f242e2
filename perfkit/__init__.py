"""perfkit: which parallel strategy pays for this model on this machine, and why."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.core.version import __version__

if TYPE_CHECKING:
    from torch import nn

    from perfkit.engine.session import Session

__all__ = ["__version__", "session"]


def session(
    name: str,
    *,
    model: nn.Module | None = None,
    runs: str | Path = "runs",
    warmup: int = 3,
    steps: int = 20,
    trace_steps: int = 2,
) -> AbstractContextManager[Session]:
    """Watch a training loop of your own::

        with perfkit.session("name") as s:
            for batch in s.steps(loader):
                with s.phase("forward"):
                    ...

    After ``warmup`` steps it times ``steps`` and traces ``trace_steps`` of them, prints what a step
    costs and leaves ``runs/name/record.json`` and a trace; the rest of the loop runs unwatched. A
    name that is taken gets a number. With ``model`` the Record knows its size and its devices.

    Raises PerfkitError for a name that cannot be that of a folder and for negative numbers.
    """
    from perfkit.engine.session import Session, watch
    from perfkit.report.terminal import print_run

    watched = Session(
        name,
        model=model,
        runs=Path(runs),
        warmup=warmup,
        steps=steps,
        trace_steps=trace_steps,
        report=print_run,
    )
    return watch(watched)
