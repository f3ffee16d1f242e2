"""One cell in this process: one rank of one configuration, from its set-up to its last step."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Block, DataFacts, Gate, Memory, StageObservation
from perfkit.core.stats import is_stable
from perfkit.engine.gate import equality_gate
from perfkit.engine.group import barrier, share
from perfkit.engine.resolve import batch_sizes
from perfkit.engine.training import PREFETCH_FACTOR, Training, endless_batches, staged_part
from perfkit.measure.host_load import tree_cpu_s
from perfkit.measure.memory import highest, read_peak, reset_peak
from perfkit.measure.recorder import PHASES, StepRecorder
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Cut, Mesh
from perfkit.strategies.observe import (
    StageObserver,
    check_stages_apart,
    range_names,
    stage_ranges,
)
from perfkit.strategies.placement import Placement
from perfkit.trace.capture import WARMUP_STEPS, capture
from perfkit.workloads.base import load_workload, stages_of

WARMUP_WINDOW = 3  # steps
WARMUP_BOUND = 0.10  # relative IQR of the window


@dataclass
class RankFacts:
    """What is true of one rank for the whole run."""

    rank: int
    devices: list[str]
    threads: int
    parameters: int
    data: DataFacts
    time_to_first_step_s: float = 0.0
    observed: list[StageObservation] = field(default_factory=list)
    placement: list[int] = field(default_factory=list)
    stage_cost_s: list[float] = field(default_factory=list)
    crossings: int | None = None


class RankCell:
    """The training of one rank, run in pieces that somebody else puts in order.

    ``config`` is resolved. The pieces: ``first_step``, ``gate``, ``warm_up``, then ``block`` in
    every round and ``trace`` at the end. Every rank of a cell must call the same ones.
    """

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        self.mesh = mesh
        self._config = config
        self._strategy = STRATEGIES[config.strategy]
        self._cuda = [d.torch_device for d in mesh.devices if d.torch_device.type == "cuda"]
        self._memory: Memory | None = None
        self._placement: Placement | None = None
        self._threads = config.threads or 1
        torch.set_num_threads(self._threads)
        self._workload = load_workload(config.workload)(config)
        self._seed(0)  # the same weights on every rank
        model = self._workload.model()
        batch = batch_sizes(config, mesh.world_size)
        dataset = self._workload.dataset("train")
        samples = len(dataset)  # type: ignore[arg-type]
        if samples < batch.whole:
            raise PerfkitError(
                f"the training set has {samples} samples, fewer than one global batch of "
                f"{batch.whole}; use a smaller batch or more data"
            )
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise PerfkitError(
                f"--workload {config.workload}: its model has no parameters to train"
            )
        batches = endless_batches(self._workload, config, mesh, batch.whole)
        parallel = self._parallelize(model, mesh).train()
        steps_per_epoch = max(samples // batch.whole, 1)
        self._training = Training(
            self._workload, parallel, batches, mesh, steps_per_epoch=steps_per_epoch
        )
        self._stages = watchable_stages(parallel, model, stages_of(self._workload, model))
        self._seed(mesh.rank)  # dropout must differ from rank to rank
        self.facts = RankFacts(
            rank=mesh.rank,
            devices=[device.name for device in mesh.devices],
            threads=self._threads,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            data=_data_facts(dataset, samples),
        )

    def first_step(self) -> RankFacts:
        """Train one step under the eyes of hooks; PerfkitError if the stages are not apart."""
        observer = StageObserver(self._stages, self.mesh.rank)
        recorder = StepRecorder(self._cuda)
        with observer.watching():
            self._training.run(1, recorder)
        recorder.samples()  # waits for the devices
        started = psutil.Process().create_time()
        self.facts.time_to_first_step_s = time.time() - started
        self.facts.observed = observer.report()
        if self._placement is not None:
            self.facts.placement = list(self._placement.devices)
            self.facts.stage_cost_s = list(self._placement.stage_cost_s)
        if self._training.moved is not None:
            self.facts.crossings = self._training.moved.crossings
            check_stages_apart(self.facts.observed, len(self.mesh.devices))
        return self.facts

    def gate(self, placement: Placement | None) -> Gate:
        """Hold the strategy against serial training; PerfkitError if they differ.

        ``placement`` is that of the cell that is timed, so that the same split is tested. Do not
        time this cell afterwards: see ``perfkit.engine.cell_process``.
        """
        self._placement = placement
        return equality_gate(self._workload, self._parallelize, self.mesh, self._config)

    def warm_up(self) -> tuple[list[float], bool]:
        """Train until rank 0's step time is stable or the cap is reached.

        Returns rank 0's step times (s) and whether they settled.
        """
        times: list[float] = []
        while True:
            for _ in range(WARMUP_WINDOW):
                recorder = StepRecorder(self._cuda)
                started = time.perf_counter()
                self._training.run(1, recorder)
                recorder.samples()  # a GPU's host time is the launch
                times.append(time.perf_counter() - started)
            stable = is_stable(times, window=WARMUP_WINDOW, bound=WARMUP_BOUND)
            stable, times = share((stable, times), self.mesh)
            if stable or len(times) + WARMUP_WINDOW > self._config.warmup:
                return times, stable

    def block(self, round_index: int, steps: int, *, communicate: bool = True) -> Block:
        """Time ``steps`` steps without profiler: one barrier before them, one wait after."""
        cpu_s = tree_cpu_s()
        self._settle(communicate)
        recorder = StepRecorder(self._cuda)
        reset_peak(self._cuda)
        barrier(self.mesh)
        started = time.perf_counter()
        self._training.run(steps, recorder, communicate=communicate)
        samples = recorder.samples()
        wall_s = time.perf_counter() - started
        if communicate:
            self._memory = highest(self._memory, read_peak(self._cuda))
        else:
            self._training.reunite()
        return Block(
            round=round_index,
            rank=self.mesh.rank,
            wall_s=wall_s,
            turn_cpu_s=tree_cpu_s() - cpu_s,
            steps=samples,
        )

    def memory(self) -> Memory:
        """Return the peaks over all timed blocks so far."""
        return self._memory or read_peak(self._cuda)

    def trace(self, path: Path, steps: int) -> list[float]:
        """Write a trace of ``steps`` steps and return their times (s) under the profiler."""
        recorder = StepRecorder(self._cuda)
        barrier(self.mesh)
        with (
            stage_ranges(self._stages),
            capture(path, steps=steps, cuda=bool(self._cuda)) as profiler,
        ):
            for _ in range(WARMUP_STEPS + steps):
                self._training.run(1, recorder)
                recorder.samples()  # or the last kernels would come after the profiler stopped
                profiler.step()
        return [sample.host_s for sample in recorder.samples()[WARMUP_STEPS:]]

    def close(self) -> None:
        """Stop the loader workers."""
        self._training.close()

    @property
    def placement(self) -> Placement | None:
        """Where the stages lie; None where the strategy does not place stages."""
        return self._placement

    @property
    def range_names(self) -> list[str]:
        """The ranges that a trace of this cell has, without their prefix."""
        return [*PHASES, *range_names(self._stages)]

    def _parallelize(self, model: nn.Module, mesh: Mesh) -> nn.Module:
        stages = stages_of(self._workload, model)
        cut = None
        if stages is not None:
            cut = Cut(stages, self._sample(model), self._placement)
        parallel = self._strategy.parallelize(model, cut, mesh, self._config)
        staged = staged_part(parallel)
        if staged is not None:
            self._placement = staged.placement  # the gate tests what is timed
        return parallel

    def _sample(self, model: nn.Module) -> torch.Tensor:
        dataset = self._workload.dataset("train")
        inputs, _ = self._workload.collate([dataset[0], dataset[1]], None)
        return inputs.to(next(model.parameters()).dtype)

    def _settle(self, communicate: bool) -> None:
        """Train past what the other cell's turn left behind: cold caches, full loader queues.

        Workers go on filling their queues after a turn. Without the extra steps a block would
        start on batches that cost it nothing.
        """
        lead_in = 1 + self._config.workers * PREFETCH_FACTOR
        recorder = StepRecorder(self._cuda)
        self._training.run(lead_in, recorder, communicate=communicate)
        recorder.samples()  # what still runs on a GPU would be timed with the block

    def _seed(self, offset: int) -> None:
        seed = self._config.seed + offset
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def watchable_stages(
    parallel: nn.Module, model: nn.Module, stages: list[nn.Module] | None
) -> list[nn.Module]:
    """Return the modules whose hooks tell of the stages.

    A stage that only wraps parts of the model is called by model parallel, but not by the model
    itself: there the whole model is the only stage to be seen.
    """
    staged = staged_part(parallel)
    if staged is not None:
        return list(staged.stages)
    known = {id(module) for module in model.modules()}
    if stages is not None and all(id(stage) in known for stage in stages):
        return stages
    return [model]


def _data_facts(dataset: object, samples: int) -> DataFacts:
    labels = getattr(dataset, "labels", None)
    source = getattr(dataset, "source", None)
    return DataFacts(
        name=getattr(source, "name", type(dataset).__name__),
        train_samples=len(source) if source is not None else samples,
        samples_per_epoch=samples,
        class_counts=torch.bincount(labels).tolist() if labels is not None else [],
        skipped=list(getattr(source, "skipped", ())),
    )
