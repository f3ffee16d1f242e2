"""The forensics workload is the published chain, loss and optimisers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torchvision.models import ResNet, VisionTransformer

from perfkit.core.config import RunConfig
from perfkit.workloads.base import clip_norm_of, schedule_of
from perfkit.workloads.forensics import Forensics

SIZE = 32


def forensics(**options: object) -> Forensics:
    config = {"workload": "forensics", "image_size": SIZE, "local_batch": 4, **options}
    return Forensics(RunConfig.model_validate(config))


@pytest.fixture(scope="module")
def workload() -> Forensics:
    return forensics()


@pytest.fixture(scope="module")
def samples(workload: Forensics) -> list[tuple[Tensor, int]]:
    data = workload.dataset("train")
    return [data[index] for index in (0, 1, 2, 3)]


@pytest.mark.parametrize("seeds", [None, [1, 2, 3, 4]])
def test_images_are_normalised_and_nothing_else_with_and_without_seeds(
    seeds: list[int] | None, workload: Forensics, samples: list[tuple[Tensor, int]]
) -> None:
    inputs, targets = workload.collate(samples, seeds)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert targets.tolist() == [label for _, label in samples]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for got, (image, _) in zip(inputs, samples, strict=True):
        expected = (image.permute(1, 2, 0).numpy() / 255 - mean) / std
        np.testing.assert_allclose(got, np.moveaxis(expected, 2, 0), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_cross_entropy_with_equal_weights(
    workload: Forensics, dtype: torch.dtype
) -> None:
    outputs = torch.randn(5, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 1, 0, 1])
    losses, weights = workload.loss(outputs, targets)
    assert weights.dtype == losses.dtype == dtype
    assert weights.tolist() == [1] * 5
    expected = F.cross_entropy(outputs, targets)
    assert float((losses * weights).sum() / weights.sum()) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("name", "model", "optimizer", "rate", "decay"),
    [
        (None, ResNet, Adam, 1e-4, 0),
        ("resnet18", ResNet, Adam, 1e-4, 0),
        ("resnet18_se", ResNet, Adam, 1e-4, 0),
        ("vit_b_16", VisionTransformer, AdamW, 5e-5, 0.01),
        ("vit_b_16_se", VisionTransformer, AdamW, 5e-5, 0.01),
    ],
)
def test_each_model_has_its_published_optimiser_and_a_constant_learning_rate(
    name: str | None, model: type[nn.Module], optimizer: type[Optimizer], rate: float, decay: float
) -> None:
    system = forensics(model=name)
    with torch.device("meta"):
        assert isinstance(system.model(), model)
    found = system.optimizer(nn.Linear(2, 2))
    assert type(found) is optimizer
    assert (found.defaults["lr"], found.defaults["weight_decay"]) == (rate, decay)
    assert clip_norm_of(system) is None
    schedule = schedule_of(system, found)
    for _ in range(12):
        assert schedule.get_last_lr() == [rate]
        found.step()
        schedule.step()


def test_synthetic_splits_are_different_photographs_of_both_classes(workload: Forensics) -> None:
    assert not torch.equal(workload.dataset("train")[0][0], workload.dataset("val")[0][0])
    for split, count in (("train", 960), ("val", 240), ("test", 240)):
        assert torch.bincount(workload.dataset(split).labels).tolist() == [count // 2] * 2


def test_a_folder_is_split_by_the_seed_and_no_photo_is_repeated(tmp_path: Path) -> None:
    rows = ["id,file_name,label"]
    for index in range(40):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
        rows.append(f"{index},{index}.png,{int(index < 10)}")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    seen = {}
    for seed in (0, 1):
        system = forensics(data=tmp_path, seed=seed)
        train, val = system.dataset("train"), system.dataset("val")
        assert torch.bincount(train.labels).tolist() == [24, 8]
        assert torch.bincount(val.labels).tolist() == [3, 1]
        assert train.source.split == f"stratified 80/10/10 by seed {seed}"
        seen[seed] = {int(train[index][0][0, 0, 0]) for index in range(len(train))}
        assert len(seen[seed]) == 32
    assert seen[0] != seen[1]


@pytest.mark.real_data
def test_a_small_resnet_trains_on_real_photographs(data_dir: Path) -> None:
    system = forensics(data=data_dir / "ai-vs-human")
    torch.manual_seed(0)
    model = system.model()
    optimizer = system.optimizer(model)
    data = system.dataset("train")
    inputs, targets = system.collate([data[index] for index in range(0, 80, 5)], None)
    seen = []
    for _ in range(5):
        loss = system.loss(model(inputs), targets)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0] / 2
