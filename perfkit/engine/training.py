"""The training of one rank: the loop that is measured, and what it needs."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from perfkit.core.config import Precision
from perfkit.core.errors import PerfkitError
from perfkit.engine.group import share
from perfkit.engine.loading import Batch
from perfkit.engine.precision import Autocast
from perfkit.measure.recorder import StepRecorder
from perfkit.strategies.base import Mesh
from perfkit.strategies.staged import Moved, StagedModel
from perfkit.workloads.base import (
    Prepare,
    Workload,
    clip_norm_of,
    implementation_of,
    schedule_of,
)

PREPROCESS = "preprocess"
"""Phase in which the device prepares inputs."""


class Outcome(NamedTuple):
    """What a model made of a batch of n samples, on the CPU."""

    losses: Tensor  # [n]
    weights: Tensor  # [n]
    outputs: Tensor  # [n, ...]
    targets: Tensor  # [n, ...]


class Training:
    """Model, data, optimiser and schedule of one rank.

    ``batches`` yields this rank's share without end; ``prepare``, if there is one, makes its inputs
    ready on the device, in a phase of its own.
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        batches: Generator[Batch],
        mesh: Mesh,
        *,
        steps_per_epoch: int,
        precision: Precision = "fp32",
        prepare: Prepare | None = None,
    ) -> None:
        self.model = model
        self.batches = batches
        self.moved: Moved | None = None  # between devices in the last step
        self.implementation = ""  # of the workload's operator, as seen in the last step
        self._staged = staged_part(model)
        self._workload = workload
        self._prepare = prepare
        self._mesh = mesh
        self._input_device = mesh.first_device
        self._output_device = mesh.first_device
        if self._staged is not None:
            self._output_device = self._staged.output_device
        self._optimizer = workload.optimizer(model)
        self._schedule = schedule_of(workload, self._optimizer)
        self._clip_norm = clip_norm_of(workload)
        self._steps_per_epoch = steps_per_epoch
        self._updates = 0  # steps in which the parameters changed
        self._autocast = Autocast(precision, mesh.first_device)

    def run(self, steps: int, recorder: StepRecorder, *, communicate: bool = True) -> None:
        """Train ``steps`` steps.

        Without ``communicate`` gradients stay in each rank: an ablation that tells what
        communication costs. Call ``reunite`` after it.
        """
        for _ in range(steps):
            with recorder.step(), self._synchronisation(communicate):
                with recorder.phase("data_wait"):
                    inputs, targets, seeds, self.implementation = next(self.batches)
                with recorder.phase("host_to_device"):
                    inputs = inputs.to(self._input_device, non_blocking=True)
                    targets = targets.to(self._output_device, non_blocking=True)
                if self._prepare is not None:
                    with recorder.phase(PREPROCESS):
                        inputs = self._prepare(inputs, seeds)
                    self.implementation = implementation_of(self._workload)
                with recorder.phase("forward"):
                    with self._autocast.forward():
                        outputs = self.model(inputs)
                    loss = self._global_loss(self._autocast.exact(outputs), targets, communicate)
                with recorder.phase("backward"):
                    self._autocast.scaler.scale(loss).backward()
                with recorder.phase("optimizer"):
                    skipped = self._update()
                recorder.finish(loss, self._take_moved(), skipped=skipped)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> list[Outcome]:
        """Return what this rank's model makes of every batch, with nothing random in it.

        Each batch's ``losses`` and ``weights`` [n], outputs [n, ...] and targets are on the CPU.
        """
        # The wrapper of DDP would talk to the other ranks, whose shards may end earlier.
        model = self._staged if self._staged is not None else unwrapped(self.model)
        model.eval()
        outcomes = []
        for batch in batches:
            inputs = batch.inputs.to(self._input_device, non_blocking=True)
            if self._prepare is not None:
                inputs = self._prepare(inputs, None)
            targets = batch.targets
            with self._autocast.forward():
                outputs = model(inputs)
            outputs = self._autocast.exact(outputs)
            there = targets.to(self._output_device, non_blocking=True)
            losses, weights = _checked(self._workload.loss(outputs, there), len(targets))
            outcomes.append(Outcome(losses.cpu(), weights.cpu(), outputs.cpu(), targets))
        if self._staged is not None:
            self._staged.transfers.take()  # not those of a training step
        model.train()
        return outcomes

    def share_buffers(self) -> None:
        """Give every rank rank 0's buffers: running statistics differ until the next forward."""
        if self._mesh.group is not None:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0, group=self._mesh.group)

    def state(self) -> dict[str, Any]:
        """Return the state of optimiser, schedule and scaler, as of now."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._autocast.scaler.state_dict(),
            "updates": self._updates,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that another training returned; PerfkitError if it does not fit."""
        try:
            self._optimizer.load_state_dict(state["optimizer"])
            self._schedule.load_state_dict(state["schedule"])
            self._autocast.scaler.load_state_dict(state["scaler"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise PerfkitError(
                f"the checkpoint is of another optimiser, schedule or precision ({error}); go on "
                "with the workload that it was trained with"
            ) from None
        self._updates = state["updates"]

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group, for the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def loss_scale(self) -> float | None:
        """Of the gradient scaler; None where there is none."""
        scaler = self._autocast.scaler
        return scaler.get_scale() if scaler.is_enabled() else None

    def close(self) -> None:
        """Stop the loader workers, if there are any."""
        self.batches.close()

    def reunite(self) -> None:
        """Give every rank rank 0's parameters, buffers and optimiser state again."""
        if self._mesh.group is None:
            return
        scaler, self._updates = share(
            (self._autocast.scaler.state_dict(), self._updates), self._mesh
        )
        self._autocast.scaler.load_state_dict(scaler)
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
        losses, weights = _checked(self._workload.loss(outputs, targets), len(targets))
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

    def _update(self) -> bool:
        """Step the optimiser and the schedule; return whether the scaler skipped the step.

        A scaler that is not enabled passes everything on.
        """
        scaler = self._autocast.scaler
        if self._clip_norm is not None:
            scaler.unscale_(self._optimizer)
            clip_grad_norm_(self.model.parameters(), self._clip_norm)
        scale = scaler.get_scale()
        scaler.step(self._optimizer)
        scaler.update()
        skipped = scaler.get_scale() < scale
        self._optimizer.zero_grad(set_to_none=True)
        if not skipped:
            self._updates += 1
            if self._updates % self._steps_per_epoch == 0:
                self._schedule.step()
        return skipped

    def _take_moved(self) -> float | None:
        if self._staged is None:
            return None
        self.moved = self._staged.transfers.take()
        return self.moved.host_s


def _checked(returned: object, samples: int) -> tuple[Tensor, Tensor]:
    """Return the losses and weights of a workload; a mean that it took itself is refused."""
    match returned:
        case (Tensor(ndim=1) as losses, Tensor() as weights) if (
            losses.shape == weights.shape and len(losses) == samples
        ):
            return losses, weights
    raise PerfkitError(
        "a workload's loss has to return (losses, weights), both [N], one for each sample: "
        "the weighted mean over all ranks is taken by perfkit"
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the workload's own model inside what a strategy made of it."""
    staged = staged_part(model)
    if staged is not None:
        return staged.model
    return model.module if isinstance(model, DistributedDataParallel) else model


def staged_part(model: nn.Module) -> StagedModel | None:
    """Return the model of several stages inside ``model``, if there is one."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return inner if isinstance(inner, StagedModel) else None
