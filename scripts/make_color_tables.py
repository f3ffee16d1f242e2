"""Write csrc/color/tables.h: the constants of 8-bit RGB <-> L*a*b*, from the pure-torch reference.

Usage: python scripts/make_color_tables.py > csrc/color/tables.h
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from perfkit.ops.reference import lab

HEADER = """\
// Constants of 8-bit RGB <-> L*a*b* as OpenCV 5 computes it; perfkit/ops/reference/lab.py has the
// formulas. Written by scripts/make_color_tables.py: change that, not this.
#pragma once

#include <cstdint>

namespace perfkit::color {
"""


def main() -> None:
    """Print the header."""
    linear, cube_root = lab._forward_tables(torch.device("cpu"))
    y, _, _, encode = lab._inverse_tables(torch.device("cpu"))
    f = [lab._y_and_fy(lightness)[1] for lightness in range(256)]
    print(HEADER)
    print("// sRGB byte -> linear light, in 1/2040.")
    _print_array("std::uint16_t", "kLinear", linear.tolist())
    print("// Linear light of X, Y, Z in 1/2040 -> f of CIE 15 (cube root, a line near 0) * 32768.")
    _print_array("std::uint16_t", "kCubeRoot", cube_root.tolist())
    print("// L -> Y * 16384.")
    _print_array("std::uint16_t", "kY", y.tolist())
    print("// L -> f(Y) * 16384.")
    _print_array("std::uint16_t", "kFy", f)
    print("// Linear light in 1/4096 -> sRGB byte.")
    _print_array("std::uint8_t", "kEncode", encode.tolist())
    print("}  // namespace perfkit::color")


def _print_array(kind: str, name: str, values: Sequence[int]) -> None:
    print(f"inline constexpr {kind} {name}[{len(values)}] = {{")
    line = "   "
    for value in values:
        if len(line) + len(f" {value},") > 100:
            print(line)
            line = "   "
        line += f" {value},"
    print(line)
    print("};\n")


if __name__ == "__main__":
    main()
