"""Glaucoma from fundus photographs with MedicalCNN.

The chain of the published system: resize -> CLAHE on L of LAB -> gamma 1.2 -> median 3x3 ->
class-aware augmentation -> ImageNet normalisation. Its clip limit, tile grid and the direction of
its gamma were not published; here they are OpenCV's usual 2.0 and 8x8, and brightening.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import Dataset
from torchvision.transforms import v2

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.data.batches import repeat_minority, seeded
from perfkit.data.smdg import SmdgFolder
from perfkit.data.synthetic_fundus import SyntheticFundus
from perfkit.models.medical_cnn import MedicalCNN
from perfkit.ops.reference.clahe_gamma_median import clahe_gamma_median

CLIP_LIMIT = 2.0
TILE_GRID = (8, 8)  # columns, rows
GAMMA = 1.2
MOST_REPEATS = 3  # of an image of the rarer class in an epoch
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EPOCHS = 10
SYNTHETIC_COUNTS = {"train": 960, "val": 240, "test": 240}


class ImageSource(Protocol):
    """Labelled images: a folder, or drawn on the fly."""

    name: str
    labels: Tensor
    skipped: tuple[str, ...]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """Return uint8 RGB [3, size, size]."""


class Photographs(Dataset[tuple[Tensor, int]]):
    """(image uint8 [3, size, size], label) by index; ``indices`` may name an image repeatedly."""

    def __init__(self, source: ImageSource, indices: Tensor) -> None:
        self.source = source
        self.labels = source.labels[indices]
        self._indices = indices.tolist()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.source.read(self._indices[position]), int(self.labels[position])


class Glaucoma:
    """The workload; see ``perfkit.workloads.base.Workload`` for what its members promise."""

    clip_norm: float | None = 1.0

    def __init__(self, config: RunConfig) -> None:
        if config.image_size is None:
            raise ValueError("a workload is made from a resolved RunConfig")
        self._config = config
        self._size = config.image_size
        self._train = self._photographs("train")
        self.class_weights = inverse_counts(self._train.labels)
        self._augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomVerticalFlip(0.5),
                v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR),
                v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.05, hue=0.05),
            ]
        )
        self._mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
        self._std = torch.tensor(IMAGENET_STD)[:, None, None]

    def model(self) -> nn.Module:
        """Return a MedicalCNN for two classes."""
        return MedicalCNN(num_classes=2)

    def stages(self, model: MedicalCNN) -> list[nn.Module]:
        """Return the five stages of the network."""
        return model.stages()

    def dataset(self, split: str) -> Photographs:
        """Return the photographs of a split; in "train" the rarer class stands repeatedly."""
        return self._train if split == "train" else self._photographs(split)

    def collate(
        self, samples: Sequence[tuple[Tensor, int]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Return float32 [N, 3, size, size], normalised, and int64 [N]."""
        images = torch.stack([image for image, _ in samples])
        images = clahe_gamma_median(
            images, clip_limit=CLIP_LIMIT, tile_grid=TILE_GRID, gamma=GAMMA, layout="chw"
        )
        if seeds is not None:
            images = torch.stack(
                [self._augmented(image, seed) for image, seed in zip(images, seeds, strict=True)]
            )
        inputs = (images.float() / 255 - self._mean) / self._std
        return inputs, torch.tensor([label for _, label in samples])

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-entropy and the weight of its class for each sample."""
        weights = self.class_weights.to(outputs.device, outputs.dtype)
        return F.cross_entropy(outputs, targets, reduction="none"), weights[targets]

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return AdamW as published."""
        return AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the cosine from 1e-3 to 1e-6 over the ten published epochs."""
        return CosineAnnealingLR(optimizer, T_max=EPOCHS, eta_min=1e-6)

    def _photographs(self, split: str) -> Photographs:
        config = self._config
        source: ImageSource
        if config.data is None:
            count = SYNTHETIC_COUNTS[split]
            source = SyntheticFundus(split, count=count, size=self._size, seed=config.seed)
        elif not config.data.is_dir():
            raise PerfkitError(f"--data {config.data}: is not a folder")
        else:
            source = SmdgFolder(config.data, split, size=self._size)
        every = torch.arange(len(source))
        repeated = repeat_minority(source.labels, most=MOST_REPEATS)
        return Photographs(source, repeated if split == "train" else every)

    def _augmented(self, image: Tensor, seed: int) -> Tensor:
        with seeded(seed):
            augmented: Tensor = self._augment(image)
            return augmented


def inverse_counts(labels: Tensor) -> Tensor:
    """Return class weights: inverse counts of int64 [N] ``labels``, normalised to sum 1."""
    inverse = 1 / torch.bincount(labels).float()
    return inverse / inverse.sum()
