"""The ranks as a group: joining it, and small messages to rank 0."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from perfkit.launch.detect import Place
from perfkit.strategies.base import Device, Mesh

T = TypeVar("T")

# Ranks wait for each other while a baseline is measured, so this is no sign of a dead rank: the
# parent watches for that.
TIMEOUT = timedelta(hours=2)


@contextmanager
def joined(place: Place, devices: tuple[Device, ...], backend: str) -> Iterator[Mesh]:
    """Join the other ranks for the duration of the block; a world of one needs no group."""
    if place.world_size == 1:
        yield Mesh(rank=0, world_size=1, devices=devices)
        return
    # Launchers other than torchrun do not set these, and torchrun's agent serves the store that
    # env:// joins.
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world_size),
        MASTER_ADDR=place.master_addr,
        MASTER_PORT=str(place.master_port),
    )
    device = devices[0].torch_device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Bound to a device, NCCL connects at once, but then refuses tensors of any other device.
    bound = backend == "nccl" and len(devices) == 1
    dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if bound else None)
    try:
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        assert not isinstance(control, int)  # only a rank outside the group gets a number
        yield Mesh(
            rank=place.rank,
            world_size=place.world_size,
            devices=devices,
            group=dist.group.WORLD,
            control=control,
        )
    finally:
        dist.destroy_process_group()


def gather(value: T, mesh: Mesh) -> list[T]:
    """Return every rank's value in rank order at rank 0, and nothing at the others."""
    if mesh.control is None:
        return [value]
    gathered: list[T | None] | None = [None] * mesh.world_size if mesh.rank == 0 else None
    dist.gather_object(value, gathered, dst=0, group=mesh.control)
    return [entry for entry in gathered or [] if entry is not None]


def share(value: T | None, mesh: Mesh) -> T:
    """Return rank 0's value on every rank."""
    if mesh.control is not None:
        values = [value]
        dist.broadcast_object_list(values, src=0, group=mesh.control)
        (value,) = values
    if value is None:
        raise ValueError("rank 0 has nothing to share")
    return value


def barrier(mesh: Mesh) -> None:
    """Wait until every rank is here."""
    if mesh.control is not None:
        dist.barrier(group=mesh.control)
