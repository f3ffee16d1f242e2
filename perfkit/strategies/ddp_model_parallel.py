"""Data parallel over groups of devices, model parallel inside each group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfkit.core.config import RunConfig
from perfkit.strategies import model_parallel
from perfkit.strategies.base import Cut, Layout, Mesh
from perfkit.strategies.ddp import data_parallel
from perfkit.strategies.flags import require

if TYPE_CHECKING:
    from torch import nn

DEVICES_PER_GROUP = 2  # unless --ranks says how many groups there are


def layout(config: RunConfig) -> Layout:
    """(G/S) x S: groups of S devices, one process each."""
    require(config, "ranks", config.ranks != 1, "at least 2 processes, one a group of devices")
    ranks = config.ranks or max((config.gpus or 0) // DEVICES_PER_GROUP, 2)
    gpus = config.gpus or ranks * DEVICES_PER_GROUP
    needs = f"the same number of devices, at least 2, in each of {ranks} groups"
    require(config, "gpus", gpus % ranks == 0 and gpus // ranks > 1, needs)
    return Layout(ranks=ranks, devices_per_rank=gpus // ranks)


def ceiling(layout: Layout) -> float:
    """The number of groups: inside a group one stage works at a time."""
    return float(layout.ranks)


def parallelize(model: nn.Module, cut: Cut | None, mesh: Mesh, config: RunConfig) -> nn.Module:
    """Place the stages of each group, then average gradients over the groups."""
    return data_parallel(model_parallel.parallelize(model, cut, mesh, config), mesh)
