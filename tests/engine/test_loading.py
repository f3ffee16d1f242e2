"""Shards cover a split exactly once, and loading draws nothing from the training's generators."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import trainable
from torch import Tensor

from perfkit.core.config import RunConfig
from perfkit.engine.loading import Collate, ShardSampler, endless_batches, shard_loader
from perfkit.strategies.base import Device, Mesh

ALONE = Mesh(rank=0, world_size=1, devices=(Device(torch.device("cpu"), "cpu"),))


class Watched(trainable.ThreeClasses):
    """Remembers with what seeds it was asked to collate."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.seeds: list[Sequence[int] | None] = []

    def collate(self, samples: Any, seeds: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        self.seeds.append(seeds)
        return super().collate(samples, seeds)


@pytest.mark.parametrize("samples", [0, 1, 2, 5, 13, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_shards_hold_every_sample_once_and_differ_by_one_at_most(
    samples: int, world_size: int, batch: int
) -> None:
    shards = []
    for rank in range(world_size):
        batches = list(ShardSampler(samples, batch=batch, rank=rank, world_size=world_size))
        assert all(len(keys) == batch for keys in batches[:-1])
        assert all(0 < len(keys) <= batch for keys in batches)
        shards.append([key.sample for keys in batches for key in keys])
    seen = Counter(index for shard in shards for index in shard)
    assert seen == dict.fromkeys(range(samples), 1)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_is_the_same_in_every_epoch_with_and_without_workers(workers: int) -> None:
    workload = trainable.ThreeClasses(RunConfig())
    dataset = workload.dataset("val")
    config = RunConfig(workers=workers)
    mesh = Mesh(rank=1, world_size=2, devices=ALONE.devices)
    loader = shard_loader(workload, dataset, config, mesh, 4)
    for _ in range(2):
        inputs, targets = (torch.cat(column) for column in list(zip(*loader, strict=True))[:2])
        expected = workload.collate([dataset[index] for index in range(1, 13, 2)], None)
        assert torch.equal(inputs, expected[0])
        assert torch.equal(targets, expected[1])


def test_training_samples_have_seeds_of_their_own_and_evaluation_has_none() -> None:
    workload, config = Watched(RunConfig()), RunConfig()
    list(islice(endless_batches(workload, config, ALONE, 4), 3))
    trained = [seed for seeds in workload.seeds for seed in seeds or []]
    assert len(set(trained)) == 12
    workload.seeds = []
    list(shard_loader(workload, workload.dataset("val"), config, ALONE, 4))
    assert workload.seeds == [None] * 4


def test_a_collate_gets_samples_and_seeds_apart() -> None:
    workload = Watched(RunConfig())
    samples = [(workload.dataset("val")[index], 100 + index) for index in range(3)]
    batch = Collate(workload, random=True)(samples)
    assert batch.seeds == [100, 101, 102]
    assert Collate(workload, random=False)(samples).seeds is None
    assert workload.seeds == [[100, 101, 102], None]
    assert batch.inputs.shape == (3, trainable.FEATURES)


def test_a_training_goes_on_with_the_batches_that_it_had_not_seen() -> None:
    workload, config = trainable.ThreeClasses(RunConfig()), RunConfig(seed=3)
    whole = list(islice(endless_batches(workload, config, ALONE, 8), 11))  # six an epoch
    rest = list(islice(endless_batches(workload, config, ALONE, 8, start=4), 7))
    for batch, other in zip(whole[4:], rest, strict=True):
        assert torch.equal(batch.inputs, other.inputs)
        assert torch.equal(batch.targets, other.targets)
        assert batch.seeds == other.seeds
    assert not torch.equal(whole[0].inputs, rest[0].inputs)


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_nothing_from_the_generators_of_the_training(workers: int) -> None:
    """A resumed training makes new loaders: its dropout would differ from then on."""

    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())]

    workload, config = trainable.ThreeClasses(RunConfig()), RunConfig(workers=workers)
    before = states()
    batches = endless_batches(workload, config, ALONE, 4)
    list(islice(batches, 3))
    batches.close()
    list(shard_loader(workload, workload.dataset("val"), config, ALONE, 4))
    assert states() == before
