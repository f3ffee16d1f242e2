"""One profiled run, as every rank goes through it: gate, warm-up, timed pass, traced pass."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import psutil
import torch

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.host import available_cores
from perfkit.core.record import Block, Gate, Record, Traces, write_record
from perfkit.engine.cell import RankCell
from perfkit.engine.cell_process import CellProcess
from perfkit.engine.cells import CellLog, baseline_configs, label_of, late_taints
from perfkit.engine.folder import run_folder
from perfkit.engine.group import barrier, gather, joined, share
from perfkit.engine.resolve import batch_sizes, resolve, steps_of_round
from perfkit.engine.traced_pass import traced_pass
from perfkit.launch.child import report_errors
from perfkit.launch.detect import Place
from perfkit.launch.spawn import free_port
from perfkit.measure.environment import describe_environment
from perfkit.measure.host_load import HostLoadMeter
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Device, Mesh
from perfkit.strategies.devices import DeviceChoice, choose_devices


class Listener(Protocol):
    """Told how far a run is. Never called while something is timed."""

    def expect(self, parts: int) -> None:
        """Tell how many parts there are in all."""

    def start(self, what: str) -> None:
        """Tell which part begins now."""

    def say(self, notice: str) -> None:
        """Tell what the user must know before the results."""


def profile_rank(config: RunConfig, place: Place, listener: Listener) -> Path | None:
    """Go through one run as the rank that ``place`` says; return the run folder at rank 0.

    Raises PerfkitError for what the user can mend. After every block rank 0 writes the Record,
    marked incomplete until the end, so that an interrupted run keeps what was measured.
    """
    layout = STRATEGIES[config.strategy].layout(config)
    if place.world_size != layout.ranks:
        raise PerfkitError(
            f"--strategy {config.strategy} --gpus {layout.devices} needs {layout.ranks} "
            f"process(es) and {place.launcher} started {place.world_size}; make them agree"
        )
    choice = choose_devices(
        config,
        layout,
        local_rank=place.local_rank,
        local_world_size=place.local_world_size,
        gpu_count=torch.cuda.device_count(),
    )
    config = resolve(
        config,
        layout,
        on_cuda=choice.devices[0].torch_device.type == "cuda",
        cores=available_cores(),
        local_world_size=place.local_world_size,
    )
    batch_sizes(config, layout.ranks)
    with (
        run_folder(config, place.rank) as own_folder,
        joined(place, choice.devices, choice.backend) as mesh,
        # Inside the group: the peers of a failed rank fail as soon as its group is gone.
        report_errors(),
    ):
        folder = share(own_folder, mesh)
        Run(config, place, choice, mesh, folder).profile(listener)
    return own_folder


class Run:
    """One run as one rank goes through it; rank 0 also keeps its Record up to date."""

    def __init__(
        self, config: RunConfig, place: Place, choice: DeviceChoice, mesh: Mesh, folder: Path
    ) -> None:
        self.config = config
        self.place = place
        self.choice = choice
        self.mesh = mesh
        self.folder = folder
        self.cells: list[CellLog] = []
        self.gate: Gate | None = None
        self.traces: Traces | None = None
        self.taints: list[str] = []
        self._baselines: list[CellProcess] = []
        self._environment = describe_environment(place.launcher)
        self._created_at = datetime.now(UTC).isoformat(timespec="seconds")

    def profile(self, listener: Listener) -> None:
        """Go through the run: first step, gate, warm-up, timed pass, traced pass."""
        for taint in self.choice.taints:
            self.taints.append(taint)
            listener.say(taint)
        listener.start("loading, first step")
        cell = RankCell(self.config, self.mesh)
        with contextlib.closing(cell), contextlib.ExitStack() as processes:
            self.cells.append(self._strategy(cell))
            configs = self._baseline_configs()
            exchanges = self.mesh.group is not None
            listener.expect(4 + len(configs) + self.config.rounds * (1 + len(configs) + exchanges))
            listener.start("correctness gate")
            if self.config.strategy != "serial":
                self.gate = self._gate(cell)
            for config in configs:
                listener.start(f"first step of baseline {label_of(config, self._first_device())}")
                self.cells.append(self._baseline(config, processes))
            if exchanges:
                self.cells.append(self._ablation(cell))
            listener.start("warm-up")
            self._warm_up(cell)
            self._timed_pass(listener)
            self.cells[0].memory = gather(cell.memory(), self.mesh)
            for log, process in self._logs_of_baselines():
                log.memory = [process.memory()]
            processes.close()  # a traced step must have the machine to itself
            listener.start("traced pass")
            if self.config.trace_steps:
                self.traces = traced_pass(cell, self.mesh, self.folder, self.config.trace_steps)
        if self.mesh.rank == 0:
            self.taints += late_taints(self.cells)
            self._save(complete=True)

    def _first_device(self) -> Device:
        """The first device of this rank, as a baseline that is alone on it has it."""
        device = self.choice.devices[0]
        return Device(device.torch_device, "cpu") if device.is_stand_in else device

    def _strategy(self, cell: RankCell) -> CellLog:
        def turn(round_index: int, steps: int) -> list[Block]:
            return gather(cell.block(round_index, steps), self.mesh)

        label = label_of(self.config, self._first_device())
        backend = self.choice.backend if self.mesh.group is not None else None
        facts = gather(cell.first_step(), self.mesh)
        return CellLog("strategy", label, self.config, backend, turn, facts)

    def _ablation(self, cell: RankCell) -> CellLog:
        """The same ranks without exchanging gradients: what is missing then is communication."""

        def turn(round_index: int, steps: int) -> list[Block]:
            return gather(cell.block(round_index, steps, communicate=False), self.mesh)

        log = self.cells[0]
        label = f"{log.label}, no communication"
        return CellLog("ablation", label, log.config, log.backend, turn, log.facts)

    def _gate(self, cell: RankCell) -> Gate:
        """Run the gate in one process beside each rank."""
        port = share(free_port() if self.mesh.rank == 0 else None, self.mesh)
        place = dataclasses.replace(self.place, master_port=port)
        with CellProcess(
            self.config, self.mesh.devices, place=place, backend=self.choice.backend
        ) as process:
            return process.gate(cell.placement)

    def _baseline_configs(self) -> list[RunConfig]:
        configs, notices = baseline_configs(
            self.config,
            cores=available_cores(),
            on_cuda=self.choice.devices[0].torch_device.type == "cuda",
            one_host=self.place.local_world_size == self.place.world_size,
        )
        self.taints += notices
        return configs

    def _baseline(self, config: RunConfig, processes: contextlib.ExitStack) -> CellLog:
        """Start a baseline at rank 0; elsewhere its turns are nothing but waiting."""
        label = label_of(config, self._first_device())
        if self.mesh.rank != 0:
            return CellLog("baseline", label, config, None, lambda *_: [], [])
        process = processes.enter_context(CellProcess(config, [self._first_device()]))
        self._baselines.append(process)

        def turn(round_index: int, steps: int) -> list[Block]:
            return [process.block(round_index, steps)]

        return CellLog("baseline", label, config, None, turn, [process.first_step()])

    def _warm_up(self, cell: RankCell) -> None:
        log = self.cells[0]
        settled = {}
        log.warmup_step_s, settled[log.label] = cell.warm_up()
        for log, process in self._logs_of_baselines():
            log.warmup_step_s, settled[log.label] = process.warm_up()
        self.taints += [
            f"warm-up of {label} did not settle within {self.config.warmup} steps"
            for label, is_settled in settled.items()
            if not is_settled
        ]

    def _timed_pass(self, listener: Listener) -> None:
        """Give every cell one block in every round, in an order drawn from the seed."""
        rounds, steps = self.config.rounds, self.config.steps or 0
        for index in range(rounds):
            order = list(self.cells)
            random.Random(f"{self.config.seed}/{index}").shuffle(order)
            for log in order:
                listener.start(f"timed pass, round {index + 1} of {rounds}: {log.label}")
                barrier(self.mesh)
                meter = HostLoadMeter()
                blocks = log.turn(index, steps_of_round(steps, rounds, index))
                if self.mesh.rank != 0:
                    continue
                own = sum(block.turn_cpu_s for block in blocks[: self.place.local_world_size])
                log.load.append(meter.stop(index, own_cpu_s=own, cpus=psutil.cpu_count() or 1))
                log.blocks += blocks
                self._save(complete=False)

    def _logs_of_baselines(self) -> list[tuple[CellLog, CellProcess]]:
        logs = [log for log in self.cells if log.role == "baseline"]
        return list(zip(logs, self._baselines, strict=False))  # only rank 0 has the processes

    def _save(self, *, complete: bool) -> None:
        first = self.cells[0].facts[0]
        record = Record(
            name=self.folder.name,
            created_at=self._created_at,
            status="complete" if complete else "incomplete",
            kind="quick look",
            scaling=self.config.scaling,
            config=self.config,
            environment=self._environment,
            data=first.data,
            parameters=first.parameters,
            gate=self.gate,
            cells=[log.as_cell() for log in self.cells],
            traces=self.traces,
            taints=self.taints,
        )
        write_record(record, self.folder)
