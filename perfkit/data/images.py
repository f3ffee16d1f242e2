"""Labelled images: what every source of them offers, and those that are files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from perfkit.core.errors import PerfkitError

CLASSES = (0, 1)
MAX_SKIPPED_SHARE = 0.05


class ImageSource(Protocol):
    """Labelled images of one split: files, or drawn on the fly."""

    name: str
    labels: Tensor
    """int64 [N]."""
    skipped: tuple[str, ...]
    """Files that are not whole images, and why."""
    split: str
    """How the splits were made."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """Return uint8 RGB [3, size, size]."""

    def fingerprint(self) -> str:
        """Return what the pixels that ``read`` decodes or draws follow from, size apart."""


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


class ImageFiles:
    """The image files of one split of the data set in ``root``, each with its label (0 or 1).

    ``labels`` is int64 [N]; ``skipped`` names the files that are not whole images; ``how`` says how
    the splits were made. Raises PerfkitError for more than 5 % of files that are not whole, and for
    a class without images.
    """

    def __init__(
        self, root: Path, split: str, files: Sequence[tuple[Path, int]], *, size: int, how: str
    ) -> None:
        self.name = f"{root.resolve().name}/{split}"
        self.split = how
        self._size = size
        with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock to the others
            problems = list(pool.map(damage_of, [path for path, _ in files]))
        checked = list(zip(files, problems, strict=True))
        self.skipped = tuple(
            f"{path.relative_to(root)}: {why}" for (path, _), why in checked if why
        )
        if len(self.skipped) > MAX_SKIPPED_SHARE * len(files):
            raise PerfkitError(
                f"--data {root}: {len(self.skipped)} of {len(files)} files in {split} are not "
                f"whole images (at most {MAX_SKIPPED_SHARE:.0%} may be), first {self.skipped[0]}"
            )
        kept = [file for file, why in checked if why is None]
        self._paths = [path for path, _ in kept]
        self.labels = torch.tensor([label for _, label in kept])
        for label in CLASSES:
            if not (self.labels == label).any():
                raise PerfkitError(
                    f"--data {root}: {split} has one class only, no image of it has label {label}; "
                    "training needs both"
                )

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Tensor:
        """Return image ``index``, resized with antialiasing: uint8 RGB [3, size, size].

        Raises PerfkitError for what looked whole and is not, or has gone since.
        """
        try:
            with Image.open(self._paths[index]) as image:
                pixels = transforms.pil_to_tensor(_rgb(image))
        except (OSError, SyntaxError, ValueError) as error:
            raise PerfkitError(
                f"{self._paths[index]}: cannot be decoded ({error}); take it out of the data set"
            ) from None
        size = [self._size, self._size]
        resized: Tensor = transforms.resize(pixels, size, antialias=True)
        return resized

    def fingerprint(self) -> str:
        """Return a hash of the contents of all files in order, whatever their names and dates."""
        with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock to the others
            contents = list(pool.map(_hash_of, self._paths))
        return hashlib.blake2b(b"".join(contents), digest_size=16).hexdigest()


def _hash_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError as error:
        raise PerfkitError(
            f"{path}: cannot be read ({error.strerror}); take it out of the data set"
        ) from None


def _rgb(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit RGB, without its transparency."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # Pillow warns of a palette whose transparency is lost at once
        image = image.convert("RGBA")
    return image.convert("RGB")


def damage_of(path: Path) -> str | None:
    """Return what is wrong with an image file, or None where it is whole.

    A PNG tells by its chunk check sums without being decoded; a JPEG only by being decoded,
    which is cheap at an eighth of its size.
    """
    try:
        with Image.open(path) as image:
            if image.format == "PNG":
                image.verify()
            else:
                image.draft("L", (1, 1))
                image.load()
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"damaged ({error})"
    return None
