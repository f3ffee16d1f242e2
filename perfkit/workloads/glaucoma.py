"""Glaucoma from fundus photographs, with MedicalCNN or a model that ``--model`` names.

The chain of the published system: resize -> CLAHE on L of LAB -> gamma 1.2 -> median 3x3 ->
class-aware augmentation -> normalisation; ``enhancement.py`` has what it did not tell.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torchvision.transforms import v2

from perfkit.core.config import RunConfig
from perfkit.data.images import ImageSource
from perfkit.data.smdg import SmdgFolder
from perfkit.data.synthetic_fundus import SyntheticFundus
from perfkit.workloads.classification import ImageClassification, inverse_counts


class Glaucoma(ImageClassification):
    """The workload; see ``perfkit.workloads.base.Workload`` for what its members promise."""

    default_model = "medical_cnn"
    most_repeats = 3
    preprocess_choices = ("loader", "device", "offline", "none")
    clip_norm = 1.0

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.class_weights = inverse_counts(self._train.labels)
        self.augmentation = v2.Compose(
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

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return AdamW as published."""
        return AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the published cosine from 1e-3 to 1e-6, over all epochs of the training."""
        return CosineAnnealingLR(optimizer, T_max=self._config.epochs, eta_min=1e-6)
