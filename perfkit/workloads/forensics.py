"""Real against AI-generated photographs, with ResNet18 or a model that ``--model`` names.

The published systems resize and normalise, augment nothing, clip no gradient and keep the learning
rate: Adam at 1e-4 for ResNet18, AdamW at 5e-5 for ViT-B/16. Their weight decay is not told; here it
is torch's default, 0 and 0.01. They start from pretrained weights, which ``--weights`` names here.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from perfkit.data.csv_folder import CsvFolder
from perfkit.data.images import ImageSource
from perfkit.data.synthetic_photos import SyntheticPhotos
from perfkit.workloads.classification import ImageClassification


class Forensics(ImageClassification):
    """The workload; see ``perfkit.workloads.base.Workload`` for what its members promise."""

    default_model = "resnet18"
    preprocess_choices = ("none", "loader", "device", "offline")

    def read_folder(self, root: Path, split: str) -> ImageSource:
        """Return a split of a folder with a ``train.csv``."""
        return CsvFolder(root, split, size=self._size, seed=self._config.seed)

    def draw(self, split: str, count: int) -> ImageSource:
        """Return synthetic photographs."""
        return SyntheticPhotos(split, count=count, size=self._size, seed=self._config.seed)

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return AdamW for ViT-B/16 and Adam for all others, as published."""
        if self._architecture.name in {"vit_b_16", "vit_b_16_se"}:
            return AdamW(model.parameters(), lr=5e-5)
        return Adam(model.parameters(), lr=1e-4)
