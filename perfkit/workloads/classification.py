"""What the workloads that tell two classes of photographs apart have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perfkit.core.config import Preprocess, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.data.batches import repeat_minority, seeded
from perfkit.data.images import ImageSource, Photographs
from perfkit.data.stored import StoredImages
from perfkit.models.registry import ARCHITECTURES, find_architecture
from perfkit.models.weights import load_weights, normalisation_for
from perfkit.workloads.enhancement import PARAMETERS, Enhancement, normalise

NUM_CLASSES = 2
SYNTHETIC_COUNTS = {"train": 960, "val": 240, "test": 240}


class ImageClassification(ABC):
    """Model, data and loss of a workload; what is left of ``base.Workload`` is its own.

    The chain is decode -> resize -> enhance -> augment -> normalise, where ``--preprocess`` says
    who enhances: the loader (in ``collate``), the device (in ``prepare``), a stored set, or nobody.
    ``class_weights`` is float32 [2].
    """

    default_model: ClassVar[str]
    """The published one."""
    most_repeats: ClassVar[int] = 1
    """Of an image of the rarer class in an epoch."""
    preprocess_choices: ClassVar[tuple[Preprocess, ...]] = ()
    """The values of ``--preprocess``, the published one first; nobody enhances without any."""
    augmentation: Callable[[Tensor], Tensor] | None = None
    """Draws one uint8 [3, size, size] anew from torch's generator."""

    def __init__(self, config: RunConfig) -> None:
        if config.image_size is None:
            raise ValueError("a workload is made from a resolved RunConfig")
        self._config = config
        self._size = config.image_size
        self._preprocess = config.preprocess or next(iter(self.preprocess_choices), "none")
        self._enhance = Enhancement(config.ops)
        self._architecture = find_architecture(config.model or self.default_model, self._size)
        self.new_parameters: list[str] = []  # of the model made last: what its weights lack
        self.normalisation = normalisation_for(config.weights)
        self._mean = torch.tensor(self.normalisation.mean)
        self._std = torch.tensor(self.normalisation.std)
        # After all that is refused at once: a folder takes a while to read.
        self._sources: dict[str, ImageSource] = {}
        train = self._source("train")
        self._train = Photographs(train, repeat_minority(train.labels, most=self.most_repeats))
        self.class_weights = torch.ones(NUM_CLASSES)

    @classmethod
    def has_squeeze_excite(cls, config: RunConfig) -> bool:
        """Return whether the model that ``config`` names has Squeeze-and-Excitation."""
        found = ARCHITECTURES.get(config.model or cls.default_model)
        # A subclass with a model of its own has none unless it says so.
        is_own = cls.model is not ImageClassification.model
        return not is_own and found is not None and found.has_squeeze_excite

    @abstractmethod
    def read_folder(self, root: Path, split: str) -> ImageSource:
        """Return a split of the data set in a folder."""

    @abstractmethod
    def draw(self, split: str, count: int) -> ImageSource:
        """Return a split of ``count`` synthetic photographs."""

    def model(self) -> nn.Module:
        """Return a new model for two classes, started from the weights that the user names."""
        model = self._architecture.build(NUM_CLASSES, self._size, self._config.ops)
        weights = self._config.weights
        if weights is not None:
            self.new_parameters = load_weights(model, weights, self._architecture, self._size)
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

    def stored(self, split: str) -> StoredImages:
        """Return the stored set that ``--preprocess offline`` reads a split from."""
        source = self._source(split)
        assert isinstance(source, StoredImages)
        return source

    def collate(
        self, samples: Sequence[tuple[Tensor, int]], seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs and int64 [N].

        The inputs are float32 [N, 3, size, size], normalised; where the device is to ``prepare``
        them, uint8 [N, 3, size, size].
        """
        images = torch.stack([image for image, _ in samples])
        targets = torch.tensor([label for _, label in samples])
        return images if self._preprocess == "device" else self.prepare(images, seeds), targets

    def prepare(self, images: Tensor, seeds: Sequence[int] | None) -> Tensor:
        """Return float32 [N, 3, size, size], normalised, of uint8 images on any device."""
        augments = seeds is not None and self.augmentation is not None
        if self._preprocess in {"loader", "device"}:
            if not augments:
                return self._enhance.normalised(images, self._mean, self._std)
            images = self._enhance(images)
        if augments:
            pairs = zip(images, seeds or (), strict=True)
            images = torch.stack([self._augmented(image, seed) for image, seed in pairs])
        return normalise(images, self._mean, self._std)

    @property
    def implementation(self) -> str:
        """What ran the operator here, or made the stored set; empty where nothing did."""
        return self.stored("train").made_by if self._preprocess == "offline" else self._enhance.ran

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-entropy and the weight of its class for each sample."""
        weights = self.class_weights.to(outputs.device, outputs.dtype)
        return F.cross_entropy(outputs, targets, reduction="none"), weights[targets]

    def _augmented(self, image: Tensor, seed: int) -> Tensor:
        assert self.augmentation is not None
        with seeded(seed):
            return self.augmentation(image)

    def _source(self, split: str) -> ImageSource:
        if split not in self._sources:
            source = self._read(split)
            if self._preprocess == "offline":
                source = self._as_stored(source)
            self._sources[split] = source
        return self._sources[split]

    def _read(self, split: str) -> ImageSource:
        root = self._config.data
        if root is None:
            return self.draw(split, SYNTHETIC_COUNTS[split])
        if not root.is_dir():
            raise PerfkitError(f"--data {root}: is not a folder; name that of the data set")
        return self.read_folder(root, split)

    def _as_stored(self, source: ImageSource) -> StoredImages:
        facts = {
            "workload": self._config.workload,
            "operator": PARAMETERS,
            "ops": self._config.ops,
        }
        root = self._config.runs / "preprocessed"
        return StoredImages(source, self._enhance, root, facts, size=self._size)


def inverse_counts(labels: Tensor) -> Tensor:
    """Return class weights: inverse counts of int64 [N] ``labels``, normalised to sum 1."""
    inverse = 1 / torch.bincount(labels).float()
    return inverse / inverse.sum()
