"""A model whose stages lie on several devices, with explicit moves between them."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from perfkit.core.annotate import annotate
from perfkit.strategies.base import Device
from perfkit.strategies.placement import Placement

DEVICE_NAME = "_perfkit_device"  # attribute of tensors on a stand-in: torch sees only the CPU


class StagedModel(nn.Module):
    """Call ``stages`` in turn, stage i on ``devices[placement.devices[i]]``.

    ``transfers`` counts the crossings and sums their host time.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[nn.Module],
        devices: Sequence[Device],
        placement: Placement,
    ) -> None:
        super().__init__()
        self.model = model  # keeps the parameter names of the unsplit model
        self.placement = placement
        self.transfers = Transfers()
        # In a tuple, not a ModuleList: the parameters are already registered through ``model``.
        self.stages = tuple(stages)
        self._devices = tuple(devices[index] for index in placement.devices)
        for stage, device in zip(self.stages, self._devices, strict=True):
            place(stage, device)

    @property
    def output_device(self) -> torch.device:
        """The device of the last stage, where the loss is computed."""
        return self._devices[-1].torch_device

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's output on the device of the last stage."""
        here = self._devices[0]
        mark(x, here)
        for stage, device in zip(self.stages, self._devices, strict=True):
            if device != here:
                x = _Transfer.apply(x, here, device, self.transfers)
                here = device
            x = stage(x)
            mark(x, device)
        return x


class Moved(NamedTuple):
    """Crossings between devices in forward, and the host seconds they took in both directions.

    On a CPU the host time is the copy; on a GPU it is the launch, and the copy is in the trace.
    """

    crossings: int
    host_s: float


class Transfers:
    """Moves tensors between devices and counts."""

    def __init__(self) -> None:
        self._crossings = 0
        self._host_s = 0.0

    def take(self) -> Moved:
        """Return what moved since the last call."""
        moved = Moved(self._crossings, self._host_s)
        self._crossings, self._host_s = 0, 0.0
        return moved

    def count_crossing(self) -> None:
        """Count an activation that changes device on its way forward."""
        self._crossings += 1

    def move(self, tensor: Tensor, source: Device, target: Device) -> Tensor:
        """Return a copy of ``tensor`` on ``target``."""
        started = perf_counter()
        with annotate(f"transfer {source.name} to {target.name}"):
            # A stand-in shares the memory of its peers: without a real copy nothing would cross.
            moved = (
                tensor.clone()
                if target.is_stand_in
                else tensor.to(target.torch_device, non_blocking=True)
            )
        mark(moved, target)
        self._host_s += perf_counter() - started
        return moved


def place(module: nn.Module, device: Device) -> None:
    """Move a module to a device."""
    module.to(device.torch_device)
    for tensor in (*module.parameters(), *module.buffers()):
        mark(tensor, device)


def mark(tensor: Tensor, device: Device) -> None:
    """Note on a tensor which stand-in it lies on."""
    if device.is_stand_in:
        setattr(tensor, DEVICE_NAME, device.name)


def device_name(tensor: Tensor) -> str:
    """Return the device a tensor is on as it was seen there: "cuda:1", "cpu", "stand-in:0"."""
    return getattr(tensor, DEVICE_NAME, None) or str(tensor.device)


class _Transfer(torch.autograd.Function):
    """Copy an activation to the next device, and its gradient back."""

    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, source: Device, target: Device, transfers: Transfers
    ) -> Tensor:
        ctx.route = (target, source, transfers)
        transfers.count_crossing()
        return transfers.move(tensor, source, target)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        source, target, transfers = ctx.route
        return transfers.move(grads[0], source, target), None, None, None
