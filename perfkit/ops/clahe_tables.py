"""The tables that CLAHE-gamma-median applies to its bytes, on the device that needs them.

In eager mode a table is made once and kept: on a GPU its upload waits for the device. Inside
torch.compile, torch.export and fake modes, where nothing may be kept and a gamma may be symbolic,
an operator stands for it and returns a copy.
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
    return gamma_values_kept(gamma, device).clone()


@gamma_values.register_fake
def _(gamma: float, device: torch.device) -> Tensor:
    return torch.empty(BINS, dtype=torch.uint8, device=device)


def gamma_values_kept(gamma: float, device: torch.device) -> Tensor:
    """Return uint8 [256], the gamma table; not to be written to."""

    def make() -> Tensor:
        return torch.tensor(list(gamma_table(gamma)), dtype=torch.uint8, device="cpu")

    return _keep((gamma, device), make, device)


@torch.library.custom_op("perfkit::normalised_values", mutates_args=())
def normalised_values(
    mean: list[float], std: list[float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return `dtype` [C, 256], what each byte becomes, as a tensor of the caller's own."""
    return normalised_values_kept(mean, std, dtype, device).clone()


@normalised_values.register_fake
def _(mean: list[float], std: list[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(len(mean), BINS, dtype=dtype, device=device)


def normalised_values_kept(
    mean: list[float], std: list[float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return `dtype` [C, 256], what each byte of a channel becomes; not to be written to.

    Made by the operations that it stands for, so that it has their bits.
    """

    def make() -> Tensor:
        means, deviations = (
            torch.tensor(numbers, dtype=torch.float32, device="cpu").unsqueeze(1)
            for numbers in (mean, std)
        )
        levels = torch.arange(BINS, dtype=torch.uint8, device="cpu")
        return ((levels.float() / 255 - means) / deviations).to(dtype)

    return _keep((*mean, *std, dtype, device), make, device)


def _keep(key: tuple[object, ...], make: Callable[[], Tensor], device: torch.device) -> Tensor:
    table = _kept.get(key)
    if table is None:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        table = _kept[key] = make().to(device)
    return table
