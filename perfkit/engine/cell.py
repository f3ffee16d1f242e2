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
from perfkit.data.images import Photographs
from perfkit.engine.checkpoint import Checkpoint, load_model, random_state, set_random_state
from perfkit.engine.forward_observer import (
    ForwardObserver,
    check_products,
    check_squeeze_excites,
)
from perfkit.engine.gate import equality_gate
from perfkit.engine.group import barrier, gather, share
from perfkit.engine.loading import PREFETCH_FACTOR, endless_batches, fixed_batch
from perfkit.engine.offline import have_stored
from perfkit.engine.precision import (
    Autocast,
    set_deterministic,
    set_float32_precision,
    tf32_in_use,
)
from perfkit.engine.resolve import batch_sizes
from perfkit.engine.training import PREPROCESS, Training, staged_part, unwrapped
from perfkit.measure.energy import EnergyMeter
from perfkit.measure.host_load import tree_cpu_s
from perfkit.measure.memory import highest, read_peak, reset_peak
from perfkit.measure.recorder import PHASES, StepRecorder
from perfkit.ops import SqueezeExcite
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
from perfkit.workloads.base import load_workload, prepare_of, stages_of

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
    product_dtypes: dict[str, int] = field(default_factory=dict)
    squeeze_excites: dict[str, int] = field(default_factory=dict)
    tf32: bool | None = None
    implementation: str = ""
    stored_s: float | None = None
    new_parameters: list[str] = field(default_factory=list)
    has_squeeze_excite: bool = False


