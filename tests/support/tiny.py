"""A workload small enough for tests: an MLP on vectors, cut into four stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import Dataset, TensorDataset

from perfkit.core.config import RunConfig

FEATURES = 8


class Tiny:
    """Two classes of unequal weight, which a mean over ranks would get wrong."""

    clip_norm: float | None = 1.0

    def __init__(self, config: RunConfig) -> None:
        generator = torch.Generator().manual_seed(7)
        inputs = torch.randn(64, FEATURES, generator=generator)
        self._data = TensorDataset(inputs, (inputs.sum(1) > 0.8).long())
        self._weights = torch.tensor([0.1, 0.9])

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(FEATURES, 16),
            nn.Sequential(nn.BatchNorm1d(16), nn.ReLU()),
            nn.Linear(16, 16),
            nn.Linear(16, 2),
        )

    def dataset(self, split: str) -> Dataset[tuple[Tensor, ...]]:
        return self._data

    def collate(
        self, samples: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        weights = self._weights.to(outputs.device, outputs.dtype)[targets]
        return F.cross_entropy(outputs, targets, reduction="none"), weights

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.1)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return StepLR(optimizer, step_size=10)


class Uncut(Tiny):
    """The same, with a model that is no nn.Sequential and no stages()."""

    def model(self) -> nn.Module:
        return Wrapped(super().model())


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


class Slow(Tiny):
    """The same, with samples that take a while, so that a run can be interrupted."""

    def collate(
        self, samples: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        import time

        time.sleep(0.05)
        return super().collate(samples, seeds)


class Moved(Tiny):
    """A model that undoes its placement, as the published model-parallel code did."""


class Lacking:
    """No workload at all."""

    clip_norm = None
