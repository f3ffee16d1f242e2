"""``perfkit profile``: run one training under one strategy and say what it costs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from perfkit.core import cli
from perfkit.core.config import ProfileConfig, read_toml
from perfkit.engine.command import run_command
from perfkit.engine.folder import default_name
from perfkit.launch.detect import Place
from perfkit.strategies import STRATEGIES

DESCRIPTION = "Run one training under one parallel strategy, measure it, trace it, say if it pays."


def main(argv: Sequence[str] | None = None) -> int:
    """Start the ranks, or be one of them where a launcher started this process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    config = parse(arguments)
    layout = STRATEGIES[config.strategy].layout(config)
    for changed in config.variants().values():
        STRATEGIES[config.strategy].layout(changed)
    # Named here, so that this process can say what is left of a run that does not end.
    name = config.name or default_name(config, devices=layout.devices)
    return run_command(
        "perfkit.profile",
        [*arguments, "--name", name],
        config,
        config.runs / name,
        lambda place: _be_rank(config, place),
    )


class Flags(ProfileConfig):
    """ProfileConfig, and where its defaults come from."""

    config: Path | None = None
    """TOML file of these options (local_batch = 8, ...); flags win over it."""


def parse(arguments: Sequence[str]) -> ProfileConfig:
    """Return the flags as a ProfileConfig, a TOML file giving what is not among them."""
    file = cli.peek("--config", arguments)
    flags = cli.parse(
        Flags,
        arguments,
        prog="perfkit profile",
        description=DESCRIPTION,
        defaults=read_toml(Path(file), ProfileConfig) if file is not None else None,
    )
    return ProfileConfig(**flags.model_dump(exclude={"config"}))


def _be_rank(config: ProfileConfig, place: Place) -> None:
    from perfkit.engine.profile_run import profile_rank
    from perfkit.report.progress import ProgressDisplay, Silence
    from perfkit.report.terminal import print_run

    if place.rank != 0:
        profile_rank(config, place, Silence())
        return
    with ProgressDisplay() as progress:
        folder = profile_rank(config, place, progress)
    print_run(folder)


if __name__ == "__main__":
    sys.exit(cli.run(main))
