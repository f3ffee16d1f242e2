"""Time CLAHE-gamma-median on a CUDA device, against the floors of docs/cuda-kernels.md.

    python scripts/gpu_bench_preprocess.py [FOLDER] [--launches N]

64 drawn photographs of 512x512, eager and from a CUDA graph, beside kornia or else plain torch:
a line for each, and FOLDER/gpu_bench_preprocess.json. --launches times nothing: for ncu.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from perfkit.core import cli
from perfkit.core.errors import PerfkitError
from perfkit.core.files import replacing
from perfkit.data.synthetic_fundus import SyntheticFundus
from perfkit.ops import build_info, clahe_gamma_median, clahe_gamma_median_normalize
from perfkit.ops.native import require_cuda
from perfkit.ops.reference import clahe_gamma_median as reference

BATCH, SIZE, DRAWN = 64, 512, 8
WARMUP, ROUNDS = 10, 50
# For 32 pixels of a photo; one access a cycle and multiprocessor (docs/cuda-kernels.md).
INSTRUCTIONS, INSTRUCTIONS_A_CYCLE, SHARED_ACCESSES = 210, 4, 24
LEAST_BYTES = 9  # a pixel: read for the histograms, read, written
PLANES_BYTES = 3  # L, a, b are written, and read in place of RGB
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/gpu_check"))
    parser.add_argument("--launches", type=int, default=0)
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise PerfkitError("torch sees no CUDA device, and this is measured on one")
    require_cuda()

    fundus = SyntheticFundus("test", count=DRAWN, size=SIZE, seed=0)
    drawn = torch.stack([fundus.read(i) for i in range(DRAWN)]).permute(0, 2, 3, 1).contiguous()
    images = drawn.repeat(BATCH // DRAWN, 1, 1, 1).cuda()
    to_bf16: dict[str, Any] = {"mean": MEAN, "std": STD, "dtype": torch.bfloat16}
    ours: dict[str, tuple[Callable[[], Tensor], int]] = {
        "uint8": (lambda: clahe_gamma_median(images), 3),
        "bfloat16": (lambda: clahe_gamma_median_normalize(images, **to_bf16), 6),
    }
    if not torch.equal(ours["uint8"][0]()[:DRAWN].cpu(), clahe_gamma_median(drawn)):
        raise PerfkitError("the bytes are not the CPU's: nothing is timed")
    if arguments.launches:
        for _ in range(arguments.launches):
            ours["uint8"][0]()
        torch.cuda.synchronize()
        return 0

    copy_bytes_per_s = measure_copy()
    timed = {}
    for name, (run, written) in ours.items():
        floors = floors_ns(copy_bytes_per_s, written)
        timed[f"perfkit to {name}, eager"] = event_times(run), floors
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        timed[f"perfkit to {name}, graph"] = event_times(graph.replay), floors
    other, run = other_implementation(images)
    timed[f"{other}, eager"] = event_times(run), {}

    gpu = torch.cuda.get_device_properties()
    clock = f"at most {gpu.clock_rate / 1e6:.3f} GHz"
    device = f"{gpu.name}, {gpu.multi_processor_count} multiprocessors, {clock}"
    print(f"{device}; a copy moves {copy_bytes_per_s / 1e9:.0f} GB/s; medians of {ROUNDS}")
    for name, (call_s, floors) in timed.items():
        ns = median(call_s) * 1e9 / (BATCH * SIZE**2)
        ratios = "".join(f"; {ns / floor:.2f}x {of} ({floor:.4f})" for of, floor in floors.items())
        print(f"{name}: {ns:.4f} ns/pixel, {LEAST_BYTES / ns:.0f} GB/s at 9 bytes{ratios}")
    facts = {
        "device": device,
        "torch": torch.__version__,
        "build": asdict(build_info()),
        "batch": list(images.shape),
        "copy_bytes_per_s": copy_bytes_per_s,
        "timed": {name: {"call_s": one[0], "floors_ns": one[1]} for name, one in timed.items()},
    }
    with replacing(arguments.folder / "gpu_bench_preprocess.json") as file:
        file.write_text(json.dumps(facts) + "\n")
    return 0


def event_times(run: Callable[[], object]) -> list[float]:
    """Return seconds of each call on the device, between events; calls queue up behind it."""
    for _ in range(WARMUP):
        run()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(ROUNDS)]
    for started, ended in pairs:
        started.record()
        run()
        ended.record()
    torch.cuda.synchronize()
    return [started.elapsed_time(ended) / 1e3 for started, ended in pairs]


def measure_copy() -> float:
    """Return bytes read and written a second by a copy in device memory."""
    both = torch.ones(2, 1 << 30, dtype=torch.uint8, device="cuda")
    return both.numel() / median(event_times(lambda: both[1].copy_(both[0])))


def floors_ns(copy_bytes_per_s: float, written: int) -> dict[str, float]:
    """Return the limits in ns a pixel of this device, where ``written`` bytes a pixel leave it."""
    gpu = torch.cuda.get_device_properties()
    ns = 1e6 / gpu.clock_rate / gpu.multi_processor_count / 32  # of a cycle, for a pixel
    least = LEAST_BYTES - 3 + written
    return {
        "least bytes": least / copy_bytes_per_s * 1e9,
        "bytes as written": (least + PLANES_BYTES) / copy_bytes_per_s * 1e9,
        "shared memory": SHARED_ACCESSES * ns,
        "issue": INSTRUCTIONS / INSTRUCTIONS_A_CYCLE * ns,
    }


def other_implementation(images: Tensor) -> tuple[str, Callable[[], Tensor]]:
    """Return kornia's chain of the same steps, or the reference in plain torch, and its name."""
    if not find_spec("kornia"):
        return "plain torch", lambda: reference.clahe_gamma_median(images)
    import kornia

    def run() -> Tensor:
        lab = kornia.color.rgb_to_lab(images.permute(0, 3, 1, 2).float() / 255)
        lightness = kornia.enhance.equalize_clahe(lab[:, :1] / 100, 2.0, (8, 8)) * 100
        rgb = kornia.color.lab_to_rgb(torch.cat((lightness, lab[:, 1:]), 1))
        rgb = kornia.filters.median_blur(rgb.clamp(0, 1) ** (1 / 1.2), 3)
        return (rgb * 255).round().byte().permute(0, 2, 3, 1).contiguous()

    return f"kornia {kornia.__version__}", run


if __name__ == "__main__":
    sys.exit(cli.run(main))
