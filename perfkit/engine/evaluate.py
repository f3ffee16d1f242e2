"""The model on a whole split: every rank evaluates its shard, rank 0 joins them."""

from __future__ import annotations

import torch

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.training_result import Evaluation
from perfkit.engine.group import gather, share
from perfkit.engine.loading import shard_loader
from perfkit.engine.metrics import metrics_of
from perfkit.engine.offline import have_stored
from perfkit.engine.training import Outcome, Training
from perfkit.strategies.base import Mesh
from perfkit.workloads.base import Workload


class Evaluator:
    """One split of a workload, with loader workers that live as long as this object."""

    def __init__(
        self, workload: Workload, split: str, config: RunConfig, mesh: Mesh, batch: int
    ) -> None:
        self._workload = workload
        self._split = split
        self._mesh = mesh
        have_stored(workload, split, config, mesh)
        dataset = workload.dataset(split)
        if not len(dataset):  # type: ignore[arg-type]
            raise PerfkitError(f"the workload's {split!r} set is empty; training needs one")
        self._batches = shard_loader(workload, dataset, config, mesh, batch)

    def evaluate(self, training: Training) -> Evaluation:
        """Return what the model is worth on all samples of the split, on every rank.

        Its loss may be nan: JSON and the Record have no such number, so look before writing it.
        """
        training.share_buffers()
        shards = gather(training.evaluate(self._batches), self._mesh)
        parts = [part for shard in shards for part in shard]
        return share(self._join(parts) if parts else None, self._mesh)

    def _join(self, parts: list[Outcome]) -> Evaluation:
        joined = [torch.cat(column) for column in zip(*parts, strict=True)]
        losses, weights, outputs, targets = joined
        loss = float((losses.double() * weights).sum() / weights.double().sum())
        metrics, confusion = metrics_of(self._workload, outputs, targets)
        return Evaluation(
            split=self._split,
            samples=len(losses),
            loss=loss,
            metrics=metrics,
            confusion=confusion,
        )
