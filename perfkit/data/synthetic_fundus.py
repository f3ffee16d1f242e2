"""Synthetic colour fundus photographs, for measuring and testing where no real ones are at hand.

They have the framing, the palette and the large structures of real ones (disc, cup, macula, vessel
arcades, stray light), and one thing to learn: how wide the optic cup is for its disc, the sign of
glaucoma that graders use. They say nothing about how well a network would do on patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from perfkit.core.errors import PerfkitError
from perfkit.data import SPLITS
from perfkit.data.fundus_renderer import render_fundus

__all__ = ["SPLITS", "SyntheticFundus", "render_fundus", "write_smdg"]

GLAUCOMA_RATIO = 0.6  # a cup wider than this share of its disc is labelled glaucoma
NORMAL_RATIOS = (0.25, 0.50)
GLAUCOMA_RATIOS = (0.70, 0.90)
GLAUCOMA_PER_BLOCK, BLOCK = 2, 5  # two eyes in every five, so that small sets hold both classes

# The last word of a key says what the random numbers are for.
_PHOTO, _RATIOS, _SHUFFLE = range(3)


class SyntheticFundus:
    """``count`` photographs of one split of the synthetic data set that ``seed`` names.

    ``labels`` is int64 [count] (0 normal, 1 glaucoma), two in five being glaucoma; ``skipped`` is
    empty, as no file is read. A photograph and its label depend on seed, split and index alone.
    With ``shuffle_labels`` the labels are permuted and say nothing about the photographs: what
    still beats chance on a second split shuffled like this one has looked at the answers.
    """

    name = "synthetic fundus"
    skipped: tuple[str, ...] = ()
    split = "drawn apart"

    def __init__(
        self, split: str, *, count: int, size: int, seed: int, shuffle_labels: bool = False
    ) -> None:
        self._key = (seed, SPLITS.index(split))
        self._size = size
        self.cup_to_disc_ratios = _draw_ratios(self._key, count)  # float64 [count]
        glaucoma = self.cup_to_disc_ratios > GLAUCOMA_RATIO
        if shuffle_labels:
            np.random.default_rng([*self._key, 0, _SHUFFLE]).shuffle(glaucoma)
        self.labels = torch.from_numpy(glaucoma.astype(np.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        """Return photograph ``index``: uint8 RGB [3, size, size]."""
        return render_fundus(
            (*self._key, index, _PHOTO),
            cup_to_disc_ratio=float(self.cup_to_disc_ratios[index]),
            size=self._size,
        )

    def fingerprint(self) -> str:
        """Return what all photographs follow from."""
        return f"{self.name}, key {self._key}, {len(self)} photographs"


def _draw_ratios(key: tuple[int, int], count: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng([*key, 0, _RATIOS])
    blocks = -(-count // BLOCK)
    draws = rng.random((blocks, BLOCK, 2))
    glaucoma = draws[..., 0].argsort(axis=1) < GLAUCOMA_PER_BLOCK
    wide, narrow = (
        np.interp(draws[..., 1], (0, 1), ratios) for ratios in (GLAUCOMA_RATIOS, NORMAL_RATIOS)
    )
    return np.where(glaucoma, wide, narrow).ravel()[:count]


def write_smdg(folder: Path, counts: Mapping[str, int], *, size: int, seed: int) -> None:
    """Write ``counts`` photographs a split as ``folder/{train,val,test}/{0,1}/*.png``.

    Raises PerfkitError where ``folder`` holds anything already or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise PerfkitError(f"{folder}: is not empty; name a new or empty folder")
        for split, count in counts.items():
            for label in ("0", "1"):
                (folder / split / label).mkdir(parents=True)
            photos = SyntheticFundus(split, count=count, size=size, seed=seed)
            for index, label in enumerate(photos.labels.tolist()):
                pixels = photos.read(index).permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(folder / split / str(label) / f"{index:05d}.png")
    except OSError as error:
        reason = error.strerror or str(error)
        raise PerfkitError(f"{folder}: cannot be written ({reason}); name another folder") from None
