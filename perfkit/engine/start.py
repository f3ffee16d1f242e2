"""The start of a run in one rank: its devices, its config with nothing left open, its group."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch

from perfkit.core.config import ProfileConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.host import available_cores
from perfkit.engine.folder import run_folder
from perfkit.engine.group import joined, share
from perfkit.engine.resolve import Config, batch_sizes, resolve
from perfkit.launch.child import report_errors
from perfkit.launch.detect import Place
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Layout, Mesh
from perfkit.strategies.devices import DeviceChoice, choose_devices
from perfkit.strategies.precision import cpu_flags, expected_slower, why_not
from perfkit.trace.nsight import under_nsys

OpenFolder = Callable[[Config, int], AbstractContextManager[Path | None]]


@dataclass(frozen=True)
class Start(Generic[Config]):
    """What is settled before a rank builds its model."""

    config: Config
    place: Place
    choice: DeviceChoice
    mesh: Mesh
    folder: Path
    notices: tuple[str, ...]


@contextmanager
def started(
    config: Config, place: Place, open_folder: OpenFolder[Config] = run_folder
) -> Iterator[Start[Config]]:
    """Settle devices, batch and folder, and join the other ranks for the duration of the block.

    ``open_folder`` yields the run folder at rank 0. Raises PerfkitError for what the user can mend.
    """
    layout = STRATEGIES[config.strategy].layout(config)
    if place.world_size != layout.ranks:
        raise PerfkitError(
            f"--strategy {config.strategy} --gpus {layout.devices} needs {layout.ranks} "
            f"process(es) and {place.launcher} started {place.world_size}; make them agree"
        )
    config, choice, precision_notices = settled(
        config, layout, local_rank=place.local_rank, local_world_size=place.local_world_size
    )
    notices = (
        *choice.taints,
        *precision_notices,
        *_worker_notices(config, place),
        *nsys_notices(),
    )
    with (
        open_folder(config, place.rank) as own_folder,
        joined(place, choice.devices, choice.backend) as mesh,
        # Inside the group: the peers of a failed rank fail as soon as its group is gone.
        report_errors(),
    ):
        yield Start(config, place, choice, mesh, share(own_folder, mesh), notices)


def settled(
    config: Config, layout: Layout, *, local_rank: int, local_world_size: int
) -> tuple[Config, DeviceChoice, list[str]]:
    """Return the config with nothing left open, the devices of a rank of it, and notices.

    Raises PerfkitError for what this machine cannot run.
    """
    choice = choose_devices(
        config,
        layout,
        local_rank=local_rank,
        local_world_size=local_world_size,
        gpu_count=torch.cuda.device_count(),
    )
    notices = _precision_notices(config, choice)
    config = resolve(
        config,
        layout,
        on_cuda=choice.devices[0].torch_device.type == "cuda",
        cores=available_cores(),
        local_world_size=local_world_size,
    )
    batch_sizes(config, layout.ranks)
    return config, choice, notices


def _worker_notices(config: Config, place: Place) -> list[str]:
    workers, cores = config.workers * place.local_world_size, available_cores()
    if workers <= cores:
        return []
    return [f"{workers} loader workers share the {cores} cores of this host with the training"]


def nsys_notices() -> list[str]:
    """Return what to say of a run that Nsight Systems watches."""
    if not under_nsys(os.environ):
        return []
    return [
        "Nsight Systems watches this run and may slow its steps: take numbers from one without it"
    ]


def _precision_notices(config: Config, choice: DeviceChoice) -> list[str]:
    device = choice.devices[0].torch_device
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    asked = {config.precision}
    if isinstance(config, ProfileConfig):
        asked |= {changed.precision for changed in config.variants().values()}
    notices = []
    for precision in sorted(asked):
        reason = why_not(precision, device.type, capability)
        if reason is not None:
            raise PerfkitError(f"--precision {precision}: {reason}")
        notices.append(expected_slower(precision, device.type, cpu_flags(), capability))
    return [notice for notice in notices if notice is not None]
