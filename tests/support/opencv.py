"""OpenCV's own CLAHE-gamma-median, and images to hold ours against it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np


def numpy_gamma(gamma: float) -> np.ndarray:
    return np.rint(255 * (np.arange(256) / 255) ** (1 / gamma)).astype(np.uint8)


def opencv_chain(
    images: np.ndarray, clip_limit: float, tile_grid: tuple[int, int], lut: np.ndarray
) -> np.ndarray:
    """Run OpenCV's chain on [H, W, C], or on each of [N, H, W, C]."""
    if images.ndim == 4:
        results = [opencv_chain(image, clip_limit, tile_grid, lut) for image in images]
        return np.stack(results) if results else images.copy()
    clahe = cv2.createCLAHE(clip_limit, tile_grid)
    if images.shape[-1] == 3:
        lab = cv2.cvtColor(np.ascontiguousarray(images), cv2.COLOR_RGB2LAB)
        lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
        equalised = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    else:
        equalised = clahe.apply(np.ascontiguousarray(images[..., 0]))
    return cv2.medianBlur(cv2.LUT(equalised, lut), 3).reshape(images.shape)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def scene(rng: np.random.Generator, height: int, width: int, channels: int) -> np.ndarray:
    """Draw an image of one of five kinds, from noise to smooth to two-valued."""
    shape = (height, width, channels)
    kind = rng.integers(5)
    if kind == 0:
        return rng.integers(0, 256, shape, np.uint8)
    if kind == 1:
        return rng.choice(rng.integers(0, 256, 2).astype(np.uint8), shape)
    if kind == 2:
        return np.full(shape, rng.integers(0, 256, channels), np.uint8)
    if kind == 3:
        bell = rng.normal(rng.uniform(0, 255), rng.uniform(1, 30), shape)
        return np.clip(bell, 0, 255).astype(np.uint8)
    small = rng.integers(0, 256, (3, 3, channels), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(shape)


class Case(NamedTuple):
    """A batch of images and the parameters of the operator."""

    images: np.ndarray
    clip_limit: float
    tile_grid: tuple[int, int]
    lut: np.ndarray

    def expected(self) -> np.ndarray:
        return opencv_chain(self.images, self.clip_limit, self.tile_grid, self.lut)

    def __str__(self) -> str:
        return f"{list(self.images.shape)}, clip {self.clip_limit}, grid {self.tile_grid}"


def random_case(seed: int, index: int, most_px: int) -> Case:
    """Draw one image, or now and then a few, of up to `most_px` pixels a side, and parameters."""
    rng = np.random.default_rng((seed, index))
    height, width = (int(side) for side in rng.integers(1, most_px + 1, 2))
    if rng.random() < 0.1:
        height = int(rng.integers(1, 4))
    if rng.random() < 0.1:
        width = int(rng.integers(1, 4))
    channels = 3 if rng.random() < 0.7 else 1
    count = 1 if rng.random() < 0.9 else int(rng.integers(2, 5))
    # Mostly tiles of some size, now and then more of them than pixels.
    most_tiles = 2 * most_px if rng.random() < 0.1 else 20
    columns, rows = (int(tiles) for tiles in rng.integers(1, most_tiles + 1, 2))
    clip_limit = float(rng.choice([0, 0.01, 1, 2, 40, 256, 1e6, *rng.uniform(0, 8, 5)]))
    gamma = float(np.exp(rng.uniform(-2, 2)))
    lut = numpy_gamma(gamma) if rng.random() < 0.7 else rng.integers(0, 256, 256, np.uint8)
    images = np.stack([scene(rng, height, width, channels) for _ in range(count)])
    return Case(images, clip_limit, (columns, rows), lut)


PHOTO_SETS = ("smdg-fundus", "ai-vs-human", "rsna-pneumonia", "cifar-10")


def photos(folder: Path) -> Iterator[np.ndarray]:
    """Yield every photo of a set of PHOTO_SETS: uint8 [H, W, 3] RGB, [H, W, 1] for X-rays.

    The many small ones of CIFAR come as batches [N, H, W, 3].
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix in (".jpg", ".png"):
            yield cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        elif path.suffix == ".dcm":
            # JPEG Baseline in DICOM is a JPEG file within the file.
            data = path.read_bytes()
            jpeg = np.frombuffer(data[data.index(b"\xff\xd8\xff") :], np.uint8)
            yield cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)[..., None]
        elif "batch" in path.name and not path.suffix:
            with path.open("rb") as file:
                contents = _OldNumpy(file, encoding="bytes").load()
            if b"data" in contents:
                yield contents[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


class _OldNumpy(pickle.Unpickler):
    """Reads arrays, and nothing else, under the name that NumPy 1 gave its core."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ("_reconstruct", "ndarray", "dtype", "encode"):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
