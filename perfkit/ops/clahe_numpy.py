"""CLAHE, gamma and median of uint8 NumPy arrays in one native pass, with the bytes of OpenCV 5.

For loaders that never see a tensor: imports no torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfkit.core.errors import PerfkitError
from perfkit.ops import native
from perfkit.ops.clahe_checks import (
    NAME,
    check_gamma,
    check_images,
    check_lut,
    check_parameters,
    gamma_table,
    refusal,
)
from perfkit.ops.refusals import describe

Bytes = NDArray[np.uint8]
_MOST_THREADS = 1024


def clahe_gamma_median_numpy(
    images: Bytes,
    *,
    clip_limit: float = 2.0,
    tile_grid: tuple[int, int] = (8, 8),
    gamma: float = 1.2,
    lut: Bytes | None = None,
    out: Bytes | None = None,
    threads: int = 1,
) -> Bytes:
    """Run `perfkit.ops.clahe_gamma_median` on an array, without torch and without the GIL.

    It replaces, with the same bytes, these lines of OpenCV::

        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(clip_limit, tile_grid).apply(lab[..., 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
        image = cv2.medianBlur(cv2.LUT(image, lut), 3)

    Args:
        images: uint8 [H, W, C] or [N, H, W, C], RGB (C = 3) or grey (C = 1), any strides.
        clip_limit: the highest histogram bin, in multiples of the mean bin of a tile; 0 means no
            clipping, and so does 256 or more.
        tile_grid: tiles as (columns, rows); may exceed the image.
        gamma: a byte v becomes 255 * (v / 255) ** (1 / gamma), rounded half to even. Not looked
            at when `lut` is given.
        lut: uint8 [256], used in place of the gamma table.
        out: uint8, the shape of `images`, writeable; its memory lies apart from that of the
            inputs.
        threads: how many threads to use, 1 to 1024; they live for this call only.

    Returns:
        `out`, or a new array, uint8, the shape of `images`.

    Raises:
        PerfkitError: an argument is not as described above, `threads` are more than can be started
            now, or the native module is missing.
    """
    check_images(images, np.ndarray, np.uint8, "hwc")
    clip_limit = check_parameters(clip_limit, tile_grid)
    if lut is None:
        lut = np.frombuffer(gamma_table(check_gamma(gamma)), np.uint8)
    check_lut(lut, np.ndarray, np.uint8)
    if type(threads) is not int or not 1 <= threads <= _MOST_THREADS:
        raise refusal("threads", f"an int from 1 to {_MOST_THREADS}", repr(threads))
    if out is None:
        out = np.empty(images.shape, np.uint8)
    else:
        _check_out(out, images.shape)

    columns, rows = tile_grid
    batch, result = (array if array.ndim == 4 else array[None] for array in (images, out))
    try:
        native.module().clahe_gamma_median(
            batch, np.ascontiguousarray(lut), clip_limit, columns, rows, result, threads
        )
    except RuntimeError as error:
        # What only the memory tells, such as overlap, is refused at the operator's edge.
        if str(error).startswith(f"{NAME}: `"):
            raise PerfkitError(str(error)) from None
        raise
    return out


def _check_out(out: Any, shape: tuple[int, ...]) -> None:
    expected = f"a writeable uint8 array of shape {list(shape)}"
    if not isinstance(out, np.ndarray):
        raise refusal("out", expected, type(out).__name__)
    if out.dtype != np.uint8 or out.shape != shape or not out.flags.writeable:
        suffix = "" if out.flags.writeable else ", not writeable"
        raise refusal("out", expected, describe(out) + suffix)
