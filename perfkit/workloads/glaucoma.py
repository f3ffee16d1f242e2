"""Glaucoma from fundus photographs, with MedicalCNN or a model that ``--model`` names.

The chain of the published system: resize -> CLAHE on L of LAB -> gamma 1.2 -> median 3x3 ->
class-aware augmentation -> normalisation. Its clip limit, tile grid and the direction of its gamma
were not published; here they are OpenCV's usual 2.0 and 8x8, and brightening.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torchvision.transforms import v2

from perfkit.core.config import RunConfig
from perfkit.data.batches import seeded
from perfkit.data.images import ImageSource
from perfkit.data.smdg import SmdgFolder
from perfkit.data.synthetic_fundus import SyntheticFundus
from perfkit.ops.reference.clahe_gamma_median import clahe_gamma_median
from perfkit.workloads.classification import ImageClassification, inverse_counts

CLIP_LIMIT = 2.0
TILE_GRID = (8, 8)  # columns, rows
GAMMA = 1.2


class Glaucoma(ImageClassification):
    """The workload; see ``perfkit.workloads.base.Workload`` for what its members promise."""

    default_model = "medical_cnn"
    most_repeats = 3
    clip_norm = 1.0

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.class_weights = inverse_counts(self._train.labels)
        self._augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomVerticalFlip(0.5),
                v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR),
                v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.05, hue=0.05),
            ]
        )

    def read_folder(self, root: Path, split: str) -> ImageSource:
        """Return a split of a folder in the SMDG layout."""
        return SmdgFolder(root, split, size=self._size)

    def draw(self, split: str, count: int) -> ImageSource:
        """Return synthetic fundus photographs."""
        return SyntheticFundus(split, count=count, size=self._size, seed=self._config.seed)

    def prepare(self, images: Tensor, seeds: Sequence[int] | None) -> Tensor:
        """Return the images enhanced and, with ``seeds``, augmented; uint8 as before."""
        images = clahe_gamma_median(
            images, clip_limit=CLIP_LIMIT, tile_grid=TILE_GRID, gamma=GAMMA, layout="chw"
        )
        if seeds is None:
            return images
        return torch.stack(
            [self._augmented(image, seed) for image, seed in zip(images, seeds, strict=True)]
        )

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return AdamW as published."""
        return AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the published cosine from 1e-3 to 1e-6, over all epochs of the training."""
        return CosineAnnealingLR(optimizer, T_max=self._config.epochs, eta_min=1e-6)

    def _augmented(self, image: Tensor, seed: int) -> Tensor:
        with seeded(seed):
            augmented: Tensor = self._augment(image)
            return augmented
