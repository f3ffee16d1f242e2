"""Choosing the devices of a rank: GPUs, the CPU, or logical devices that stand in for GPUs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.strategies.base import Device, Layout


@dataclass(frozen=True)
class DeviceChoice:
    """The devices of one rank, the backend between ranks, and what a reader must be told."""

    devices: tuple[Device, ...]
    backend: str  # "nccl" or "gloo"
    taints: tuple[str, ...] = ()


def choose_devices(
    config: RunConfig, layout: Layout, *, local_rank: int, local_world_size: int, gpu_count: int
) -> DeviceChoice:
    """Return the devices of the rank that is ``local_rank`` of ``local_world_size`` on its host.

    Raises PerfkitError where ``--device cuda`` cannot be met.
    """
    needed = local_world_size * layout.devices_per_rank
    first = local_rank * layout.devices_per_rank
    if config.device == "cpu" or (config.device == "auto" and gpu_count == 0):
        return _on_cpu(config, layout, reason="--device cpu" if gpu_count else "no CUDA device")
    if gpu_count == 0:
        raise PerfkitError(
            "--device cuda: no CUDA device is visible to torch; use --device cpu, or check the "
            "driver and CUDA_VISIBLE_DEVICES"
        )
    if needed <= gpu_count:
        return DeviceChoice(_cuda(range(first, first + layout.devices_per_rank)), "nccl")
    if config.oversubscribe:
        shared = [index % gpu_count for index in range(first, first + layout.devices_per_rank)]
        if len(set(shared)) < len(shared):
            raise PerfkitError(
                f"--oversubscribe lets ranks share a GPU, but --strategy {config.strategy} needs "
                f"{layout.devices_per_rank} different GPUs in one rank and this host has "
                f"{gpu_count}; use --device cpu"
            )
        taint = f"oversubscribed: {needed} devices asked of {gpu_count} GPU(s)"
        return DeviceChoice(_cuda(shared), "gloo", (taint,))
    if config.device == "cuda":
        raise PerfkitError(
            f"--device cuda: {needed} GPUs are needed on this host and {gpu_count} visible; ask "
            "for fewer with --gpus, or let ranks share with --oversubscribe"
        )
    return _on_cpu(config, layout, reason=f"{gpu_count} GPU(s) for {needed} devices")


def _cuda(indices: range | list[int]) -> tuple[Device, ...]:
    return tuple(Device(torch.device("cuda", i), f"cuda:{i}") for i in indices)


def _on_cpu(config: RunConfig, layout: Layout, *, reason: str) -> DeviceChoice:
    cpu = torch.device("cpu")
    if layout.devices_per_rank > 1:
        devices = tuple(Device(cpu, f"stand-in:{i}") for i in range(layout.devices_per_rank))
    else:
        devices = (Device(cpu, "cpu"),)
    taints: tuple[str, ...] = ()
    # Without --gpus and without a GPU one process on the CPU is what was asked for.
    gpus_expected = config.gpus is not None or layout.devices > 1
    if layout.devices_per_rank > 1 or (gpus_expected and config.device != "cpu"):
        taints = (
            f"stand-in devices ({reason}): the CPU of this machine takes the place of "
            f"{layout.devices} GPU{'s' if layout.devices > 1 else ''}",
        )
    return DeviceChoice(devices, "gloo", taints)
