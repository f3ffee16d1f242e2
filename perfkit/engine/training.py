"""The training of one rank: the loop that is measured, and what it needs."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.data.batches import EndlessBatchSampler, SeededDataset
from perfkit.launch.child import die_with_parent
from perfkit.measure.recorder import StepRecorder
from perfkit.strategies.base import Mesh
from perfkit.strategies.staged import Moved, StagedModel
from perfkit.workloads.base import Workload

PREFETCH_FACTOR = 2


class Training:
    """Model, data, optimiser and schedule of one rank.

    ``batches`` yields (inputs, targets) of this rank's share without end.
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        batches: Generator[tuple[Tensor, Tensor]],
        mesh: Mesh,
        *,
        steps_per_epoch: int,
    ) -> None:
        self.model = model
        self.batches = batches
        self.moved: Moved | None = None  # between devices in the last step
        self._staged = staged_part(model)
        self._workload = workload
        self._mesh = mesh
        self._input_device = mesh.first_device
        self._output_device = mesh.first_device
        if self._staged is not None:
            self._output_device = self._staged.output_device
        self._optimizer = workload.optimizer(model)
        self._schedule = workload.schedule(self._optimizer)
        self._steps_per_epoch = steps_per_epoch
        self._steps_done = 0

    def run(self, steps: int, recorder: StepRecorder, *, communicate: bool = True) -> None:
        """Train ``steps`` steps.

        Without ``communicate`` gradients stay in each rank: an ablation that tells what
        communication costs. Call ``reunite`` after it.
        """
        for _ in range(steps):
            with recorder.step(), self._synchronisation(communicate):
                with recorder.phase("data_wait"):
                    inputs, targets = next(self.batches)
                with recorder.phase("host_to_device"):
                    inputs = inputs.to(self._input_device, non_blocking=True)
                    targets = targets.to(self._output_device, non_blocking=True)
                with recorder.phase("forward"):
                    outputs = self.model(inputs)
                    loss = self._global_loss(outputs, targets, communicate)
                with recorder.phase("backward"):
                    loss.backward()
                with recorder.phase("optimizer"):
                    if self._workload.clip_norm is not None:
                        clip_grad_norm_(self.model.parameters(), self._workload.clip_norm)
                    self._optimizer.step()
                    self._optimizer.zero_grad(set_to_none=True)
                    self._end_of_step()
                recorder.finish(loss, self._take_moved())

    def close(self) -> None:
        """Stop the loader workers, if there are any."""
        self.batches.close()

    def reunite(self) -> None:
        """Give every rank rank 0's parameters, buffers and optimiser state again."""
        if self._mesh.group is None:
            return
        state = self._optimizer.state_dict()["state"].values()
        tensors = [value for entry in state for value in entry.values() if torch.is_tensor(value)]
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers(), *tensors):
                group = self._mesh.group
                # Adam keeps its step count on the CPU, which NCCL does not carry.
                if tensor.device.type == "cpu":
                    group = self._mesh.control or group
                dist.broadcast(tensor, src=0, group=group)

    def _global_loss(self, outputs: Tensor, targets: Tensor, communicate: bool) -> Tensor:
        """Return this rank's part of the weighted mean over the global batch, times world size.

        DDP averages gradients over ranks; with this scale the average is the gradient of
        sum(w * l) / sum(w) over the global batch, whatever weight each rank's share has.
        """
        losses, weights = _checked(self._workload.loss(outputs, targets))
        total = weights.sum()
        world_size = self._mesh.world_size if communicate else 1
        if world_size > 1:
            total = total.detach().clone()
            dist.all_reduce(total, group=self._mesh.group)
        return (losses * weights).sum() * world_size / total

    def _synchronisation(self, communicate: bool) -> AbstractContextManager[Any]:
        if communicate or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _end_of_step(self) -> None:
        self._steps_done += 1
        if self._steps_done % self._steps_per_epoch == 0:
            self._schedule.step()

    def _take_moved(self) -> float | None:
        if self._staged is None:
            return None
        self.moved = self._staged.transfers.take()
        return self.moved.host_s


def _checked(returned: object) -> tuple[Tensor, Tensor]:
    """Return the losses and weights of a workload; a mean that it took itself is refused."""
    match returned:
        case (Tensor(ndim=1) as losses, Tensor() as weights) if losses.shape == weights.shape:
            return losses, weights
    raise PerfkitError(
        "a workload's loss has to return (losses, weights), both [N], one for each sample: "
        "the weighted mean over all ranks is taken by perfkit"
    )


def staged_part(model: nn.Module) -> StagedModel | None:
    """Return the model of several stages inside ``model``, if there is one."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return inner if isinstance(inner, StagedModel) else None


class Collate:
    """The workload's collate on what SeededDataset yields."""

    def __init__(self, workload: Workload, *, random: bool) -> None:
        self._workload = workload
        self._random = random

    def __call__(self, samples: Sequence[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets)."""
        seeds = [seed for _, seed in samples] if self._random else None
        return self._workload.collate([sample for sample, _ in samples], seeds)


def endless_batches(
    workload: Workload, config: RunConfig, mesh: Mesh, global_batch: int
) -> Generator[tuple[Tensor, Tensor]]:
    """Yield this rank's share of every global batch, loaded by ``config.workers`` workers.

    The workers live from the first batch until the generator is closed.
    """
    dataset = workload.dataset("train")
    loader = DataLoader(
        SeededDataset(dataset, config.seed),
        batch_sampler=EndlessBatchSampler(
            len(dataset),  # type: ignore[arg-type]
            global_batch=global_batch,
            rank=mesh.rank,
            world_size=mesh.world_size,
            seed=config.seed,
        ),
        collate_fn=Collate(workload, random=True),
        num_workers=config.workers,
        # A forked worker would keep the sockets of the process group open: after the death of a
        # rank its peers would wait for the time-out.
        multiprocessing_context="forkserver" if config.workers else None,
        worker_init_fn=_start_worker if config.workers else None,
        persistent_workers=bool(config.workers),
        prefetch_factor=PREFETCH_FACTOR if config.workers else None,
        pin_memory=mesh.first_device.type == "cuda",
    )
    yield from loader


def _start_worker(_: int) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the rank's to answer
    torch.set_num_threads(1)
