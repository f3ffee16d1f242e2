"""Processes beside the ranks: the correctness gate, and cells to measure the run beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from perfkit.core.config import RunConfig
from perfkit.core.record import Block, Gate
from perfkit.engine.cell import RankCell
from perfkit.engine.cell_process import CellProcess
from perfkit.engine.cells import Beside, CellLog, label_of
from perfkit.engine.group import gather, share
from perfkit.launch.detect import Place
from perfkit.launch.spawn import free_port
from perfkit.strategies.base import Device, Mesh
from perfkit.strategies.devices import DeviceChoice

P = ParamSpec("P")
T = TypeVar("T")


class Companion:
    """A cell that is measured beside the run, in a process at rank 0 or in one at every rank.

    ``process`` is None at a rank that has no part in it.
    """

    def __init__(
        self, asked: Beside, device: Device, backend: str, process: CellProcess | None, mesh: Mesh
    ) -> None:
        self._process = process
        self._mesh = mesh if asked.role == "variant" else None
        label = label_of(asked.config, device)
        self.log = CellLog(
            role=asked.role,
            label=f"{label}, {asked.difference}" if asked.difference else label,
            config=asked.config,
            backend=backend if asked.role == "variant" and mesh.group is not None else None,
            turn=self._turn,
            facts=[],
        )

    def first_step(self) -> None:
        """Train the first step of every process and note its facts."""
        self.log.facts = self.each(CellProcess.first_step)

    def each(
        self,
        method: Callable[Concatenate[CellProcess, P], T],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> list[T]:
        """Return what a method returns in every process, in rank order, at rank 0."""
        if self._process is None:
            return []
        answer = method(self._process, *arguments, **options)
        return [answer] if self._mesh is None else gather(answer, self._mesh)

    def _turn(self, round_index: int, steps: int) -> list[Block]:
        return self.each(CellProcess.block, round_index, steps)


def alone(choice: DeviceChoice) -> Device:
    """Return the first device of this rank, as a process that is alone on it has it."""
    device = choice.devices[0]
    return Device(device.torch_device, "cpu") if device.is_stand_in else device


def beside_place(place: Place, mesh: Mesh) -> Place:
    """Return the place of a process beside this rank, in a group of such processes."""
    port = share(free_port() if mesh.rank == 0 else None, mesh)
    return dataclasses.replace(place, master_port=port)


def run_gate(cell: RankCell, config: RunConfig, place: Place, choice: DeviceChoice) -> Gate:
    """Run the correctness gate in one process beside each rank."""
    beside = beside_place(place, cell.mesh)
    with CellProcess(config, cell.mesh.devices, place=beside, backend=choice.backend) as process:
        return process.gate(cell.placement)
