"""Batches without end, the same ones whatever the number of ranks and loader workers.

An epoch's restart of a loader would be timed as data wait, so the sampler never ends. Which
samples form global batch k follows from the seed alone, and what is random inside a sample
follows from its seed, epoch and index, never from the generator of a worker.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


class SampleKey(NamedTuple):
    """Which sample, in which epoch."""

    epoch: int
    sample: int


class EndlessBatchSampler(Sampler[list[SampleKey]]):
    """Yields, without end, the keys of this rank's share of every global batch.

    Epochs follow each other without a gap: a batch may hold the end of one and the start of the
    next. The first ``start`` batches are passed over, as seen before a training was stopped.
    Raises ValueError if the ranks do not divide the global batch.
    """

    def __init__(
        self,
        samples: int,
        *,
        global_batch: int,
        rank: int,
        world_size: int,
        seed: int,
        start: int = 0,
    ) -> None:
        if global_batch % world_size:
            raise ValueError(f"{world_size} ranks do not divide a global batch of {global_batch}")
        self._samples = samples
        self._global_batch = global_batch
        local = global_batch // world_size
        self._share = slice(rank * local, (rank + 1) * local)
        self._seed = seed
        self._start = start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return itertools.islice(self._batches(), self._start, None)

    def _batches(self) -> Iterator[list[SampleKey]]:
        pending: list[SampleKey] = []
        epoch = 0
        while True:
            while len(pending) < self._global_batch:
                generator = torch.Generator().manual_seed(sample_seed(self._seed, epoch, -1))
                order = torch.randperm(self._samples, generator=generator).tolist()
                pending += [SampleKey(epoch, sample) for sample in order]
                epoch += 1
            batch, pending = pending[: self._global_batch], pending[self._global_batch :]
            yield batch[self._share]


class SeededDataset(Dataset[tuple[Any, int]]):
    """Returns (sample, seed) for a SampleKey, torch's CPU generator being seeded with that seed.

    So a data set that draws random numbers from torch is reproducible without knowing of epochs.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __getitem__(self, key: SampleKey) -> tuple[Any, int]:
        seed = sample_seed(self._seed, key.epoch, key.sample)
        with seeded(seed):
            return self._dataset[key.sample], seed


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator for the duration of the block and put it back afterwards.

    Not by torch.manual_seed, which would seed the generators of the GPUs too, and so the dropout
    of the training that goes on around the block.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return a 63-bit seed that is the same on every machine and in every Python."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def repeat_minority(labels: Tensor, *, most: int) -> Tensor:
    """Return indices (int64) in which the images of rarer classes stand several times.

    ``labels`` is int64 [N]. Class c stands ``min(most, round(n_max / n_c))`` times, so that the
    classes come close to balance; every repetition gets an augmentation of its own.
    """
    counts = torch.bincount(labels)
    repeats = (counts.max() / counts.clamp(min=1)).round().clamp(max=most).long()
    return torch.arange(len(labels)).repeat_interleave(repeats[labels])
