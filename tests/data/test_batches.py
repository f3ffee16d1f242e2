"""Batches without end: the same for any number of ranks and workers, and reproducible."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perfkit.data.batches import (
    EndlessBatchSampler,
    SampleKey,
    SeededDataset,
    repeat_minority,
    sample_seed,
    seeded,
)

SAMPLES = 10


def share(rank: int, world_size: int, *, batches: int, seed: int = 3, global_batch: int = 4) -> Any:
    sampler = EndlessBatchSampler(
        SAMPLES, global_batch=global_batch, rank=rank, world_size=world_size, seed=seed
    )
    return list(islice(sampler, batches))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batches_do_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    ranks = [share(rank, world_size, batches=20) for rank in range(world_size)]
    joined = [[key for part in batch for key in part] for batch in zip(*ranks, strict=True)]
    assert joined == share(0, 1, batches=20)
    assert all(len(part) == 4 // world_size for rank in ranks for part in rank)
    for batch in zip(*ranks, strict=True):  # nobody trains on what another rank has
        assert sum(map(len, batch)) == len({key for part in batch for key in part})


@pytest.mark.parametrize("global_batch", [3, 4, 10, 25])
def test_every_epoch_holds_every_sample_once(global_batch: int) -> None:
    batches = share(0, 1, batches=50, global_batch=global_batch)
    keys = [key for batch in batches for key in batch]
    assert [key.epoch for key in keys] == sorted(key.epoch for key in keys)
    whole = len(keys) // SAMPLES
    assert whole > 5
    for epoch in range(whole):
        found = Counter(key.sample for key in keys if key.epoch == epoch)
        assert found == Counter(range(SAMPLES))


def test_the_order_follows_from_the_seed_and_differs_from_epoch_to_epoch() -> None:
    torch.manual_seed(1)
    first = share(0, 1, batches=5)
    torch.manual_seed(2)
    assert share(0, 1, batches=5) == first
    assert share(0, 1, batches=5, seed=4) != first
    samples = [key.sample for batch in first for key in batch]
    assert samples[:SAMPLES] != samples[SAMPLES:]


def test_ranks_that_do_not_divide_the_global_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="3 ranks do not divide a global batch of 4"):
        share(0, 3, batches=1)


class Noisy(Dataset[Tensor]):
    """Draws from torch's generator, as a data set with random transforms does."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(2) + index

    def __len__(self) -> int:
        return SAMPLES


def together(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, list[int]]:
    return torch.stack([sample for sample, _ in samples]), [seed for _, seed in samples]


def loaded(workers: int, rank: int = 0, world_size: int = 1) -> list[tuple[Tensor, list[int]]]:
    loader = DataLoader(
        SeededDataset(Noisy(), 5),
        batch_sampler=EndlessBatchSampler(
            SAMPLES, global_batch=4, rank=rank, world_size=world_size, seed=5
        ),
        collate_fn=together,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )
    return list(islice(loader, 4))


def test_what_is_random_in_a_sample_depends_on_neither_workers_nor_ranks() -> None:
    alone = loaded(workers=0)
    torch.manual_seed(99)
    for (inputs, seeds), (others, other_seeds) in zip(alone, loaded(workers=2), strict=True):
        assert torch.equal(inputs, others)
        assert seeds == other_seeds
    ranks = [loaded(workers=0, rank=rank, world_size=2) for rank in range(2)]
    for (inputs, seeds), first, second in zip(alone, *ranks, strict=True):
        assert torch.equal(inputs, torch.cat([first[0], second[0]]))
        assert seeds == first[1] + second[1]


def test_a_sample_is_another_one_in_the_next_epoch_and_the_same_when_asked_again() -> None:
    data = SeededDataset(Noisy(), 5)
    sample, seed = data[SampleKey(0, 7)]
    again, same_seed = data[SampleKey(0, 7)]
    later, other_seed = data[SampleKey(1, 7)]
    assert torch.equal(sample, again)
    assert seed == same_seed
    assert not torch.equal(sample, later)
    assert seed != other_seed
    assert not torch.equal(sample, SeededDataset(Noisy(), 6)[SampleKey(0, 7)][0])


def test_reading_a_sample_leaves_every_global_generator_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seed_gpus(seed: int) -> None:
        raise AssertionError("the dropout of a training on a GPU would be seeded by its samples")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_gpus)
    before = torch.get_rng_state()
    SeededDataset(Noisy(), 5)[SampleKey(0, 0)]
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), seeded(1):
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


def test_sample_seeds_are_the_same_everywhere_and_distinct() -> None:
    # Written down, because a seed that differs between machines makes runs differ.
    assert sample_seed(0, 0, 0) == 1445694884619442965
    seeds = [sample_seed(s, e, i) for s in range(5) for e in range(5) for i in range(-1, 40)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ((4, 4), 3, (1, 1)),
        ((9, 3), 3, (1, 3)),
        ((3, 9), 3, (3, 1)),
        ((12, 2), 3, (1, 3)),
        ((12, 2), 9, (1, 6)),
        ((7, 5), 3, (1, 1)),
    ],
)
def test_images_of_the_rarer_class_stand_as_often_as_balance_needs_up_to_a_limit(
    counts: tuple[int, int], most: int, expected: tuple[int, int]
) -> None:
    labels = torch.tensor([0] * counts[0] + [1] * counts[1])
    indices = repeat_minority(labels, most=most)
    assert indices.dtype == torch.int64
    times = Counter(indices.tolist())
    assert times == {index: expected[label] for index, label in enumerate(labels.tolist())}
