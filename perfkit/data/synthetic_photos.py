"""Synthetic "real" and "generated" photographs, for measuring and testing without a data set.

Both kinds show the same scenes. A real one is taken by a sensor: its noise is new in every pixel.
A generated one comes out of a decoder that doubles its size: neighbouring pixels share their noise,
and a faint grid lies over it. The noise is as strong in both, so that single pixels and averages
hardly tell them apart. They say nothing about how well a network would do on real fakes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw
from torch import Tensor

from perfkit.data import SPLITS
from perfkit.data.painting import Pixels, blurred, clouds, mix, rgb, smooth

DOUBLED_NOISE = 0.625  # share left of noise that is interpolated 2x: (3/4)^2 + (1/4)^2 an axis

# The last word of a key says what the random numbers are for.
_PHOTO, _LABELS, _SHUFFLE = range(3)


class SyntheticPhotos:
    """``count`` photographs of one split of the synthetic data set that ``seed`` names.

    ``labels`` is int64 [count] (0 real, 1 generated), one of every two in a row being generated. A
    photograph and its label depend on seed, split and index alone. With ``shuffle_labels`` the
    labels are permuted and say nothing about the photographs.
    """

    name = "synthetic photos"
    skipped: tuple[str, ...] = ()
    split = "drawn apart"

    def __init__(
        self, split: str, *, count: int, size: int, seed: int, shuffle_labels: bool = False
    ) -> None:
        self._key = (seed, SPLITS.index(split))
        self._size = size
        pairs = np.random.default_rng([*self._key, 0, _LABELS]).random((-(-count // 2), 2))
        self._generated = pairs.argsort(axis=1).ravel()[:count]
        labels = self._generated.copy()
        if shuffle_labels:
            np.random.default_rng([*self._key, 0, _SHUFFLE]).shuffle(labels)
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        """Return photograph ``index``: uint8 RGB [3, size, size]."""
        return render_photo(
            (*self._key, index, _PHOTO), generated=bool(self._generated[index]), size=self._size
        )

    def fingerprint(self) -> str:
        """Return what all photographs follow from."""
        return f"{self.name}, key {self._key}, {len(self)} photographs"


def render_photo(key: Sequence[int], *, generated: bool, size: int) -> Tensor:
    """Return a photograph of the scene that ``key`` names: uint8 [3, size, size], RGB.

    ``key`` (non-negative integers) decides everything but whether it is ``generated``. The bytes
    are the same in every process.
    """
    rng = np.random.default_rng(list(key))
    noise = rng.uniform(0.012, 0.03)  # standard deviation, of a range of 1
    grid = rng.uniform(0.006, 0.015)
    scene = _scene(rng, -(-size // 2) if generated else size)
    if generated:
        noise /= DOUBLED_NOISE
    image = scene + noise * rng.standard_normal(scene.shape, dtype=np.float32)
    if generated:
        image = _doubled(image)[:, :size, :size]
        x = np.arange(size)
        image = image * (1 + grid * np.where((x[:, None] + x) % 2, np.float32(1), np.float32(-1)))
    return torch.from_numpy(np.rint(255 * image).clip(0, 255).astype(np.uint8))


def _doubled(image: Pixels) -> Pixels:
    """Return float32 [3, n, n] interpolated to [3, 2 n, 2 n]."""
    double = (2 * image.shape[2], 2 * image.shape[1])
    channels = [Image.fromarray(c).resize(double, Image.Resampling.BILINEAR) for c in image]
    return np.stack([np.asarray(channel) for channel in channels])


def _scene(rng: Generator, size: int) -> Pixels:
    """Return far and near ground, haze and a few things in front: float32 [3, size, size], 0..1.

    Lengths are shares of the picture's side, so that a key shows the same scene at every size.
    """
    y = ((np.arange(size, dtype=np.float32) + 0.5) / size)[None, :, None]  # [1, size, 1]
    image = np.tile(_colour(rng), (1, size, size))
    mix(image, _colour(rng), smooth((y - rng.uniform(0.2, 0.7)) / rng.uniform(0.02, 0.5)))
    for _ in range(rng.integers(3, 8)):
        share = rng.uniform(0.6, 1) * _thing(rng, size)
        mix(image, _colour(rng) * (1 + rng.uniform(-0.6, 0.6) * (y - 0.5)), share)
    texture = sum(
        rng.uniform(0, depth) * clouds(rng, cells, size)
        for cells, depth in ((3, 0.12), (9, 0.09), (27, 0.06))
    )
    image *= 1 + texture
    return image.clip(0, 1)


def _thing(rng: Generator, size: int) -> Pixels:
    """Return an ellipse, a triangle or a slanted box as coverage 0..1: [size, size]."""
    # Drawn large and reduced: its edge is then as smooth as a lens would make it.
    scale = 4
    canvas = Image.new("L", (size * scale, size * scale))
    draw = ImageDraw.Draw(canvas)
    centre, across, down = rng.uniform((0, 0), (1, 1)), *rng.uniform(-0.25, 0.25, (2, 2))
    corners = [centre + across, centre + down, centre - across, centre - down]
    outline = (np.array(corners) * size * scale).ravel().tolist()
    match rng.integers(3):
        case 0:
            reach = 0.05 + np.abs(across)
            low, high = (centre - reach) * size * scale, (centre + reach) * size * scale
            draw.ellipse((*low.tolist(), *high.tolist()), fill=255)
        case 1:
            draw.polygon(outline[:6], fill=255)
        case _:
            draw.polygon(outline, fill=255)
    return blurred(canvas.reduce(scale), rng.uniform(0.001, 0.008) * size)


def _colour(rng: Generator) -> Pixels:
    return rgb(*rng.uniform(0.1, 0.9, 3))
