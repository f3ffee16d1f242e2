"""CLAHE on the lightness, gamma and a 3x3 median of 8-bit image batches, as OpenCV 5 computes it.

Reference of the native operator, and usable as it stands in a data loader. The bytes are those of
OpenCV 5 on x86-64, whose CLAHE multiplies and adds float32 without contraction (its aarch64 builds
fuse the two and differ by 1 in places). Run it eagerly: a compiler that fuses a multiplication and
an addition changes bytes.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from perfkit.ops.clahe_checks import (
    BINS,
    check_gamma,
    check_images,
    check_lut,
    check_parameters,
    gamma_table,
    refusal,
)
from perfkit.ops.reference.lab import lab_to_rgb, lookup, rgb_to_lab


def clahe_gamma_median(
    images: Tensor,
    *,
    clip_limit: float = 2.0,
    tile_grid: tuple[int, int] = (8, 8),
    gamma: float = 1.2,
    lut: Tensor | None = None,
    layout: str = "hwc",
) -> Tensor:
    """Equalise contrast tile by tile, apply a gamma table, and take the 3x3 median.

    Three channels are RGB: CLAHE runs on L of the 8-bit L*a*b* image, which goes back to RGB
    before the table and the median of each channel. One channel goes through CLAHE, table and
    median as it is. Every image is treated alone: a batch gives the bytes of its single images.

    CLAHE: Zuiderveld, Contrast Limited Adaptive Histogram Equalization, Graphics Gems IV (1994),
    in the form of opencv/opencv modules/imgproc/src/clahe.cpp. Where the grid does not divide the
    image, both sides are extended by reflection for the histograms. The median's border repeats
    the edge pixels.

    Args:
        images: uint8 [H, W, C] or [N, H, W, C] (layout "hwc"), [C, H, W] or [N, C, H, W]
            (layout "chw"); C is 3 or 1, H and W are at least 1, N may be 0, any strides, any
            device.
        clip_limit: the highest histogram bin, in multiples of the mean bin of a tile; 0 means no
            clipping, and so does 256 or more (where OpenCV's limit leaves the range of int32, its
            result is undefined and not followed).
        tile_grid: tiles as (columns, rows); may exceed the image.
        gamma: exponent of `gamma_lut`, above 0; not looked at when `lut` is given.
        lut: uint8 [256] on any device, used in place of the gamma table.
        layout: "hwc" or "chw".

    Returns:
        uint8, the shape and device of `images`, contiguous.

    Raises:
        PerfkitError: an argument is not as described above.
    """
    height, width, _ = check_images(images, Tensor, torch.uint8, layout)
    clip_limit = check_parameters(clip_limit, tile_grid)
    _check_tile(height, width, tile_grid)
    channel_dim = 3 if layout == "hwc" else 1
    if lut is None:
        lut = gamma_lut(gamma)
    check_lut(lut, Tensor, torch.uint8)
    if images.numel() == 0:
        return torch.empty(images.shape, dtype=torch.uint8, device=images.device)

    lut = lut.to(images.device)
    batch = images if images.dim() == 4 else images.unsqueeze(0)
    planes = batch.movedim(channel_dim, 0).contiguous()
    if planes.shape[0] == 3:
        lab = rgb_to_lab(planes)
        lab[0] = _clahe(lab[0], clip_limit, tile_grid)
        planes = lab_to_rgb(lab, lut)
    else:
        planes = lookup(lut, _clahe(planes[0], clip_limit, tile_grid)).unsqueeze(0)
    result = _median_3x3(planes).movedim(0, channel_dim)
    return result.reshape(images.shape).contiguous()


def gamma_lut(gamma: float) -> Tensor:
    """Return the uint8 [256] table of out = in ** (1 / gamma) on the scale 0..1, on the CPU.

    A gamma above 1 brightens. Entry i is 255 * (i / 255) ** (1 / gamma) in float64, rounded half
    to even.

    Raises:
        PerfkitError: `gamma` is not a finite number above 0.
    """
    return torch.tensor(list(gamma_table(check_gamma(gamma))), dtype=torch.uint8, device="cpu")


def _check_tile(height: int, width: int, tile_grid: tuple[int, int]) -> None:
    """Refuse a tile with more pixels than int32 counts."""
    columns, rows = tile_grid
    # One more pixel than the quotient is the most that OpenCV's extension makes of a tile.
    if (width // columns + 1) * (height // rows + 1) >= 2**31:
        got = f"{tile_grid!r} for {width} x {height} pixels"
        raise refusal("tile_grid", "so fine that a tile has fewer than 2**31 pixels", got)


class _Axis(NamedTuple):
    """What CLAHE needs to know along one side of the image.

    Only the `tiles` that some pixel blends are kept: a grid larger than the image costs no more
    than one tile a pixel.
    """

    tiles: int
    tile_px: int
    source: Tensor  # int32 [tiles * tile_px]: the pixel that feeds each place of the tiles
    tile: Tensor  # int32 [tiles * tile_px]: the tile of each such place
    cell: Tensor  # int32 [size]: a pixel in cell c blends tiles c - 1 and c, cut to the grid
    weight: Tensor  # float32 [size]: the share of tile c


@lru_cache(maxsize=256)
def _axis(size: int, tiles: int, extend: bool, device: torch.device) -> _Axis:
    """Lay `tiles` tiles over `size` pixels, after the extension by OpenCV where `extend`."""
    # A side that the grid divides still grows by a whole `tiles` pixels when the other side does
    # not fit: OpenCV extends both or none.
    tile_px = (size + tiles - size % tiles if extend else size) // tiles
    inverse = np.float32(1) / np.float32(tile_px)
    position = np.arange(size, dtype=np.float32) * inverse - np.float32(0.5)
    low = np.floor(position)
    cell = low.astype(np.int32) + 1
    tiles = min(int(cell.max()) + 1, tiles)
    place = np.arange(tiles * tile_px, dtype=np.int32)
    period = max(2 * (size - 1), 1)
    source = np.minimum(place % period, period - place % period)
    return _Axis(
        tiles,
        tile_px,
        *(
            torch.from_numpy(array).to(device)
            for array in (source, place // tile_px, cell, position - low)
        ),
    )


def _clahe(plane: Tensor, clip_limit: float, tile_grid: tuple[int, int]) -> Tensor:
    """Equalise uint8 [N, H, W] as `cv2.createCLAHE(clip_limit, tile_grid).apply` does."""
    count, height, width = plane.shape
    columns, rows = tile_grid
    extend = bool(width % columns or height % rows)
    across = _axis(width, columns, extend, plane.device)
    down = _axis(height, rows, extend, plane.device)

    tiled = plane.index_select(1, down.source).index_select(2, across.source)
    slots = _slots(tiled, down.tile, across.tile, down.tiles, across.tiles)
    histogram = torch.bincount(
        slots.flatten(), minlength=count * down.tiles * across.tiles * BINS
    ).to(torch.int32)
    mappings = _mappings(
        histogram.view(count, down.tiles, across.tiles, BINS),
        clip_limit,
        down.tile_px * across.tile_px,
    )

    # The four mappings that meet in a cell lie side by side, so that one look-up fetches all.
    around = _repeat_edges(_repeat_edges(mappings, 1), 2)
    top, bottom = around[:, :-1], around[:, 1:]
    corners = torch.stack(
        (top[:, :, :-1], top[:, :, 1:], bottom[:, :, :-1], bottom[:, :, 1:]), dim=-1
    ).view(torch.int32)
    slots = _slots(plane, down.cell, across.cell, down.tiles + 1, across.tiles + 1)
    blended = lookup(corners.flatten(), slots).unsqueeze(-1).view(torch.uint8)

    # float32, each product and each sum rounded by itself, in OpenCV's order.
    top_left, top_right, bottom_left, bottom_right = (v.float() for v in blended.unbind(-1))
    right, lower = across.weight, down.weight[:, None]
    left, upper = 1 - right, 1 - lower
    upper_sum = top_left.mul_(left).add_(top_right.mul_(right)).mul_(upper)
    lower_sum = bottom_left.mul_(left).add_(bottom_right.mul_(right)).mul_(lower)
    return upper_sum.add_(lower_sum).round_().to(torch.uint8)


def _slots(values: Tensor, row: Tensor, column: Tensor, rows: int, columns: int) -> Tensor:
    """Return the flat index of each value in a [N, rows, columns, 256] array.

    Args:
        values: uint8 [N, H, W].
        row: int32 [H].
        column: int32 [W].
        rows: size of the array's second dimension.
        columns: size of its third.

    Returns:
        [N, H, W], int32 where that is wide enough, else int64.
    """
    count = values.shape[0]
    dtype = torch.int32 if count * rows * columns * BINS < 2**31 else torch.int64
    image = torch.arange(count, dtype=dtype, device=values.device)[:, None, None]
    start = (image * rows + row[:, None]) * (columns * BINS)
    return (start + column.to(dtype) * BINS).add_(values)


def _mappings(histogram: Tensor, clip_limit: float, tile_area: int) -> Tensor:
    """Clip int32 histograms [..., 256] of `tile_area` pixels; return their uint8 mappings."""
    if clip_limit > 0:
        # 256 mean bins are the whole tile: a higher limit changes nothing but may overflow.
        limit = max(1, int(min(clip_limit, 256.0) * tile_area / BINS))
        excess = (histogram - limit).clamp_(min=0).sum(-1, dtype=torch.int32)
        histogram = histogram.clamp(max=limit)
        histogram += (excess >> 8).unsqueeze(-1)
        rest = _rest_table(histogram.device).index_select(0, (excess & 255).flatten())
        histogram += rest.view(histogram.shape)
    scale = float(np.float32(BINS - 1) / np.float32(tile_area))
    cumulative = histogram.cumsum(-1, dtype=torch.int32).float()
    return cumulative.mul_(scale).round_().to(torch.uint8)


@cache
def _rest_table(device: torch.device) -> Tensor:
    """Return int32 [256, 256]: the bins that get one more where r = 0..255 pixels are left over.

    They are the first r of 0, step, 2 * step, ... with step = 256 / r rounded down.
    """
    rest = torch.arange(BINS, dtype=torch.int32)[:, None]
    step = BINS // rest.clamp(min=1)
    bins = torch.arange(BINS, dtype=torch.int32)
    return ((bins % step == 0) & (bins // step < rest)).to(torch.int32).to(device)


def _median_3x3(planes: Tensor) -> Tensor:
    """Return the 3x3 median of uint8 [..., H, W] with repeated edges.

    Columns of three are sorted first; the median of nine is then the median of the greatest low,
    the median middle and the least high value of three columns.
    """
    padded = _repeat_edges(_repeat_edges(planes, -1), -2)
    above, centre, below = padded[..., :-2, :], padded[..., 1:-1, :], padded[..., 2:, :]
    less, more = torch.minimum(above, centre), torch.maximum(above, centre)
    low = torch.minimum(less, below)
    middle = torch.maximum(less, torch.minimum(more, below))
    high = torch.maximum(more, below)
    return _median(
        torch.maximum(torch.maximum(low[..., :-2], low[..., 1:-1]), low[..., 2:]),
        _median(middle[..., :-2], middle[..., 1:-1], middle[..., 2:]),
        torch.minimum(torch.minimum(high[..., :-2], high[..., 1:-1]), high[..., 2:]),
    )


def _median(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def _repeat_edges(tensor: Tensor, dim: int) -> Tensor:
    """Return `tensor` with its first and last slice along `dim` repeated once."""
    size = tensor.shape[dim]
    return torch.cat((tensor.narrow(dim, 0, 1), tensor, tensor.narrow(dim, size - 1, 1)), dim)
