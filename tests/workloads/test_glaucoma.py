"""The glaucoma workload is the published chain, loss and optimiser."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import AdamW
from torchvision.models import ResNet
from torchvision.transforms import v2

from perfkit.core.config import RunConfig
from perfkit.models.medical_cnn import MedicalCNN
from perfkit.workloads.base import stages_of
from perfkit.workloads.glaucoma import Glaucoma

SIZE = 48


@pytest.fixture(scope="module")
def workload() -> Glaucoma:
    return Glaucoma(RunConfig(image_size=SIZE, local_batch=4))


@pytest.fixture(scope="module")
def samples(workload: Glaucoma) -> list[tuple[Tensor, int]]:
    data = workload.dataset("train")
    return [data[index] for index in (0, 1, 2, 3)]


def opencv_chain(image: Tensor) -> np.ndarray:
    """CLAHE on L of LAB, then gamma 1.2 upwards, then the 3x3 median; uint8 [H, W, 3]."""
    lab = cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0)), cv2.COLOR_RGB2LAB)
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
    equalised = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    table = np.rint(255 * (np.arange(256) / 255) ** (1 / 1.2)).astype(np.uint8)
    return cv2.medianBlur(cv2.LUT(equalised, table), 3)


def normalised(image: np.ndarray) -> np.ndarray:
    """ImageNet mean and standard deviation; float64 [3, H, W]."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return np.moveaxis((image / 255 - mean) / std, 2, 0)


def test_without_seeds_the_inputs_are_opencvs_chain_normalised(
    workload: Glaucoma, samples: list[tuple[Tensor, int]]
) -> None:
    inputs, targets = workload.collate(samples, None)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert targets.tolist() == [label for _, label in samples]
    for got, (image, _) in zip(inputs, samples, strict=True):
        np.testing.assert_allclose(got, normalised(opencv_chain(image)), atol=2e-6)


def test_augmentation_comes_between_the_chain_and_the_normalisation(
    workload: Glaucoma, samples: list[tuple[Tensor, int]]
) -> None:
    published = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomVerticalFlip(0.5),
            v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(0.1, 0.1, 0.05, 0.05),
        ]
    )
    inputs, _ = workload.collate(samples, [11, 12, 13, 14])
    for got, (image, _), seed in zip(inputs, samples, (11, 12, 13, 14), strict=True):
        enhanced = torch.from_numpy(opencv_chain(image)).permute(2, 0, 1)
        torch.manual_seed(seed)
        augmented = published(enhanced).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(got, normalised(augmented), atol=2e-6)


def test_augmentation_follows_from_the_seed_of_the_sample_and_from_nothing_else(
    workload: Glaucoma, samples: list[tuple[Tensor, int]]
) -> None:
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    first, _ = workload.collate(samples, [1, 2, 3, 4])
    assert torch.equal(torch.get_rng_state(), generator)
    torch.manual_seed(2)
    swapped, _ = workload.collate(samples[::-1], [4, 3, 2, 1])
    assert torch.equal(swapped, first.flip(0))
    other, _ = workload.collate(samples, [5, 2, 3, 4])
    assert not torch.equal(other[0], first[0])
    assert torch.equal(other[1:], first[1:])


