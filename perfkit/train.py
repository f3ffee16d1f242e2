"""``perfkit train``: train for some epochs, and say what the model is worth and what it took."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfkit.core import cli
from perfkit.core.config import RUN_NAME, TrainConfig, read_toml
from perfkit.core.errors import PerfkitError
from perfkit.core.record import read_record
from perfkit.engine.command import run_command
from perfkit.engine.folder import default_name
from perfkit.launch.detect import Place
from perfkit.strategies import STRATEGIES

DESCRIPTION = "Train one model under one parallel strategy, epoch after epoch."
# What may differ when a training goes on: it changes neither the model nor its updates.
MAY_CHANGE = {
    *("resume", "runs", "name", "data", "device", "threads", "workers", "patience"),
    *("preprocess", "ops"),  # but whether there is preprocessing may not change
}


def main(argv: Sequence[str] | None = None) -> int:
    """Start the ranks, or be one of them where a launcher started this process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    config = parse(arguments)
    layout = STRATEGIES[config.strategy].layout(config)
    # Named here, so that this process can say what is left of a run that does not end.
    name = config.name or default_name(config, devices=layout.devices)
    return run_command(
        "perfkit.train",
        [*arguments, "--name", name] if config.resume is None else arguments,
        config,
        config.runs / name,
        lambda place: _be_rank(config, place),
    )


class Flags(TrainConfig):
    """TrainConfig, and where its defaults come from."""

    config: Path | None = None
    """TOML file of these options (local_batch = 8, ...); flags win over it."""


def parse(arguments: Sequence[str]) -> TrainConfig:
    """Return the flags as a TrainConfig; a TOML file or a resumed run gives what is not there."""
    file, resumed = cli.peek("--config", arguments), cli.peek("--resume", arguments)
    defaults: dict[str, Any] = {}
    before = None
    if resumed is not None:
        before = _config_of(Path(resumed))
        defaults = before.model_dump()
    if file is not None:
        options = read_toml(Path(file), TrainConfig)
        if "resume" in options:
            raise PerfkitError(
                f"--config {file}: resume belongs on the command line, --resume {options['resume']}"
            )
        defaults |= options
    flags = cli.parse(
        Flags, arguments, prog="perfkit train", description=DESCRIPTION, defaults=defaults
    )
    config = TrainConfig(**flags.model_dump(exclude={"config"}))
    if before is None or config.resume is None:
        return config
    folder = config.resume.resolve()
    if (config.runs, config.name) != (before.runs, before.name):
        raise PerfkitError(
            f"--resume {resumed}: goes on in that folder; leave out --runs and --name"
        )
    if not re.fullmatch(RUN_NAME, folder.name):
        raise PerfkitError(
            f"--resume {resumed}: a run folder is named with letters, digits and any of _ . + -; "
            "rename it"
        )
    for option in TrainConfig.model_fields:
        was, now = getattr(before, option), getattr(config, option)
        may_change = option in MAY_CHANGE
        if option == "preprocess":
            may_change = not {was, now} & {None, "none"}  # or it would be another training
        if was != now and not may_change:
            raise PerfkitError(
                f"--resume {resumed}: --{option.replace('_', '-')} {now} differs from the {was} "
                "it began with; leave it out, or start a new training"
            )
    # Resolved, one device is named even where no GPU was asked for, which would be told as missing.
    gpus = config.gpus if config.gpus != 1 else None
    found = {"gpus": gpus, "resume": folder, "runs": folder.parent, "name": folder.name}
    return cli.validate(TrainConfig, config.model_dump() | found)


def _config_of(folder: Path) -> TrainConfig:
    """Return the config of the training in a run folder; PerfkitError if it cannot go on."""
    try:
        record = read_record(folder)
    except PerfkitError as error:
        raise PerfkitError(f"--resume {error}") from None
    if not isinstance(record.config, TrainConfig):
        raise PerfkitError(f"--resume {folder}: is a {record.kind}, no training")
    if record.status == "complete":
        raise PerfkitError(
            f"--resume {folder}: this training is complete; start a new one, from its model with "
            f"--weights {folder / 'checkpoints' / 'best.pt'}"
        )
    return record.config


def _be_rank(config: TrainConfig, place: Place) -> None:
    from perfkit.engine.train_run import train_rank
    from perfkit.report.curves import draw_curves
    from perfkit.report.progress import Silence, TrainingDisplay
    from perfkit.report.training import print_training

    if place.rank != 0:
        train_rank(config, place, Silence())
        return
    with TrainingDisplay() as progress:
        folder = train_rank(config, place, progress)
    draw_curves(read_record(folder), folder)
    print_training(folder)


if __name__ == "__main__":
    sys.exit(cli.run(main))
