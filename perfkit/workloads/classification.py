"""What the workloads that tell two classes of photographs apart have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.data.batches import repeat_minority
from perfkit.data.images import ImageSource, Photographs
from perfkit.models.registry import find_architecture
from perfkit.models.weights import load_weights, normalisation_for

NUM_CLASSES = 2
SYNTHETIC_COUNTS = {"train": 960, "val": 240, "test": 240}


class ImageClassification(ABC):
    """Model, data and loss of a workload; what is left of ``base.Workload`` is its own.

    The chain is decode -> resize -> ``prepare`` -> normalise; ``class_weights`` is float32 [2].
    """

    default_model: ClassVar[str]
    """The published one."""
    most_repeats: ClassVar[int] = 1
    """Of an image of the rarer class in an epoch."""

    def __init__(self, config: RunConfig) -> None:
        if config.image_size is None:
            raise ValueError("a workload is made from a resolved RunConfig")
        self._config = config
        self._size = config.image_size
        self._architecture = find_architecture(config.model or self.default_model, self._size)
        self.normalisation = normalisation_for(config.weights)
        self._mean = torch.tensor(self.normalisation.mean)[:, None, None]
        self._std = torch.tensor(self.normalisation.std)[:, None, None]
        # After all that is refused at once: a folder takes a while to read.
        train = self._source("train")
        self._train = Photographs(train, repeat_minority(train.labels, most=self.most_repeats))
        self.class_weights = torch.ones(NUM_CLASSES)

    @abstractmethod
    def read_folder(self, root: Path, split: str) -> ImageSource:
        """Return a split of the data set in a folder."""

    @abstractmethod
    def draw(self, split: str, count: int) -> ImageSource:
        """Return a split of ``count`` synthetic photographs."""

    def prepare(self, images: Tensor, seeds: Sequence[int] | None) -> Tensor:
        """Return uint8 [N, 3, size, size] as it is to be normalised; ``seeds`` as for collate."""
        return images

    def model(self) -> nn.Module:
        """Return a new model for two classes, started from the weights that the user names."""
        model = self._architecture.build(NUM_CLASSES, self._size)
        if self._config.weights is not None:
            load_weights(model, self._config.weights, self._architecture, self._size)
        return model

    def stages(self, model: nn.Module) -> list[nn.Module]:
        """Return the model cut into modules that are called one after the other."""
        return self._architecture.stages(model)

    def dataset(self, split: str) -> Photographs:
        """Return the photographs of a split; in "train" those of a rarer class may be repeated."""
        if split == "train":
            return self._train
        source = self._source(split)
        return Photographs(source, torch.arange(len(source)))

    def collate(
        self, samples: Sequence[tuple[Tensor, int]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Return float32 [N, 3, size, size], normalised, and int64 [N]."""
        images = self.prepare(torch.stack([image for image, _ in samples]), seeds)
        inputs = (images.float() / 255 - self._mean) / self._std
        return inputs, torch.tensor([label for _, label in samples])

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-entropy and the weight of its class for each sample."""
        weights = self.class_weights.to(outputs.device, outputs.dtype)
        return F.cross_entropy(outputs, targets, reduction="none"), weights[targets]

    def _source(self, split: str) -> ImageSource:
        root = self._config.data
        if root is None:
            return self.draw(split, SYNTHETIC_COUNTS[split])
        if not root.is_dir():
            raise PerfkitError(f"--data {root}: is not a folder; name that of the data set")
        return self.read_folder(root, split)


def inverse_counts(labels: Tensor) -> Tensor:
    """Return class weights: inverse counts of int64 [N] ``labels``, normalised to sum 1."""
    inverse = 1 / torch.bincount(labels).float()
    return inverse / inverse.sum()
