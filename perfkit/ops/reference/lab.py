"""8-bit RGB to CIE L*a*b* and back in integer arithmetic, with the bytes of OpenCV 5.

The formulas, fixed-point scales and roundings are those of RGB2Lab_b and Lab2RGBinteger in
opencv/opencv, modules/imgproc/src/color_lab.cpp: sRGB primaries and transfer curve, D65 white, L
scaled to 0..255, a and b offset by 128.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

# Linear light is in 1/2040 (255 * 8); a row sums to 4096, so the sum shifted by 12 stays <= 2040.
_XYZ_FROM_RGB = ((1777, 1541, 778), (871, 2929, 296), (73, 448, 3575))
_RGB_FROM_XYZ = ((12615, -6296, -2223), (-3773, 7684, 185), (217, -836, 4715))
# OpenCV builds its cube roots in its own float32 arithmetic; these two entries are the only ones
# of 2041 that differ from the table built in float64.
_FLOAT32_CUBE_ROOTS = {49: 9454, 628: 22126}
_BASE = 1 << 14


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Return `table[index]` in the shape of `index` and the dtype of `table`.

    Args:
        table: [entries], any dtype.
        index: any shape, uint8, int32 or int64, on the table's device.
    """
    # index_select takes int32 as it is; indexing by [] would first widen every index to int64.
    flat = index.reshape(-1)
    if flat.dtype == torch.uint8:
        flat = flat.to(torch.int32)
    return table.index_select(0, flat).view(index.shape)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert RGB planes to L, a, b planes, as `cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)` does.

    Args:
        rgb: uint8 [3, ...].

    Returns:
        uint8, the shape and device of `rgb`.
    """
    linear, cube_root = _forward_tables(rgb.device)
    red, green, blue = (lookup(linear, plane) for plane in rgb)
    fx, fy, fz = (
        lookup(cube_root, (red * c0 + green * c1 + blue * c2 + 2048) >> 12)
        for c0, c1, c2 in _XYZ_FROM_RGB
    )
    half = 1 << 14
    lab = torch.empty_like(rgb, memory_format=torch.contiguous_format)
    lab[0] = ((fy * 296 + (half - 1336934)) >> 15).clamp_(0, 255)
    lab[1] = (((fx - fy) * 500 + (half + (128 << 15))) >> 15).clamp_(0, 255)
    lab[2] = (((fy - fz) * 200 + (half + (128 << 15))) >> 15).clamp_(0, 255)
    return lab


def lab_to_rgb(lab: Tensor, lut: Tensor | None = None) -> Tensor:
    """Convert L, a, b planes to RGB planes, as `cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)` does.

    Args:
        lab: uint8 [3, ...]; every triple is allowed, also those that no RGB colour maps to.
        lut: optional uint8 [256] on the device of `lab`, applied to the result at no extra cost.

    Returns:
        uint8, the shape and device of `lab`.
    """
    y_of_l, x_of_la, z_of_lb, encode = _inverse_tables(lab.device)
    if lut is not None:
        encode = lookup(lut, encode)
    lightness = lab[0].to(torch.int32)
    y = lookup(y_of_l, lightness)
    row = lightness << 8
    x = lookup(x_of_la, row + lab[1])
    z = lookup(z_of_lb, row + lab[2])
    rgb = torch.empty_like(lab, memory_format=torch.contiguous_format)
    for plane, (c0, c1, c2) in zip(rgb, _RGB_FROM_XYZ, strict=True):
        linear = (x * c0 + y * c1 + z * c2 + 8192) >> 14
        plane.copy_(lookup(encode, linear.clamp_(0, 4095)))
    return rgb


@cache
def _forward_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return sRGB byte -> linear light * 2040, and its cube-root function * 32768, both int32."""
    linear = [round(2040 * _srgb_to_linear(i / 255)) for i in range(256)]
    roots = [round(32768 * _lab_f(i / 2040)) for i in range(2041)]
    for index, value in _FLOAT32_CUBE_ROOTS.items():
        roots[index] = value
    return (
        torch.tensor(linear, dtype=torch.int32, device=device),
        torch.tensor(roots, dtype=torch.int32, device=device),
    )


@cache
def _inverse_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return L -> Y, (L, a) -> X, (L, b) -> Z (int32, unit 1/16384), linear/4096 -> sRGB (uint8).

    X depends on L and a alone, and Z on L and b alone: a table over each pair takes the place of
    the per-pixel division.
    """
    pairs = [_y_and_fy(lightness) for lightness in range(256)]
    y = torch.tensor([pair[0] for pair in pairs], dtype=torch.int32)
    fy = torch.tensor([pair[1] for pair in pairs], dtype=torch.int32)[:, None]
    chroma = torch.arange(256, dtype=torch.int32)
    x = _inverse_lab_f(fy + ((5 * chroma * 53687 + 128) >> 13) - 4194)
    z = _inverse_lab_f(fy - (((chroma * 41943 + 16) >> 9) - 10485 + 1))
    encode = torch.tensor(
        [round(255 * _linear_to_srgb(i / 4096)) for i in range(4096)], dtype=torch.uint8
    )
    return y.to(device), x.flatten().to(device), z.flatten().to(device), encode.to(device)


def _srgb_to_linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def _linear_to_srgb(value: float) -> float:
    return value * 12.92 if value <= 0.0031308 else float(1.055 * value ** (1 / 2.4) - 0.055)


def _lab_f(t: float) -> float:
    """CIE 15: the cube root, and its tangent line near black."""
    return t * 841 / 108 + 16 / 116 if t < 216 / 24389 else math.cbrt(t)


def _y_and_fy(lightness: int) -> tuple[int, int]:
    """Return Y and f(Y), both times 16384, of L in 0..255 (L* = L * 100 / 255)."""
    if lightness <= 20:
        y = Fraction(lightness * _BASE * 180, 17 * 29**3)
        return round(y), round(_BASE * (Fraction(16, 116) + Fraction(5 * lightness, 3 * 17 * 29)))
    fy = Fraction(lightness * 100 * _BASE, 255 * 116) + Fraction(16 * _BASE, 116)
    return round(fy**3 / _BASE**2), round(fy)


def _inverse_lab_f(f: Tensor) -> Tensor:
    """Invert `_lab_f` for int32 values times 16384; the cube fits int32 for every reachable f."""
    line = torch.div(f * 108, 841, rounding_mode="trunc") - 290
    return torch.where(f <= 3390, line, ((f * f >> 14) * f) >> 14)
