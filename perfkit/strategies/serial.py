"""One process on one device: what every other strategy is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfkit.core.config import RunConfig
from perfkit.strategies.base import Cut, Layout, Mesh
from perfkit.strategies.flags import require, require_no_placement

if TYPE_CHECKING:
    from torch import nn


def layout(config: RunConfig) -> Layout:
    """1 x 1."""
    require_no_placement(config)
    require(config, "gpus", config.gpus in {None, 1}, "1 device")
    require(config, "ranks", config.ranks in {None, 1}, "1 process")
    return Layout(ranks=1)


def ceiling(layout: Layout) -> float:
    """1: there is nothing beside it."""
    return float(layout.devices)


def parallelize(model: nn.Module, cut: Cut | None, mesh: Mesh, config: RunConfig) -> nn.Module:
    """Move the model to the device."""
    return model.to(mesh.first_device)
