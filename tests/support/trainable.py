"""Workloads for whole trainings: three classes in uneven splits, and what can go wrong in one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tiny import FEATURES, Tiny
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import Dataset, TensorDataset

from perfkit.core.config import RunConfig

CLASSES = 3
SIZES = {"train": 48, "val": 13, "test": 7}  # two ranks share neither val nor test evenly
STOP_AT = "TRAINABLE_STOP_AT"
"""Environment variable: the training batch, from 1, at which a process waits to be stopped."""
REACHED = "reached"
"""File in the working directory that says that a process waits there."""


class ThreeClasses(Tiny):
    """Everything that a checkpoint must carry: dropout, running statistics, momentum, schedule."""

    def __init__(self, config: RunConfig) -> None:
        generator = torch.Generator().manual_seed(11)
        self._splits = {split: vectors(size, generator) for split, size in SIZES.items()}
        self._weights = torch.tensor([0.2, 0.3, 0.5])
        self._drawn = 0

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(FEATURES, 16),
            nn.Sequential(nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2)),
            nn.Linear(16, 16),
            nn.Linear(16, CLASSES),
        )

    def dataset(self, split: str) -> Dataset[tuple[Tensor, ...]]:
        return self._splits[split]

    def collate(
        self, samples: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        self._drawn += seeds is not None
        if seeds is not None and str(self._drawn) == os.environ.get(STOP_AT):
            Path(REACHED).touch()
            time.sleep(120)
        return super().collate(samples, seeds)

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.1, momentum=0.9)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return StepLR(optimizer, step_size=1, gamma=0.7)


def vectors(size: int, generator: torch.Generator) -> TensorDataset:
    """Return vectors whose sum tells their class, with some noise."""
    inputs = torch.randn(size, FEATURES, generator=generator)
    sums = inputs.sum(1) + torch.randn(size, generator=generator)
    return TensorDataset(inputs, torch.bucketize(sums, torch.tensor([-1.0, 1.0])))


class Diverging(ThreeClasses):
    """Its seventh training batch holds a nan."""

    bad_batch = 7

    def collate(
        self, samples: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        inputs, targets = super().collate(samples, seeds)
        if seeds is not None and self._drawn == self.bad_batch:
            inputs[0, 0] = torch.nan
        return inputs, targets


class DivergingAtOnce(Diverging):
    bad_batch = 2


class DivergingInItsLastStep(ThreeClasses):
    """The loss of every step is finite, but not the parameters that the last one leaves."""

    def collate(
        self, samples: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        inputs, targets = super().collate(samples, seeds)
        if seeds is None:
            inputs[0, 0] = torch.nan
        return inputs, targets


class Stuck(ThreeClasses):
    """It learns nothing: no epoch is better than the first."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, CLASSES))

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.0)


class Regression(Tiny):
    """No classifier: it has its loss and a metric of its own."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 4), nn.Linear(4, 1))

    def collate(
        self, samples: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        inputs, _ = super().collate(samples, seeds)
        return inputs, inputs.sum(1, keepdim=True)

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        losses = F.mse_loss(outputs, targets, reduction="none")[:, 0]
        return losses, torch.ones_like(losses)

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.01)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"mean absolute error": (outputs - targets).abs().mean()}


class Float32Inside(ThreeClasses):
    """Its model switches autocast off, as a library may do around what it takes to be delicate."""

    def model(self) -> nn.Module:
        return WithoutAutocast(super().model())


class WithoutAutocast(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.inner(x)
        return out
