"""The SMDG "fundus-pytorch" layout: ``{train,val,test}/{0,1}/*.{png,jpg}``, images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from perfkit.core.errors import PerfkitError

SUFFIXES = {".png", ".jpg", ".jpeg"}
CLASSES = ("0", "1")  # normal, glaucoma
MAX_SKIPPED_SHARE = 0.05


class SmdgFolder:
    """One split of an SMDG folder.

    ``labels`` is int64 [N] (0 normal, 1 glaucoma); ``skipped`` names the files that are not whole
    images. Raises PerfkitError for a missing folder, a class without images, and more than 5 %
    of unreadable files. The layout has no patient ids: photographs of one patient may lie in
    several splits.
    """

    def __init__(self, root: Path, split: str, *, size: int) -> None:
        self.name = f"{root.name}/{split}"
        self._size = size
        folder = root / split
        if not folder.is_dir():
            raise PerfkitError(
                f"--data {root}: has no folder {split!r}; expected "
                "{train,val,test}/{0,1}/*.png as `perfkit synthesize DIR` writes it"
            )
        files = [
            (path, int(label))
            for label in CLASSES
            for path in sorted((folder / label).glob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not files:
            raise PerfkitError(
                f"--data {root}: {split}/0 and {split}/1 hold no .png or .jpg; put the normal "
                "photographs into the first and the glaucomatous ones into the second"
            )
        damage = {path: problem for path, _ in files if (problem := damage_of(path))}
        self.skipped = tuple(f"{p.relative_to(root)}: {why}" for p, why in damage.items())
        if len(damage) > MAX_SKIPPED_SHARE * len(files):
            raise PerfkitError(
                f"--data {root}: {len(damage)} of {len(files)} files in {split} are not whole "
                f"images (at most {MAX_SKIPPED_SHARE:.0%} may be), first {self.skipped[0]}"
            )
        kept = [(path, label) for path, label in files if path not in damage]
        self._paths = [path for path, _ in kept]
        self.labels = torch.tensor([label for _, label in kept])
        for label in CLASSES:
            if int(label) not in {kept_label for _, kept_label in kept}:
                raise PerfkitError(
                    f"--data {root}: {split} has one class only, {split}/{label} holds no image; "
                    "training needs both"
                )

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Tensor:
        """Return image ``index``, resized with antialiasing: uint8 RGB [3, size, size]."""
        with Image.open(self._paths[index]) as image:
            pixels = transforms.pil_to_tensor(_rgb(image))
        size = [self._size, self._size]
        resized: Tensor = transforms.resize(pixels, size, antialias=True)
        return resized


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
