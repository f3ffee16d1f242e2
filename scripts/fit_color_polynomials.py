"""Write csrc/color/polynomials.h: two tables of color/tables.h as polynomials without any error.

A table look-up for each lane is slow on CPUs; 32 cubic polynomials fit into registers. The segment
of an argument is in the top bits of its float: three of the exponent, two of the mantissa. Linear
programming finds, for each segment, the cubic that stays farthest from the half that would round to
a wrong entry; the result is evaluated as the kernels do, over the whole table, and has to be exact.

Usage: python scripts/fit_color_polynomials.py > csrc/color/polynomials.h
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from scipy.optimize import linprog

from perfkit.ops.reference import lab

DEGREE = 3
SEGMENTS = 32
# argument = entry * scale + offset spans eight octaves at most; these leave the widest margins.
CUBE_ROOT = (1.012933507202638 / 9.45567411012276, 1.012933507202638)
ENCODE = (1.0, 16.0)

HEADER = """\
// Tables of tables.h as piecewise cubic polynomials, exact after rounding. The argument is
// z = entry * scale + offset, the segment is bits 21 to 25 of z, and the value is
// fma(fma(fma(c3, z, c2), z, c1), z, c0), all in float32. Written by
// scripts/fit_color_polynomials.py: change that, not this.
#pragma once

namespace perfkit::color {

struct Cubics {
  float scale, offset;
  float coefficients[4][32];  // of z to the power of 0, 1, 2, 3; for each segment
};
"""


def main() -> None:
    """Print the header."""
    _, cube_root = lab._forward_tables(torch.device("cpu"))
    *_, encode = lab._inverse_tables(torch.device("cpu"))
    print(HEADER)
    _print("kCubeRootCubics", CUBE_ROOT, cube_root.numpy())
    _print("kEncodeCubics", ENCODE, encode.numpy())
    print("}  // namespace perfkit::color")


def _print(name: str, line: tuple[float, float], table: NDArray[np.int64]) -> None:
    scale, offset = np.float32(line[0]), np.float32(line[1])
    z = _fma(np.arange(len(table), dtype=np.float32), scale, offset)
    segment = (z.view(np.uint32) >> 21) % SEGMENTS
    coefficients = np.zeros((DEGREE + 1, SEGMENTS), dtype=np.float32)
    for index in np.unique(segment):
        inside = segment == index
        coefficients[:, index] = _fit(z[inside].astype(np.float64), table[inside])
    value = coefficients[DEGREE][segment]
    for power in reversed(range(DEGREE)):
        value = _fma(value, z, coefficients[power][segment])
    if not np.array_equal(np.rint(value), table):
        raise SystemExit(f"{name}: the polynomials miss entries of the table")
    print(f"inline constexpr Cubics {name} = {{\n    {_hex(scale)},\n    {_hex(offset)},\n    {{")
    for row in coefficients:
        _print_row(map(_hex, row))
    print("    }};\n")


def _fit(z: NDArray[np.float64], table: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return c0 .. c3 of the cubic that is farthest from rounding to a wrong entry."""
    centre = (z.max() + z.min()) / 2
    half = max((z.max() - z.min()) / 2, 1e-9)
    powers = np.vander((z - centre) / half, DEGREE + 1, increasing=True)
    ones = np.ones((len(z), 1))
    degree = min(DEGREE, len(z) - 1)
    best = linprog(
        [0.0] * (DEGREE + 1) + [-1.0],  # the margin
        A_ub=np.block([[powers, ones], [-powers, ones]]),
        b_ub=np.concatenate([table + 0.5, 0.5 - table]),
        bounds=[(None, None) if k <= degree else (0, 0) for k in range(DEGREE + 1)] + [(None, 0.5)],
        method="highs",
    )
    in_z = Polynomial(best.x[:-1])(Polynomial([-centre / half, 1 / half]))
    return np.pad(in_z.coef, (0, DEGREE + 1 - len(in_z.coef))).astype(np.float32)


def _fma(a: NDArray[np.float32], b: np.float32 | NDArray[np.float32], c: object) -> NDArray:
    # The product of two float32 is exact in float64.
    return (a.astype(np.float64) * b + c).astype(np.float32)


def _hex(value: np.float32) -> str:
    return f"{float(value).hex()}f"


def _print_row(values: Iterable[str]) -> None:
    line = "        {"
    for value in values:
        if len(line) + len(value) + 2 > 100:
            print(line.rstrip())
            line = "         "
        line += f"{value}, "
    print(line.rstrip(", ") + "},")


if __name__ == "__main__":
    main()
