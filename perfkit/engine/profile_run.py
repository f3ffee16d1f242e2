"""One profiled run, as every rank goes through it: gate, warm-up, timed pass, traced pass."""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import psutil

from perfkit.core.config import ProfileConfig
from perfkit.core.host import available_cores
from perfkit.core.record import Block, Gate, Record, write_record
from perfkit.core.trace_summary import Traces
from perfkit.engine.cell import RankCell
from perfkit.engine.cell_process import CellProcess
from perfkit.engine.cells import Beside, CellLog, configs_beside, label_of, late_taints
from perfkit.engine.companion import Companion, alone, beside_place, run_gate
from perfkit.engine.group import barrier, gather
from perfkit.engine.resolve import steps_of_round
from perfkit.engine.start import Start, started
from perfkit.engine.traced_pass import traced_pass
from perfkit.launch.detect import Place
from perfkit.measure.environment import describe_environment
from perfkit.measure.host_load import HostLoadMeter


class Listener(Protocol):
    """Told how far a run is. Never called while something is timed."""

    def expect(self, parts: int) -> None:
        """Tell how many parts there are in all."""

    def start(self, what: str) -> None:
        """Tell which part begins now."""

    def say(self, notice: str) -> None:
        """Tell what the user must know before the results."""


def profile_rank(config: ProfileConfig, place: Place, listener: Listener) -> Path:
    """Go through one run as the rank that ``place`` says; return the run folder.

    Raises PerfkitError for what the user can mend. After every block rank 0 writes the Record,
    marked incomplete until the end, so that an interrupted run keeps what was measured.
    """
    with started(config, place) as start:
        Run(start).profile(listener)
        return start.folder


class Run:
    """One run as one rank goes through it; rank 0 also keeps its Record up to date."""

    def __init__(self, start: Start[ProfileConfig]) -> None:
        self.config = start.config
        self.place = start.place
        self.choice = start.choice
        self.mesh = start.mesh
        self.folder = start.folder
        self.cells: list[CellLog] = []
        self.gate: Gate | None = None
        self.traces: Traces | None = None
        self.taints = list(start.notices)
        self._companions: list[Companion] = []
        self._created_at = datetime.now(UTC).isoformat(timespec="seconds")

    def profile(self, listener: Listener) -> None:
        """Go through the run: first step, gate, warm-up, timed pass, traced pass."""
        for taint in self.taints:
            listener.say(taint)
        listener.start("loading, first step")
        cell = RankCell(self.config, self.mesh)
        self._environment = describe_environment(self.place.launcher)  # as the cell has set it
        with contextlib.closing(cell), contextlib.ExitStack() as processes:
            self.cells.append(self._strategy(cell))
            beside = self._configs_beside()
            exchanges = self.mesh.group is not None
            listener.expect(4 + len(beside) + self.config.rounds * (1 + len(beside) + exchanges))
            listener.start("correctness gate")
            if cell.needs_gate:
                self.gate = run_gate(cell, self.config, self.place, self.choice)
            for asked in beside:
                self._companions.append(self._companion(asked, processes))
                listener.start(f"first step of {asked.role} {self._companions[-1].log.label}")
                self._companions[-1].first_step()
                self.cells.append(self._companions[-1].log)
            if exchanges:
                self.cells.append(self._ablation(cell))
            listener.start("warm-up")
            self._warm_up(cell)
            self._timed_pass(listener)
            self.cells[0].memory = gather(cell.memory(), self.mesh)
            for companion in self._companions:
                companion.log.memory = companion.each(CellProcess.memory)
            processes.close()  # a traced step must have the machine to itself
            listener.start("traced pass")
            if self.config.trace_steps:
                self.traces = traced_pass(cell, self.mesh, self.folder, self.config.trace_steps)
        if self.mesh.rank == 0:
            self.taints += late_taints(self.cells)
            self._save(complete=True)

    def _strategy(self, cell: RankCell) -> CellLog:
        def turn(round_index: int, steps: int) -> list[Block]:
            return gather(cell.block(round_index, steps), self.mesh)

        label = label_of(self.config, alone(self.choice))
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

    def _configs_beside(self) -> list[Beside]:
        found, notices = configs_beside(
            self.config,
            cores=available_cores(),
            on_cuda=self.choice.devices[0].torch_device.type == "cuda",
            one_host=self.place.local_world_size == self.place.world_size,
        )
        self.taints += notices
        return found

    def _companion(self, asked: Beside, processes: contextlib.ExitStack) -> Companion:
        """Start serial training at rank 0, where it is alone, and a variant at every rank."""
        process = None
        if asked.role == "variant":
            process = CellProcess(
                asked.config,
                self.mesh.devices,
                place=beside_place(self.place, self.mesh),
                backend=self.choice.backend,
            )
        elif self.mesh.rank == 0:
            process = CellProcess(asked.config, [alone(self.choice)])
        if process is not None:
            processes.enter_context(process)
        return Companion(asked, alone(self.choice), self.choice.backend, process, self.mesh)

    def _warm_up(self, cell: RankCell) -> None:
        log = self.cells[0]
        settled = {}
        log.warmup_step_s, settled[log.label] = cell.warm_up(self.config.warmup)
        for companion in self._companions:
            for times, is_settled in companion.each(CellProcess.warm_up, self.config.warmup)[:1]:
                companion.log.warmup_step_s = times
                settled[companion.log.label] = is_settled
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
            new_parameters=first.new_parameters,
            gate=self.gate,
            cells=[log.as_cell() for log in self.cells],
            traces=self.traces,
            taints=self.taints,
        )
        write_record(record, self.folder)