def test_augmentation_leaves_the_generators_of_gpus_alone(
    workload: Glaucoma, samples: list[tuple[Tensor, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    workload.collate(samples, [1, 2, 3, 4])
    assert seeded == []


def folder(root: Path, train: tuple[int, int]) -> Path:
    """Write ``train`` and (2, 4) validation photographs of the two classes."""
    for split, counts in (("train", train), ("val", (2, 4))):
        for label, count in enumerate(counts):
            (root / split / str(label)).mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (20, 20), (60 * label, index, 0))
                image.save(root / split / str(label) / f"{index}.png")
    return root


@pytest.mark.parametrize(
    ("counts", "repeats", "weights"),
    [
        ((6, 6), (1, 1), (0.5, 0.5)),
        ((4, 12), (3, 1), (0.5, 0.5)),
        ((12, 2), (1, 3), (1 / 3, 2 / 3)),
        ((7, 5), (1, 1), (5 / 12, 7 / 12)),
    ],
)
def test_the_rarer_class_stands_repeatedly_and_weights_are_inverse_counts(
    counts: tuple[int, int],
    repeats: tuple[int, int],
    weights: tuple[float, float],
    tmp_path: Path,
) -> None:
    config = RunConfig(image_size=16, data=folder(tmp_path / "smdg", counts))
    workload = Glaucoma(config)
    train, val = workload.dataset("train"), workload.dataset("val")
    labels = [train[index][1] for index in range(len(train))]
    assert [labels.count(label) for label in (0, 1)] == [
        count * times for count, times in zip(counts, repeats, strict=True)
    ]
    assert workload.class_weights.tolist() == pytest.approx(weights)
    assert val.labels.tolist() == [0] * 2 + [1] * 4  # evaluation is never rebalanced
    for image, label in (train[index] for index in range(len(train))):
        assert image[0, 0, 0] == 60 * label


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_cross_entropy_weighed_by_class(dtype: torch.dtype, tmp_path: Path) -> None:
    workload = Glaucoma(RunConfig(image_size=16, data=folder(tmp_path / "smdg", (12, 2))))
    outputs = torch.randn(5, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 1, 0, 1])
    losses, weights = workload.loss(outputs, targets)
    assert losses.shape == weights.shape == (5,)
    assert weights.dtype == losses.dtype == dtype
    assert weights.tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 3, 2 / 3])
    expected = F.cross_entropy(outputs, targets, weight=torch.tensor([1 / 3, 2 / 3], dtype=dtype))
    assert float((losses * weights).sum() / weights.sum()) == pytest.approx(float(expected))


@pytest.mark.parametrize("epochs", [10, 4])
def test_adamw_and_a_cosine_down_to_1e_6_over_all_epochs_with_gradients_clipped_at_one(
    epochs: int,
) -> None:
    workload = Glaucoma(RunConfig(image_size=16, epochs=epochs))
    optimizer = workload.optimizer(nn.Linear(2, 2))
    assert isinstance(optimizer, AdamW)
    assert optimizer.defaults["lr"] == 1e-3
    assert optimizer.defaults["weight_decay"] == 1e-4
    assert workload.clip_norm == 1.0
    schedule = workload.schedule(optimizer)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(epochs):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates == sorted(rates, reverse=True)
    middle = (1e-3 + 1e-6) / 2
    assert (rates[0], rates[epochs // 2], rates[epochs]) == pytest.approx((1e-3, middle, 1e-6))


def test_the_model_is_medical_cnn_cut_into_its_five_stages(workload: Glaucoma) -> None:
    model = workload.model()
    assert isinstance(model, MedicalCNN)
    assert stages_of(workload, model) == model.stages()


def test_another_model_keeps_the_chain_the_loss_and_the_optimiser(
    workload: Glaucoma, samples: list[tuple[Tensor, int]]
) -> None:
    other = Glaucoma(RunConfig(image_size=SIZE, model="resnet18"))
    model = other.model()
    assert isinstance(model, ResNet)
    assert len(other.stages(model)) == 5
    for seeds in (None, [1, 2, 3, 4]):
        for found, expected in zip(
            other.collate(samples, seeds), workload.collate(samples, seeds), strict=True
        ):
            assert torch.equal(found, expected)
    assert torch.equal(other.class_weights, workload.class_weights)
    assert isinstance(other.optimizer(model), AdamW)
    assert other.clip_norm == 1.0


def test_synthetic_splits_are_different_photographs(workload: Glaucoma) -> None:
    assert not torch.equal(workload.dataset("train")[0][0], workload.dataset("val")[0][0])
    assert len(workload.dataset("val")) == len(workload.dataset("test")) == 240
