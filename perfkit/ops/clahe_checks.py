"""What every face of CLAHE-gamma-median checks and computes alike; imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeGuard

from perfkit.core.errors import PerfkitError

NAME = "clahe_gamma_median"
BINS = 256
_INT32_MAX = 2**31 - 1
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


def check_parameters(clip_limit: object, tile_grid: object) -> None:
    """Refuse a clip limit that is negative or not finite, and a grid that is no grid."""
    if not _is_finite(clip_limit) or clip_limit < 0:
        raise refusal("clip_limit", "a finite number, 0 (no clipping) or more", repr(clip_limit))
    counts = tile_grid if isinstance(tile_grid, tuple | list) else ()
    if len(counts) != 2 or not all(
        type(count) is int and 1 <= count <= _INT32_MAX for count in counts
    ):
        expected = "two positive ints (columns, rows) below 2**31"
        raise refusal("tile_grid", expected, repr(tile_grid))


def check_lut(lut: Any, kind: Any, uint8: object) -> None:
    """Refuse what is no table of 256 bytes of the array type `kind`."""
    expected = f"a uint8 {_noun(kind)} of shape [256]"
    if not isinstance(lut, kind):
        raise refusal("lut", expected, type(lut).__name__)
    if lut.dtype != uint8 or tuple(lut.shape) != (BINS,):
        raise refusal("lut", expected, describe(lut))


def check_normalisation(mean: object, std: object, channels: int) -> None:
    """Refuse what is no mean or deviation of each channel, as float32 holds it."""
    for name, numbers, least in (("mean", mean, -_FLOAT32_MAX), ("std", std, _FLOAT32_LEAST)):
        if (
            not isinstance(numbers, Sequence)
            or len(numbers) != channels
            or not all(
                isinstance(number, int | float) and least <= number <= _FLOAT32_MAX
                for number in numbers
            )
        ):
            bound = " above 0" if name == "std" else ""
            expected = f"{channels} finite float32 number{'s' * (channels > 1)}{bound}"
            raise refusal(name, f"{expected}, one a channel", repr(numbers))


def check_gamma(gamma: object) -> None:
    """Refuse what is no exponent."""
    if not _is_finite(gamma) or gamma <= 0:
        raise refusal("gamma", "a finite number above 0", repr(gamma))


@lru_cache(maxsize=256)
def gamma_table(gamma: float) -> bytes:
    """Return the 256 bytes of out = in ** (1 / gamma) on the scale 0..1.

    Entry i is 255 * (i / 255) ** (1 / gamma) in float64, rounded half to even.
    """
    return bytes(round(255 * (i / 255) ** (1 / gamma)) for i in range(BINS))


def refusal(argument: str, expected: str, got: str) -> PerfkitError:
    """Return the error that refuses an argument."""
    return PerfkitError(f"{NAME}: `{argument}` must be {expected}, got {got}")


def describe(array: Any) -> str:
    """Return dtype and shape of a tensor or an array."""
    return f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"


def _noun(kind: Any) -> str:
    return "array" if kind.__name__ == "ndarray" else "tensor"


def _is_finite(value: object) -> TypeGuard[float]:
    # By comparison, which nan fails, and which torch.compile follows for a symbolic number too.
    return isinstance(value, int | float) and -sys.float_info.max <= value <= sys.float_info.max
