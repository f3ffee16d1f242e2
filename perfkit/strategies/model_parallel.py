"""Naive model parallel: the stages on several devices, one of them working at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.strategies.base import Cut, Layout, Mesh
from perfkit.strategies.flags import require

if TYPE_CHECKING:
    from torch import nn


def layout(config: RunConfig) -> Layout:
    """1 x S: one process that holds all the stages."""
    gpus = config.gpus or 2
    require(config, "ranks", config.ranks in {None, 1}, "1 process")
    require(config, "gpus", gpus > 1, "at least 2 devices")
    return Layout(ranks=1, devices_per_rank=gpus)


def ceiling(layout: Layout) -> float:
    """1: without micro-batches only one stage works at a time."""
    return 1.0


def parallelize(model: nn.Module, cut: Cut | None, mesh: Mesh, config: RunConfig) -> nn.Module:
    """Place the stages on the devices and move activations where they cross."""
    from perfkit.strategies.placement import choose_placement
    from perfkit.strategies.staged import StagedModel

    if cut is None:
        raise PerfkitError(
            f"--strategy {config.strategy}: workload {config.workload!r} does not say how to cut "
            "its model; give it stages(model) -> list of modules, or use an nn.Sequential"
        )
    if len(mesh.devices) > len(cut.stages):
        raise PerfkitError(
            f"--strategy {config.strategy}: {len(mesh.devices)} devices a rank for a model of "
            f"{len(cut.stages)} stages; ask for at most {len(cut.stages)} devices a rank"
        )
    placement = cut.placement or choose_placement(cut, mesh, config)
    return StagedModel(model, cut.stages, mesh.devices, placement)
