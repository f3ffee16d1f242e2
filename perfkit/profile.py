"""``perfkit profile``: run one training under one strategy and say what it costs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from perfkit.core import cli
from perfkit.core.config import RunConfig, read_toml
from perfkit.core.errors import PerfkitError
from perfkit.core.host import available_cores
from perfkit.engine.folder import default_name, is_complete, what_is_left
from perfkit.launch.detect import Place, detect
from perfkit.launch.spawn import RankError, run_ranks
from perfkit.strategies import STRATEGIES

RANKS_PER_CORE = 8  # more would only show how a machine swaps
DESCRIPTION = "Run one training under one parallel strategy, measure it, trace it, say if it pays."


def main(argv: Sequence[str] | None = None) -> int:
    """Start the ranks, or be one of them where a launcher started this process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    config = parse(arguments)
    layout = STRATEGIES[config.strategy].layout(config)
    place = detect(os.environ)
    if place is not None:
        from perfkit.launch.child import leave

        leave(cli.run(lambda _: _be_a_rank(config, place)))
    # Named here, so that this process can say what is left of a run that does not end.
    name = config.name or default_name(config, devices=layout.devices)
    folder = config.runs / name
    command = [sys.executable, "-m", "perfkit.profile", *arguments, "--name", name]
    threads = config.threads or max(available_cores() // layout.ranks, 1)
    most = RANKS_PER_CORE * available_cores()
    if layout.ranks > most:
        raise PerfkitError(
            f"--strategy {config.strategy} --gpus {layout.devices} needs {layout.ranks} processes, "
            f"too many for {available_cores()} cores; ask for at most {most}, or use a launcher"
        )
    try:
        run_ranks(command, ranks=layout.ranks, threads=threads)
        if not is_complete(folder):
            raise RankError(0, f"the ranks ended without a result; {what_is_left(folder)}")
        return 0
    except RankError as error:
        print(f"perfkit: error: {error.message}", file=sys.stderr)
        print(f"perfkit: {what_is_left(folder)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"perfkit: interrupted; {what_is_left(folder)}", file=sys.stderr)
        return cli.EXIT_USER_ERROR


class Flags(RunConfig):
    """RunConfig, and where its defaults come from."""

    config: Path | None = None
    """TOML file of these options (local_batch = 8, ...); flags win over it."""


def parse(arguments: Sequence[str]) -> RunConfig:
    """Return the flags as a RunConfig, a TOML file giving what is not among them."""
    file = cli.peek("--config", arguments)
    flags = cli.parse(
        Flags,
        arguments,
        prog="perfkit profile",
        description=DESCRIPTION,
        defaults=read_toml(Path(file)) if file is not None else None,
    )
    return RunConfig(**flags.model_dump(exclude={"config"}))


def _be_a_rank(config: RunConfig, place: Place) -> int:
    from perfkit.launch.child import die_with_parent, report_errors

    die_with_parent()
    with report_errors():
        try:
            from perfkit.engine.profile_run import profile_rank
            from perfkit.report.progress import ProgressDisplay, Silence
            from perfkit.report.terminal import print_run

            if place.rank != 0:
                profile_rank(config, place, Silence())
                return 0
            with ProgressDisplay() as progress:
                folder = profile_rank(config, place, progress)
        except KeyboardInterrupt:
            if place.launcher != "perfkit" and place.rank == 0:
                raise
            return cli.EXIT_USER_ERROR  # the process that started the ranks tells
        if folder is not None:
            print_run(folder)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
