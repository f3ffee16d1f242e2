"""What every face of CLAHE-gamma-median checks and computes alike; imports no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from numbers import Real
from typing import Any

from perfkit.ops import refusals
from perfkit.ops.refusals import describe

NAME = "clahe_gamma_median"
refusal = partial(refusals.refusal, NAME)
BINS = 256
_INT32_MAX = 2**31 - 1
_FLOAT64_MAX = sys.float_info.max
_FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127
_FLOAT32_LEAST = 2.0**-126


def check_images(images: Any, kind: Any, uint8: object, layout: object) -> tuple[int, int, int]:
    """Refuse what is no image or batch of the array type `kind`; return its H, W and C."""
    if layout not in ("hwc", "chw"):
        raise refusal("layout", '"hwc" or "chw"', repr(layout))
    hwc = layout == "hwc"
    expected = f"a uint8 {_noun(kind)} of shape " + (
        "[H, W, C] or [N, H, W, C]" if hwc else "[C, H, W] or [N, C, H, W]"
    )
    if not isinstance(images, kind):
        raise refusal("images", expected, type(images).__name__)
    if images.dtype != uint8 or images.ndim not in (3, 4):
        raise refusal("images", expected, describe(images))
    shape = images.shape
    channels = shape[-1] if hwc else shape[-3]
    height, width = shape[-3:-1] if hwc else shape[-2:]
    if channels not in (1, 3) or height == 0 or width == 0:
        wanted = f'{expected} with C = 1 or 3 and H, W >= 1 for layout "{layout}"'
        raise refusal("images", wanted, describe(images))
    return height, width, channels


def check_parameters(clip_limit: object, tile_grid: object) -> float:
    """Refuse a clip limit that is negative or not finite, and a grid that is none; return it."""
    limit = _number(clip_limit)
    if not 0 <= limit <= _FLOAT64_MAX:
        raise refusal("clip_limit", "a finite number, 0 (no clipping) or more", repr(clip_limit))
    counts = tile_grid if isinstance(tile_grid, tuple | list) else ()
    if len(counts) != 2 or not all(
        type(count) is int and 1 <= count <= _INT32_MAX for count in counts
    ):
        expected = "two positive ints (columns, rows) below 2**31"
        raise refusal("tile_grid", expected, repr(tile_grid))
    return limit


def check_lut(lut: Any, kind: Any, uint8: object) -> None:
    """Refuse what is no table of 256 bytes of the array type `kind`."""
    expected = f"a uint8 {_noun(kind)} of shape [256]"
    if not isinstance(lut, kind):
        raise refusal("lut", expected, type(lut).__name__)
    if lut.dtype != uint8 or tuple(lut.shape) != (BINS,):
        raise refusal("lut", expected, describe(lut))


def check_normalisation(
    mean: object, std: object, channels: int
) -> tuple[list[float], list[float]]:
    """Refuse what is no mean or deviation of each channel, as float32 holds it; return both."""
    return (
        _check_numbers("mean", mean, channels, -_FLOAT32_MAX, ""),
        _check_numbers("std", std, channels, _FLOAT32_LEAST, " of 2**-126 (1.2e-38) or more"),
    )


def _check_numbers(name: str, numbers: Any, channels: int, least: float, bound: str) -> list[float]:
    listed = numbers.tolist() if hasattr(numbers, "tolist") else numbers
    if isinstance(listed, Sequence) and not isinstance(listed, bytes | bytearray):
        values = [_number(number) for number in listed]
        if len(values) == channels and all(least <= value <= _FLOAT32_MAX for value in values):
            return values
    expected = f"{channels} finite float32 number{'s' * (channels > 1)}{bound}, one a channel"
    raise refusal(name, expected, _one_line(numbers))


def check_gamma(gamma: object) -> float:
    """Refuse what is no exponent; return it."""
    exponent = _number(gamma)
    if not 0 < exponent <= _FLOAT64_MAX:
        raise refusal("gamma", "a finite number above 0", repr(gamma))
    return exponent


@lru_cache(maxsize=256)
def gamma_table(gamma: float) -> bytes:
    """Return the 256 bytes of out = in ** (1 / gamma) on the scale 0..1.

    Entry i is 255 * (i / 255) ** (1 / gamma) in float64, rounded half to even.
    """
    return bytes(round(255 * (i / 255) ** (1 / gamma)) for i in range(BINS))


def _noun(kind: Any) -> str:
    return "array" if kind.__name__ == "ndarray" else "tensor"


def _number(value: object) -> float:
    """Return a real number as a float; nan, which fails every comparison, for anything else."""
    # torch.compile follows this for a symbolic number too.
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _one_line(value: object) -> str:
    return " ".join(repr(value).split())
