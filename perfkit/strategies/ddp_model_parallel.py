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
    gpus = config.gpus or 2 * DEVICES_PER_GROUP
    ranks = config.ranks or max(gpus // DEVICES_PER_GROUP, 1)
    needs = f"at least 2 groups of at least 2 devices ({ranks} ranks)"
    require(config, "gpus", ranks > 1 and gpus % ranks == 0 and gpus // ranks > 1, needs)
    return Layout(ranks=ranks, devices_per_rank=gpus // ranks)


def ceiling(layout: Layout) -> float:
    """The number of groups: inside a group one stage works at a time."""
    return float(layout.ranks)


def parallelize(model: nn.Module, cut: Cut | None, mesh: Mesh, config: RunConfig) -> nn.Module:
    """Place the stages of each group, then average gradients over the groups."""
    return data_parallel(model_parallel.parallelize(model, cut, mesh, config), mesh)
