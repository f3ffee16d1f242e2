"""A small network learns the classes from the photographs, and nothing from shuffled labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perfkit.data.synthetic_fundus import SyntheticFundus
from perfkit.data.synthetic_photos import SyntheticPhotos

SEED, BATCH = 0, 32


class Task(NamedTuple):
    source: type[SyntheticFundus | SyntheticPhotos]
    size: int
    counts: dict[str, int]
    steps: int
    bar: float  # balanced accuracy on unseen photographs

    def photographs(self, split: str, *, shuffle_labels: bool) -> SyntheticFundus | SyntheticPhotos:
        return self.source(
            split,
            count=self.counts[split],
            size=self.size,
            seed=SEED,
            shuffle_labels=shuffle_labels,
        )


TASKS = [
    pytest.param(Task(SyntheticFundus, 64, {"train": 500, "test": 250}, 200, 0.8), id="glaucoma"),
    pytest.param(Task(SyntheticPhotos, 32, {"train": 400, "test": 200}, 100, 0.85), id="generated"),
]


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    chosen: Task = request.param
    return chosen


@pytest.fixture(scope="module")
def images(task: Task) -> dict[str, Tensor]:
    """Return float32 [N, 3, size, size] of both splits; the labels are another matter."""
    return {
        split: torch.stack([photos.read(index) for index in range(count)]).float() / 255 - 0.5
        for split, count in task.counts.items()
        for photos in [task.photographs(split, shuffle_labels=False)]
    }


@pytest.fixture(autouse=True)
def one_thread_and_a_fixed_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield
    torch.set_num_threads(threads)


def test_a_small_network_tells_unseen_photographs_apart(
    task: Task, images: dict[str, Tensor]
) -> None:
    assert balanced_accuracy_on_unseen(task, images, shuffle_labels=False) >= task.bar


def test_on_shuffled_labels_it_stays_at_chance(task: Task, images: dict[str, Tensor]) -> None:
    assert 0.35 <= balanced_accuracy_on_unseen(task, images, shuffle_labels=True) <= 0.65


def balanced_accuracy_on_unseen(
    task: Task, images: dict[str, Tensor], *, shuffle_labels: bool
) -> float:
    labels = {
        split: task.photographs(split, shuffle_labels=shuffle_labels).labels
        for split in task.counts
    }
    model = train(images["train"], labels["train"], task.steps)
    with torch.no_grad():
        found = model.eval()(images["test"]).argmax(dim=1)
    recalls = [(found[labels["test"] == c] == c).float().mean() for c in (0, 1)]
    return torch.stack(recalls).mean().item()


def train(images: Tensor, labels: Tensor, steps: int) -> nn.Module:
    model = small_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    class_weights = 1 / torch.bincount(labels).float()
    epochs = -(-steps * BATCH // len(labels))
    order = torch.cat([torch.randperm(len(labels)) for _ in range(epochs)])
    for step in range(steps):
        batch = order[step * BATCH : (step + 1) * BATCH]
        inputs = images[batch].flip(3) if step % 2 else images[batch]
        loss = F.cross_entropy(model(inputs), labels[batch], class_weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def small_cnn() -> nn.Sequential:
    widths = [(3, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)]
    layers: list[nn.Module] = []
    for before, after, stride in widths:
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 2))
