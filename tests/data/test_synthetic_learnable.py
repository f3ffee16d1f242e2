"""A small network learns the disease from the photographs, and nothing from shuffled labels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perfkit.data.synthetic_fundus import SyntheticFundus

SIZE, SEED, STEPS, BATCH = 64, 0, 200, 32
COUNTS = {"train": 500, "test": 250}


@pytest.fixture(scope="module")
def images() -> dict[str, Tensor]:
    """Return float32 [N, 3, SIZE, SIZE] of both splits; the labels are another matter."""
    return {
        split: torch.stack([photos.read(index) for index in range(count)]).float() / 255 - 0.5
        for split, count in COUNTS.items()
        for photos in [SyntheticFundus(split, count=count, size=SIZE, seed=SEED)]
    }


@pytest.fixture(autouse=True)
def two_threads_and_a_fixed_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield
    torch.set_num_threads(threads)


def test_a_small_network_tells_unseen_glaucoma_from_normal(images: dict[str, Tensor]) -> None:
    assert balanced_accuracy_on_unseen(images, shuffle_labels=False) >= 0.8


def test_on_shuffled_labels_it_stays_at_chance(images: dict[str, Tensor]) -> None:
    assert 0.35 <= balanced_accuracy_on_unseen(images, shuffle_labels=True) <= 0.65


def balanced_accuracy_on_unseen(images: dict[str, Tensor], *, shuffle_labels: bool) -> float:
    labels = {
        split: SyntheticFundus(
            split, count=count, size=SIZE, seed=SEED, shuffle_labels=shuffle_labels
        ).labels
        for split, count in COUNTS.items()
    }
    model = train(images["train"], labels["train"])
    with torch.no_grad():
        found = model.eval()(images["test"]).argmax(dim=1)
    recalls = [(found[labels["test"] == c] == c).float().mean() for c in (0, 1)]
    return torch.stack(recalls).mean().item()


def train(images: Tensor, labels: Tensor) -> nn.Module:
    model = small_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=STEPS)
    class_weights = 1 / torch.bincount(labels).float()
    epochs = -(-STEPS * BATCH // len(labels))
    order = torch.cat([torch.randperm(len(labels)) for _ in range(epochs)])
    for step in range(STEPS):
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