class RankCell:
    """The training of one rank, run in pieces that somebody else puts in order.

    ``config`` is resolved. The pieces: ``first_step``, ``gate``, ``warm_up``, then ``block`` in
    every round and ``trace`` at the end. Every rank of a cell must call the same ones. With a
    ``checkpoint`` the training goes on where that was saved.
    """

    def __init__(self, config: RunConfig, mesh: Mesh, checkpoint: Checkpoint | None = None) -> None:
        self.mesh = mesh
        self._config = config
        self._strategy = STRATEGIES[config.strategy]
        self.cuda = [d.torch_device for d in mesh.devices if d.torch_device.type == "cuda"]
        self._memory: Memory | None = None
        self.energy = EnergyMeter(self.cuda)
        self._placement: Placement | None = None
        self._threads = config.threads or 1
        torch.set_num_threads(self._threads)
        set_float32_precision(config.precision)
        if config.deterministic:
            set_deterministic()
        self.workload = load_workload(config.workload)(config)
        self._seed(0)  # the same weights on every rank
        model = self.workload.model()
        if checkpoint is not None:
            load_model(model, checkpoint)
        batch = batch_sizes(config, mesh.world_size)
        dataset = self.workload.dataset("train")
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
        stored_s = have_stored(self.workload, "train", config, mesh)
        start = checkpoint.steps if checkpoint is not None else 0
        batches = endless_batches(self.workload, config, mesh, batch.whole, start=start)
        with Autocast(config.precision, mesh.first_device).forward():  # stages are weighed in it
            parallel = self._parallelize(model, mesh).train()
        self.steps_per_epoch = max(samples // batch.whole, 1)
        self.training = Training(
            self.workload,
            parallel,
            batches,
            mesh,
            steps_per_epoch=self.steps_per_epoch,
            precision=config.precision,
            prepare=prepare_of(self.workload, config),
        )
        self._stages = watchable_stages(parallel, model, stages_of(self.workload, model))
        self._seed(mesh.rank)  # dropout must differ from rank to rank
        if checkpoint is not None:
            self.training.load_state(checkpoint.training)
            set_random_state(checkpoint.random[mesh.rank], self.cuda)
        self.facts = RankFacts(
            rank=mesh.rank,
            devices=[device.name for device in mesh.devices],
            threads=self._threads,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            data=_data_facts(self.workload, dataset, samples),
            new_parameters=list(getattr(self.workload, "new_parameters", [])),
            has_squeeze_excite=any(isinstance(m, SqueezeExcite) for m in model.modules()),
            tf32=tf32_in_use(self.cuda),
            stored_s=stored_s,
        )

    def first_step(self, recorder: StepRecorder | None = None) -> RankFacts:
        """Train one step under the eyes of hooks, timed by ``recorder`` if there is one.

        Raises PerfkitError if stages share a device, mixed precision multiplies nothing in it, or
        no SE block is run by what --ops names.
        """
        observer = StageObserver(self._stages, self.mesh.rank)
        forward = ForwardObserver()
        recorder = recorder or self.recorder()
        with observer.watching(), forward.watching(self.training.model):
            self.training.run(1, recorder)
        recorder.samples()  # waits for the devices
        started = psutil.Process().create_time()
        self.facts.time_to_first_step_s = time.time() - started
        self.facts.observed = observer.report()
        self.facts.product_dtypes = dict(forward.products)
        self.facts.squeeze_excites = dict(forward.squeeze_excites)
        self.facts.implementation = self.training.implementation
        check_products(self._config.precision, forward.products)
        check_squeeze_excites(self._config.ops, forward.squeeze_excites)
        if self._placement is not None:
            self.facts.placement = list(self._placement.devices)
            self.facts.stage_cost_s = list(self._placement.stage_cost_s)
        if self.training.moved is not None:
            self.facts.crossings = self.training.moved.crossings
            check_stages_apart(self.facts.observed, len(self.mesh.devices))
        return self.facts

    @property
    def needs_gate(self) -> bool:
        """Whether in float64 this is anything but serial training in plain torch."""
        # On CUDA float64 is for the reference, whatever is asked for.
        fused = self._config.ops == "fused" and not self.cuda
        return self._config.strategy != "serial" or (fused and self.facts.has_squeeze_excite)

    def gate(self, placement: Placement | None) -> Gate:
        """Hold the strategy against serial training; PerfkitError if they differ.

        ``placement`` is that of the cell that is timed, so that the same split is tested. Do not
        time this cell afterwards: see ``perfkit.engine.cell_process``.
        """
        self._placement = placement
        return equality_gate(self.workload, self._parallelize, self.mesh, self._config)

    def warm_up(self, most: int) -> tuple[list[float], bool]:
        """Train until rank 0's step time is stable, or for ``most`` steps.

        Returns rank 0's step times (s) and whether they settled.
        """
        times: list[float] = []
        while True:
            for _ in range(WARMUP_WINDOW):
                recorder = self.recorder()
                started = time.perf_counter()
                self.training.run(1, recorder)
                recorder.samples()  # a GPU's host time is the launch
                times.append(time.perf_counter() - started)
            stable = is_stable(times, window=WARMUP_WINDOW, bound=WARMUP_BOUND)
            stable, times = share((stable, times), self.mesh)
            if stable or len(times) + WARMUP_WINDOW > most:
                return times, stable

    def block(self, round_index: int, steps: int, *, communicate: bool = True) -> Block:
        """Time ``steps`` steps without profiler: one barrier before them, one wait after."""
        cpu_s = tree_cpu_s()
        self._settle(communicate)
        recorder = self.recorder()
        reset_peak(self.cuda)
        barrier(self.mesh)
        self.energy.start()
        started = time.perf_counter()
        self.training.run(steps, recorder, communicate=communicate)
        samples = recorder.samples()
        wall_s = time.perf_counter() - started
        energy_j = self.energy.joules()
        if communicate:
            self._memory = highest(self._memory, read_peak(self.cuda))
        else:
            self.training.reunite()
        return Block(
            round=round_index,
            rank=self.mesh.rank,
            wall_s=wall_s,
            turn_cpu_s=tree_cpu_s() - cpu_s,
            energy_j=energy_j,
            steps=samples,
        )

    def memory(self) -> Memory:
        """Return the peaks over all timed blocks so far."""
        return self._memory or read_peak(self.cuda)

    def trace(self, path: Path, steps: int) -> list[float]:
        """Write a trace of ``steps`` steps and return their times (s) under the profiler."""
        recorder = self.recorder()
        barrier(self.mesh)
        with (
            stage_ranges(self._stages),
            capture(path, steps=steps, cuda=bool(self.cuda)) as profiler,
        ):
            for _ in range(WARMUP_STEPS + steps):
                self.training.run(1, recorder)
                recorder.samples()  # or the last kernels would come after the profiler stopped
                profiler.step()
        return [sample.host_s for sample in recorder.samples()[WARMUP_STEPS:]]

    def recorder(self) -> StepRecorder:
        """Return a recorder for the devices of this rank."""
        return StepRecorder(self.cuda)

    def checkpoint(self, epoch: int, steps: int) -> Checkpoint | None:
        """Return the training as it is now, at rank 0; every rank must call this."""
        states = gather(random_state(self.cuda), self.mesh)
        if self.mesh.rank != 0:
            return None
        normalisation = getattr(self.workload, "normalisation", None)
        return Checkpoint(
            workload=self._config.workload,
            epoch=epoch,
            steps=steps,
            ranks=self.mesh.world_size,
            global_batch=batch_sizes(self._config, self.mesh.world_size).whole,
            model=unwrapped(self.training.model).state_dict(),
            training=self.training.state(),
            random=states,
            normalisation=tuple(normalisation) if isinstance(normalisation, tuple) else None,
        )

    def close(self) -> None:
        """Stop the loader workers."""
        self.training.close()

    @property
    def placement(self) -> Placement | None:
        """Where the stages lie; None where the strategy does not place stages."""
        return self._placement

    @property
    def range_names(self) -> list[str]:
        """The ranges that a trace of this cell has, without their prefix."""
        on_device = [PREPROCESS] if self._config.preprocess == "device" else []
        return [*PHASES, *on_device, *range_names(self._stages)]

    def _parallelize(self, model: nn.Module, mesh: Mesh) -> nn.Module:
        stages = stages_of(self.workload, model)
        cut = None
        if stages is not None:
            cut = Cut(stages, self._sample(model), self._placement)
        parallel = self._strategy.parallelize(model, cut, mesh, self._config)
        staged = staged_part(parallel)
        if staged is not None:
            self._placement = staged.placement  # the gate tests what is timed
        return parallel

    def _sample(self, model: nn.Module) -> torch.Tensor:
        dataset = self.workload.dataset("train")
        samples = [dataset[0], dataset[1]]
        inputs, _ = fixed_batch(self.workload, self._config, samples, self.mesh.first_device)
        return inputs.to(next(model.parameters()).dtype)

    def _settle(self, communicate: bool) -> None:
        """Train past what the other cell's turn left behind: cold caches, full loader queues.

        Workers go on filling their queues after a turn. Without the extra steps a block would
        start on batches that cost it nothing.
        """
        lead_in = 1 + self._config.workers * PREFETCH_FACTOR
        recorder = self.recorder()
        self.training.run(lead_in, recorder, communicate=communicate)
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


def _data_facts(workload: object, dataset: object, samples: int) -> DataFacts:
    """Return what is known of a data set; only perfkit's own say all of it."""
    known = dataset if isinstance(dataset, Photographs) else None
    source = known.source if known is not None else None
    return DataFacts(
        name=source.name if source is not None else type(dataset).__name__,
        train_samples=len(source) if source is not None else samples,
        samples_per_epoch=samples,
        class_counts=torch.bincount(known.labels).tolist() if known is not None else [],
        skipped=list(source.skipped) if source is not None else [],
        split=source.split if source is not None else "",
        normalisation=str(getattr(workload, "normalisation", "")),
    )
