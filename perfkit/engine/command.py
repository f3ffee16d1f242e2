"""What the commands that train share: being the parent of the ranks, or one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from perfkit.core import cli
from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.host import available_cores
from perfkit.engine.folder import is_complete, what_is_left
from perfkit.launch.child import PARENT_VARIABLE, die_with_parent
from perfkit.launch.detect import Place, detect
from perfkit.launch.spawn import RankError, run_ranks
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Layout

RANKS_PER_CORE = 8  # more would only show how a machine swaps

BeRank = Callable[[Place], None]


def run_command(
    module: str, arguments: Sequence[str], config: RunConfig, folder: Path, be_rank: BeRank
) -> int:
    """Start ``python -m module arguments`` as the ranks, or be one where a launcher started this.

    ``arguments`` must lead to the run folder ``folder`` whoever parses them; it is told what is
    left of a run that does not end. Returns the exit code.
    """
    place = detect(os.environ)
    if place is not None:
        from perfkit.launch.child import leave

        leave(cli.run(lambda _: _be_rank(place, be_rank)))
    layout = STRATEGIES[config.strategy].layout(config)
    command = [sys.executable, "-m", module, *arguments]
    threads = config.threads or max(available_cores() // layout.ranks, 1)
    refuse_crowd(config, layout)
    # Somebody who started this process to wait for its end (a sweep) says so.
    if PARENT_VARIABLE in os.environ:
        die_with_parent()
    try:
        run_ranks(command, ranks=layout.ranks, threads=threads)
        if not is_complete(folder):
            raise RankError(0, f"the ranks ended without a result; {what_is_left(folder)}")
        return 0
    except SystemExit:  # SIGTERM or SIGHUP, say of a scheduler
        print(f"perfkit: ended by a signal; {what_is_left(folder)}", file=sys.stderr)
        raise
    except RankError as error:
        print(f"perfkit: error: {error.message}", file=sys.stderr)
        print(f"perfkit: {what_is_left(folder)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"perfkit: interrupted; {what_is_left(folder)}", file=sys.stderr)
        return cli.EXIT_USER_ERROR


def refuse_crowd(config: RunConfig, layout: Layout) -> None:
    """Raise PerfkitError where this host would have to start more ranks than it can run."""
    most = RANKS_PER_CORE * available_cores()
    if layout.ranks > most:
        raise PerfkitError(
            f"--strategy {config.strategy} --gpus {layout.devices} needs {layout.ranks} processes, "
            f"too many for {available_cores()} cores; ask for at most {most}, or use a launcher"
        )


def _be_rank(place: Place, be_rank: BeRank) -> int:
    from perfkit.launch.child import report_errors

    die_with_parent()
    with report_errors():
        try:
            be_rank(place)
        except KeyboardInterrupt:
            if place.launcher != "perfkit" and place.rank == 0:
                raise
            return cli.EXIT_USER_ERROR  # the process that started the ranks tells
    return 0
