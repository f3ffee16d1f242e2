"""Distributed data parallel: the model on every rank, the batch shared among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfkit.core.config import RunConfig
from perfkit.strategies.base import Cut, Layout, Mesh
from perfkit.strategies.flags import require, require_no_placement

if TYPE_CHECKING:
    from torch import nn


def layout(config: RunConfig) -> Layout:
    """G x 1; a device is a rank, so --gpus and --ranks say the same."""
    require_no_placement(config)
    ranks = config.gpus or config.ranks or 1
    require(config, "ranks", config.ranks in {None, ranks}, f"as many ranks as --gpus {ranks}")
    return Layout(ranks=ranks)


def ceiling(layout: Layout) -> float:
    """The number of ranks."""
    return float(layout.ranks)


def parallelize(model: nn.Module, cut: Cut | None, mesh: Mesh, config: RunConfig) -> nn.Module:
    """Move the model to the device and let DDP average its gradients over the ranks."""
    return data_parallel(model.to(mesh.first_device), mesh)


def data_parallel(model: nn.Module, mesh: Mesh) -> nn.Module:
    """Wrap a model that is already on its devices; unchanged where the world is one rank."""
    from torch.nn.parallel import DistributedDataParallel

    if mesh.group is None:
        return model
    # DDP takes the devices from the parameters; device_ids would move a model of several stages.
    return DistributedDataParallel(model, process_group=mesh.group, gradient_as_bucket_view=True)
