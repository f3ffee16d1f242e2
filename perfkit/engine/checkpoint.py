"""Checkpoints of a training: written whole or not at all, read without running anybody's code."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perfkit.core.errors import PerfkitError
from perfkit.core.files import replacing
from perfkit.core.tensor_file import read_tensors

FOLDER = "checkpoints"
LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A training after a whole epoch, as plain values and tensors on the CPU.

    ``model`` has the parameter names of the unsplit, unwrapped model, whatever the strategy: the
    file is also one for ``--weights``.
    """

    workload: str
    epoch: int
    steps: int
    """Steps over all epochs so far, skipped ones included: where the data goes on."""
    ranks: int
    global_batch: int
    model: dict[str, Tensor]
    training: dict[str, Any]
    """State of optimiser, schedule and gradient scaler; see Training.state."""
    random: list[dict[str, Any]]
    """State of the random number generators of each rank."""
    normalisation: tuple[tuple[float, ...], tuple[float, ...], str] | None = None
    """Mean and deviation that images were normalised with and who said so, where that is known."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        torch.save(_plain(_shallow(checkpoint)), temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file.

    Raises PerfkitError where the file is missing, damaged, holds more than plain values and
    tensors, or is no checkpoint of perfkit.
    """
    content = read_tensors(path)
    names = [field.name for field in fields(Checkpoint)]
    if not isinstance(content, dict) or set(content) != set(names):
        raise PerfkitError(
            f"{path}: is no checkpoint of perfkit train; name a run folder that has one"
        )
    checkpoint = Checkpoint(**content)
    training = checkpoint.training
    if not (
        isinstance(checkpoint.model, dict)
        and isinstance(training, dict)
        and {"optimizer", "schedule", "scaler", "updates"} <= set(training)
        and isinstance(checkpoint.random, list)
        and len(checkpoint.random) == checkpoint.ranks
        and all(isinstance(n, int) for n in (checkpoint.epoch, checkpoint.steps))
    ):
        raise PerfkitError(f"{path}: its parts do not fit together; start a new training")
    return checkpoint


def load_model(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the parameters and buffers; PerfkitError if they are those of another model."""
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise PerfkitError(
            f"the checkpoint is of another model ({first[0].strip()}); use the --workload, --model "
            "and --image-size that it was trained with"
        ) from None


def random_state(cuda_devices: Sequence[torch.device]) -> dict[str, Any]:
    """Return the state of every generator of this process that a training draws from."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": numpy,
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in cuda_devices],
    }


def set_random_state(state: dict[str, Any], cuda_devices: Sequence[torch.device]) -> None:
    """Put the generators of this process back to where they were, as far as it has them."""
    random.setstate(state["python"])
    numpy = state["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    # A training may go on where there are other devices: then there is nothing to put back.
    for device, cuda_state in zip(cuda_devices, state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda_state, device)


def _plain(value: Any) -> Any:
    """Return ``value`` with what weights_only refuses of numpy as Python's and torch's own."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(entry) for entry in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value.item() if isinstance(value, np.generic) else value


def _shallow(checkpoint: Checkpoint) -> dict[str, Any]:
    return {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
