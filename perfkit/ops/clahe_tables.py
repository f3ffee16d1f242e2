"""The tables that CLAHE-gamma-median applies to its bytes, on the device that needs them.

A table is made once and kept: on a GPU its upload waits for the device. An operator makes it, since
torch runs the inside of one on real tensors alone: what is kept is never fake, nor bound to a
transform. Inside torch.compile and torch.export, where a gamma may be symbolic, the operator stands
for the table and returns a copy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perfkit.ops.clahe_checks import BINS, gamma_table

_MOST_KEPT = 64
_kept: dict[tuple[object, ...], Tensor] = {}


@torch.library.custom_op("perfkit::gamma_values", mutates_args=())
def gamma_values(gamma: float, device: torch.device) -> Tensor:
    """Return uint8 [256], the gamma table, as a tensor of the caller's own."""

    def make() -> Tensor:
        return torch.tensor(list(gamma_table(gamma)), dtype=torch.uint8, device="cpu")

    return _keep((gamma, device), make, device).clone()


@gamma_values.register_fake
def _(gamma: float, device: torch.device) -> Tensor:
    return torch.empty(BINS, dtype=torch.uint8, device=device)


def gamma_values_kept(gamma: float, device: torch.device) -> Tensor:
    """Return `gamma_values`, from what is kept where it can; not to be written to."""
    table = _kept.get((gamma, device))
    return gamma_values(gamma, device) if table is None else table


@torch.library.custom_op("perfkit::normalised_values", mutates_args=())
def normalised_values(
    mean: list[float], std: list[float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return `dtype` [C, 256], what each byte of a channel becomes, as the caller's own tensor.

    Made by the operations that it stands for, so that it has their bits.
    """

    def make() -> Tensor:
        means, deviations = (
            torch.tensor(numbers, dtype=torch.float32, device="cpu").unsqueeze(1)
            for numbers in (mean, std)
        )
        levels = torch.arange(BINS, dtype=torch.uint8, device="cpu")
        return ((levels.float() / 255 - means) / deviations).to(dtype)

    return _keep((*mean, *std, dtype, device), make, device).clone()


@normalised_values.register_fake
def _(mean: list[float], std: list[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(len(mean), BINS, dtype=dtype, device=device)


def normalised_values_kept(
    mean: list[float], std: list[float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return `normalised_values`, from what is kept where it can; not to be written to."""
    table = _kept.get((*mean, *std, dtype, device))
    return normalised_values(mean, std, dtype, device) if table is None else table


def _keep(key: tuple[object, ...], make: Callable[[], Tensor], device: torch.device) -> Tensor:
    table = _kept.get(key)
    if table is None:
        if len(_kept) >= _MOST_KEPT:
            if device.type == "cuda":
                # Streams other than the one whose memory it is may still read a table.
                torch.cuda.synchronize(device)
            _kept.clear()
        table = _kept[key] = make().to(device)
    return table
