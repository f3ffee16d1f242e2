"""The models that ``--model`` names: how each is built, cut, and started from a file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from perfkit.core.config import Ops
from perfkit.core.errors import PerfkitError
from perfkit.models import medical_cnn, resnet18, resnet18_se, vit_b_16, vit_b_16_se

State = Mapping[str, Tensor]


def _as_it_is(state: State, image_size: int) -> State:
    return state


@dataclass(frozen=True)
class Architecture:
    """One model. Its functions are those of a module, so that loader workers can be sent it."""

    name: str
    """As --model names it."""
    build: Callable[[int, int, Ops], nn.Module]
    """(classes, image size in pixels, what runs its Squeeze-and-Excitation) -> a new model on the
    CPU, its weights drawn from torch's generator."""
    stages: Callable[[Any], list[nn.Module]]
    """model -> modules to be called one after the other, which share its parameters."""
    head: str
    """What the names of the classifying layer start with in a state dict."""
    size_step: int = 1
    """Image sizes have to be a multiple of this many pixels."""
    adapted: Callable[[State, int], State] = _as_it_is
    """(state dict, image size) -> one with the model's own names and shapes, where it is one of
    this model in another layout. Raises ValueError or RuntimeError for senseless shapes."""
    has_squeeze_excite: bool = False
    """Whether there are `perfkit.ops.SqueezeExcite` in it."""
    added: str = ""
    """What names in a state dict contain that the network it was made from lacks: a file may have
    none of them."""


_ALL = (
    Architecture(
        name="medical_cnn",
        build=medical_cnn.build,
        stages=medical_cnn.MedicalCNN.stages,
        head="stage4.head.classifier.8.",
        has_squeeze_excite=True,
    ),
    Architecture(
        name="resnet18",
        build=resnet18.build,
        stages=resnet18.stages,
        head="fc.",
    ),
    Architecture(
        name="resnet18_se",
        build=resnet18_se.build,
        stages=resnet18.stages,
        head="fc.",
        has_squeeze_excite=True,
        added=".se.",
    ),
    Architecture(
        name="vit_b_16",
        build=vit_b_16.build,
        stages=vit_b_16.stages,
        head="heads.head.",
        size_step=vit_b_16.PATCH_SIZE,
        adapted=vit_b_16.adapted,
    ),
    Architecture(
        name="vit_b_16_se",
        build=vit_b_16_se.build,
        stages=vit_b_16.stages,
        head="heads.head.",
        size_step=vit_b_16.PATCH_SIZE,
        adapted=vit_b_16.adapted,
        has_squeeze_excite=True,
        added=".se.",
    ),
)
ARCHITECTURES = {architecture.name: architecture for architecture in _ALL}


def find_architecture(name: str, image_size: int) -> Architecture:
    """Return the model of that name; PerfkitError if there is none, or not for that image size."""
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name.lower(), ARCHITECTURES, n=1, cutoff=0.5)
        nearest = f"did you mean {near[0]}? " if near else ""
        raise PerfkitError(
            f"--model {name}: no such model; {nearest}known are {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[name]
    step = architecture.size_step
    below = image_size // step * step
    if below != image_size:
        raise PerfkitError(
            f"--image-size {image_size}: {name} needs a multiple of {step}; the nearest are "
            f"{below} and {below + step}"
        )
    return architecture
