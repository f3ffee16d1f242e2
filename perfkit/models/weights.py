"""Pretrained weights from a file: read, checked and loaded; and how images are normalised for them.

A file holds torchvision's state dict of the model, a perfkit checkpoint (its key "model"), or the
state dict of a ``ViTForImageClassification`` of Hugging Face's transformers. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, PositiveFloat, ValidationError
from torch import Tensor, nn

from perfkit.core.errors import PerfkitError, first_problem
from perfkit.core.tensor_file import read_tensors
from perfkit.models.registry import Architecture, State

Channels = tuple[float, float, float]  # of red, green, blue in 0..1

PREPROCESSOR = "preprocessor_config.json"
_COUNTER = ".num_batches_tracked"  # of a BatchNorm; files from before torch 0.4 lack it


class Normalisation(NamedTuple):
    """What is taken from an image and what the rest is divided by, and who says so."""

    mean: Channels
    std: Channels
    source: str

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in part) for part in (self.mean, self.std))
        return f"mean {mean}; std {std} ({self.source})"


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet")
HALVES = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "Hugging Face's ViT")


class _Preprocessor(BaseModel):
    """What is read of a preprocessor_config.json."""

    image_mean: Channels
    image_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


def normalisation_for(weights: Path | None) -> Normalisation:
    """Return how images are normalised for the weights in a file, or for new ones.

    As a checkpoint of perfkit says, or the ``preprocessor_config.json`` beside the file; else by
    0.5 and 0.5 for weights in Hugging Face's layout, and by ImageNet's mean and deviation for all
    others. Raises PerfkitError where a file cannot be read.
    """
    if weights is None:
        return IMAGENET
    state, said = _read(weights)
    if said is not None:
        return said
    is_hugging_face = any(name.startswith("vit.") for name in state)
    beside = weights.with_name(PREPROCESSOR)
    try:
        told = _Preprocessor.model_validate_json(beside.read_bytes())
    except FileNotFoundError:
        return HALVES if is_hugging_face else IMAGENET
    except OSError as error:
        raise PerfkitError(f"{beside}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        field, _, reason = first_problem(error)
        raise PerfkitError(
            f"{beside}: {field or 'it'} does not tell how images are normalised ({reason})"
        ) from None
    return Normalisation(told.image_mean, told.image_std, PREPROCESSOR)


def load_weights(
    model: nn.Module, weights: Path, architecture: Architecture, image_size: int
) -> list[str]:
    """Load the weights in a file into a new ``model``; return the names that keep their values.

    These are a classifying layer, where the file's is for another number of classes or missing, and
    what the architecture added to the network that the file is of. Raises PerfkitError for a file
    that cannot be read and for weights of another model.
    """
    where = f"--weights {weights}: does not fit --model {architecture.name}"
    try:
        state = dict(architecture.adapted(_read(weights)[0], image_size))
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise PerfkitError(f"{where} ({reason})") from None
    unfit = [
        name
        for name, tensor in state.items()
        if tensor.layout is not torch.strided
        or tensor.is_complex()
        or tensor.is_meta
        or tensor.is_quantized
        or not bool(tensor.isfinite().all())
    ]
    if unfit:
        raise PerfkitError(
            f"{where} ({unfit[0]!r} is not a dense tensor of finite real numbers); save the "
            "model's state_dict() anew"
        )
    own = model.state_dict()
    optional = {name for name in own if name.endswith(_COUNTER)}
    head = {name for name in own if name.startswith(architecture.head)}
    if any(name not in state or state[name].shape != own[name].shape for name in head):
        state = {name: tensor for name, tensor in state.items() if name not in head}
        optional |= head
    added = {name for name in own if architecture.added and architecture.added in name}
    if added.isdisjoint(state):
        optional |= added
    misfits = {
        "missing": [name for name in own if name not in state and name not in optional],
        "unknown": [name for name in state if name not in own],
        "of another shape": [
            name for name in own if name in state and state[name].shape != own[name].shape
        ],
    }
    if any(misfits.values()):
        told = [
            f"{len(names)} {what}, first {names[0]!r}" for what, names in misfits.items() if names
        ]
        raise PerfkitError(
            f"{where} (of {len(own)} names {'; '.join(told)}); name the model that the weights "
            "belong to"
        )
    model.load_state_dict(state, strict=False)
    return [name for name in own if name not in state and not name.endswith(_COUNTER)]


def _read(weights: Path) -> tuple[State, Normalisation | None]:
    """Return the state dict in a file, and how a checkpoint of perfkit says to normalise.

    Raises PerfkitError where there is no state dict.
    """
    if weights.suffix == ".safetensors":
        raise PerfkitError(
            f"--weights {weights}: is no file of torch.save; load it with "
            "safetensors.torch.load_file and save what that returns with torch.save"
        )
    try:
        loaded = read_tensors(weights)
    except PerfkitError as error:
        raise PerfkitError(f"--weights {error}") from None
    is_checkpoint = isinstance(loaded, dict) and isinstance(loaded.get("model"), dict)
    state: State = loaded["model"] if is_checkpoint else loaded
    if not (
        isinstance(state, dict)
        and state
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise PerfkitError(
            f"--weights {weights}: holds no state dict; expected what "
            "torch.save(model.state_dict(), FILE) writes, or a checkpoint of perfkit"
        )
    said = loaded.get("normalisation") if is_checkpoint else None
    if said is None:
        return state, None
    try:
        mean, std, source = said
        told = _Preprocessor(image_mean=mean, image_std=std)
    except (TypeError, ValueError):
        raise PerfkitError(
            f"--weights {weights}: its normalisation makes no sense: {said!r}"
        ) from None
    return state, Normalisation(told.image_mean, told.image_std, f"{source}")
