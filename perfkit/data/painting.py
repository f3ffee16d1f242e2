"""The brushes that synthetic pictures are painted with.

Pixel arithmetic is float32 and keeps to + - * / and sqrt, which round alike on every CPU; exp or
sin would not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.floating[Any]]  # float32


def rgb(red: float, green: float, blue: float) -> Pixels:
    """Return a colour that pictures [3, H, W] can be multiplied by: [3, 1, 1]."""
    return np.array([red, green, blue], dtype=np.float32).reshape(3, 1, 1)


def clouds(rng: Generator, cells: int, size: int) -> Pixels:
    """Return smooth noise of about unit scale, ``cells`` features across: [size, size]."""
    # The outermost cells are cut off: the filter flattens noise towards the border.
    coarse = Image.fromarray(rng.standard_normal((cells + 2, cells + 2), dtype=np.float32))
    inner = (1, 1, cells + 1, cells + 1)
    fine = coarse.resize((size, size), Image.Resampling.BICUBIC, box=inner)
    return np.asarray(fine)


def mix(image: Pixels, colour: Pixels, share: Pixels) -> None:
    """Paint ``colour`` over ``image``, in place, covering ``share`` (0..1) of it."""
    image += (colour - image) * share


def smooth(t: Pixels) -> Pixels:
    """Return the smoothstep 3 t^2 - 2 t^3 of ``t`` clipped to 0..1."""
    t = t.clip(0, 1)
    return t * t * (3 - 2 * t)


def blurred(canvas: Image.Image, radius: float) -> Pixels:
    """Return an 8-bit grey canvas as coverage 0..1, blurred by ``radius`` pixels."""
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
