"""A workload whose step costs as little as a step can: what is left is the harness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import Dataset

from perfkit.core.config import RunConfig


class Nothing(Dataset[int]):
    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> int:
        return index


class NoOp:
    """One weight, one number a sample; see ``perfkit.workloads.base.Workload``."""

    clip_norm: float | None = None

    def __init__(self, config: RunConfig) -> None:
        self._batch = torch.ones(config.local_batch or 2, 1)

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def dataset(self, split: str) -> Nothing:
        return Nothing()

    def collate(self, samples: Sequence[int], seeds: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        return self._batch, self._batch

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return (outputs - targets).square().squeeze(1), torch.ones(len(outputs))

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.1)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return StepLR(optimizer, step_size=10)
