"""Hold the native CLAHE-gamma-median against OpenCV on random images, byte by byte.

    python scripts/exactness.py [--images 10000] [--most-px 250] [--seed 0]

Every instruction set that this CPU and this build have runs in a process of its own, on the same
images of random size, grid, clip limit and table, through the tensor and the NumPy face, in both
layouts and normalised. Exit code 1 where a byte differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perfkit.ops import (
    build_info,
    clahe_gamma_median,
    clahe_gamma_median_normalize,
    clahe_gamma_median_numpy,
)

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from opencv import Case, cv2, random_case


def main() -> int:
    """Compare in one process for each instruction set; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--most-px", type=int, default=250, help="longest side (default: 250)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help="only PERFKIT_CPU_ISA, in this process")
    arguments = parser.parse_args()
    if arguments.here:
        return compare(arguments.images, arguments.most_px, arguments.seed)
    print(f"perfkit against OpenCV {cv2.__version__}, torch {torch.__version__}", flush=True)
    codes = [
        subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--here"],
            env=os.environ | {"PERFKIT_CPU_ISA": isa},
            check=False,
        ).returncode
        for isa in build_info().isas
    ]
    return int(any(codes))


def compare(images: int, most_px: int, seed: int) -> int:
    """Compare with the instruction set of this process; return 1 where a byte differs."""
    compared = differing = 0
    index = 0
    count = 0
    while count < images:
        case = random_case(seed, index, most_px)
        want = case.expected()
        for face, got in (
            ("tensor", by_tensor(case, index)),
            ("NumPy", by_numpy(case, index)),
            ("normalised", by_normalising(case, index)),
        ):
            wrong = int((got != want).sum())
            if wrong:
                print(f"  case {index}, {face}: {wrong} of {want.size} bytes differ: {case}")
            compared += want.size
            differing += wrong
        index += 1
        count += len(case.images)
    isa = build_info().isa
    print(f"{isa}: {count} images, {compared} bytes compared, {differing} differ", flush=True)
    return int(differing > 0)


def by_tensor(case: Case, index: int) -> np.ndarray:
    """Run the operator on a tensor, HWC or CHW."""
    images, options = torch.from_numpy(case.images), options_of(case)
    if index % 2:
        return clahe_gamma_median(images, **options).numpy()
    chw = clahe_gamma_median(images.permute(0, 3, 1, 2).contiguous(), layout="chw", **options)
    return chw.permute(0, 2, 3, 1).numpy()


def by_numpy(case: Case, index: int) -> np.ndarray:
    """Run the NumPy face on one to three threads, now and then on strides below zero."""
    images, options = case.images, options_of(case)
    options["lut"] = case.lut
    if index % 2:
        images = np.ascontiguousarray(images[:, ::-1, ::-1])[:, ::-1, ::-1]
    return clahe_gamma_median_numpy(images, threads=1 + index % 3, **options)


def by_normalising(case: Case, index: int) -> np.ndarray:
    """With mean 0 and deviation 1 / 255 a byte becomes its own number, whatever the dtype."""
    channels = case.images.shape[3]
    result = clahe_gamma_median_normalize(
        torch.from_numpy(case.images),
        mean=[0.0] * channels,
        std=[1 / 255] * channels,
        dtype=(torch.float32, torch.float16, torch.bfloat16)[index % 3],
        memory_format=(torch.contiguous_format, torch.channels_last)[index % 2],
        **options_of(case),
    )
    return result.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def options_of(case: Case) -> dict[str, Any]:
    """Return the operator's options, for tensors."""
    return {
        "clip_limit": case.clip_limit,
        "tile_grid": case.tile_grid,
        "lut": torch.from_numpy(case.lut),
    }


if __name__ == "__main__":
    sys.exit(main())
