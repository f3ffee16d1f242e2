"""Cases of CLAHE-gamma-median on the CPU, beside OpenCV and kornia in the same run.

Each is measured in a process of its own (``python bench/preprocess.py`` with the fields of Setup
as JSON), because the instruction set is chosen once a process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from fresh_process import measure_afresh
from numpy.typing import NDArray

from perfkit.measure.paired import time_paired

Bytes = NDArray[np.uint8]
OURS = "perfkit"
CLIP_LIMIT, TILE_GRID, GAMMA = 2.0, (8, 8), 1.2
BYTES_A_PIXEL = 9  # read for the histograms, read and written for the result: 3 * 3
COPIED_BYTES = 1 << 26


@dataclass(frozen=True)
class Setup:
    """One measurement; ``beside`` is what to compare with: opencv, kornia or one-thread."""

    size: int
    beside: str = "opencv"
    batch: int = 1
    threads: int = 1
    isa: str = ""  # as in PERFKIT_CPU_ISA; empty: the widest
    rounds: int = 40


def measure(setup: Setup) -> dict[str, Any]:
    """Run ``setup`` in a fresh process and return what ``main`` prints."""
    environ = {"OMP_NUM_THREADS": str(setup.threads)}
    if setup.isa:
        environ["PERFKIT_CPU_ISA"] = setup.isa
    return measure_afresh(__file__, setup, environ)


def main(setup: Setup) -> dict[str, Any]:
    """Measure, and return samples and conditions."""
    if setup.threads == 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    photos, source = _photos(setup.size, max(setup.batch, 4 if setup.size < 1024 else 1))
    batches = [photos[i : i + setup.batch] for i in range(0, len(photos), setup.batch)]
    ours = _ours(setup.threads)
    other, name = {"opencv": _opencv, "kornia": _kornia, "one-thread": _one_thread}[setup.beside](
        setup.threads
    )
    if setup.beside != "kornia" and not np.array_equal(ours(batches[0]), other(batches[0])):
        raise RuntimeError(f"{name} gives other bytes")
    times = time_paired(
        {
            OURS: lambda: [ours(batch) for batch in batches],
            name: lambda: [other(batch) for batch in batches],
        },
        rounds=setup.rounds,
        warmup=3,
    )
    from perfkit.ops import build_info

    return {
        "call_s": times.call_s,
        "other": name,
        "pixels": len(photos) * setup.size**2,
        "copy_bytes_per_s": _copy_bytes_per_s(),
        "isa": build_info().isa,
        "photos": source,
    }


def _photos(size: int, count: int) -> tuple[Bytes, str]:
    """Return RGB [count, size, size, 3] and where they come from."""
    import cv2

    data = os.environ.get("PERFKIT_DATA")
    if data:
        files = sorted(Path(data, "smdg-fundus", "test").glob("*/*"))[:count]
        loaded = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
        source = f"{len(loaded)} fundus photographs"
    else:
        from perfkit.data.synthetic_fundus import SyntheticFundus

        drawn = SyntheticFundus("test", count=min(count, 4), size=min(size, 512), seed=0)
        loaded = [drawn.read(i).permute(1, 2, 0).numpy() for i in range(len(drawn))]
        source = f"{len(loaded)} synthetic fundus photographs"
    resized = []
    for i in range(count):
        photo = loaded[i % len(loaded)]
        way = cv2.INTER_AREA if size < photo.shape[0] else cv2.INTER_CUBIC
        resized.append(cv2.resize(photo, (size, size), interpolation=way))
    return np.stack(resized), source


def _ours(threads: int) -> Callable[[Bytes], Bytes]:
    """Return the entry that each would use: of tensors for a batch, of arrays for an image."""
    import torch

    from perfkit.ops import clahe_gamma_median, clahe_gamma_median_numpy

    torch.set_num_threads(threads)
    what = {"clip_limit": CLIP_LIMIT, "tile_grid": TILE_GRID, "gamma": GAMMA}

    def run(images: Bytes) -> Bytes:
        if len(images) == 1:
            return clahe_gamma_median_numpy(images, threads=threads, **what)
        result: Bytes = clahe_gamma_median(torch.from_numpy(images), **what).numpy()
        return result

    return run


def _one_thread(_: int) -> tuple[Callable[[Bytes], Bytes], str]:
    import torch

    many, run = torch.get_num_threads(), _ours(torch.get_num_threads())

    def on_one(images: Bytes) -> Bytes:
        torch.set_num_threads(1)
        try:
            return run(images)
        finally:
            torch.set_num_threads(many)

    return on_one, f"{OURS}, 1 thread"


def _opencv(threads: int) -> tuple[Callable[[Bytes], Bytes], str]:
    import cv2

    from perfkit.ops.clahe_checks import gamma_table

    # Threads over images: inside of one, OpenCV runs most of this chain on one thread anyway.
    cv2.setNumThreads(1)
    table = np.frombuffer(bytes(gamma_table(GAMMA)), np.uint8)
    pool = ThreadPoolExecutor(threads)

    def one(image: Bytes) -> Bytes:
        planes = list(cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)))
        planes[0] = cv2.createCLAHE(CLIP_LIMIT, TILE_GRID).apply(planes[0])
        rgb = cv2.cvtColor(cv2.merge(planes), cv2.COLOR_LAB2RGB)
        return np.asarray(cv2.medianBlur(cv2.LUT(rgb, table), 3))

    def run(images: Bytes) -> Bytes:
        # Into one array, as a batch is needed; a loader's collate would do the same.
        results = map(one, images) if threads == 1 else pool.map(one, images)
        first = next(results)
        if len(images) == 1:
            return first[None]
        batch = np.empty((len(images), *first.shape), np.uint8)
        batch[0] = first
        for i, result in enumerate(results, 1):
            batch[i] = result
        return batch

    return run, f"OpenCV {cv2.__version__}"


def _kornia(threads: int) -> tuple[Callable[[Bytes], Bytes], str]:
    import kornia
    import torch

    torch.set_num_threads(threads)

    def run(images: Bytes) -> Bytes:
        rgb = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        lab = kornia.color.rgb_to_lab(rgb)
        lightness = kornia.enhance.equalize_clahe(lab[:, :1] / 100, CLIP_LIMIT, TILE_GRID) * 100
        rgb = kornia.color.lab_to_rgb(torch.cat((lightness, lab[:, 1:]), 1))
        rgb = kornia.filters.median_blur(rgb.clamp(0, 1) ** (1 / GAMMA), 3)
        return (rgb * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()

    return run, f"kornia {kornia.__version__}"


def _copy_bytes_per_s() -> float:
    """Bytes read and written a second by one thread that copies, at best of ten."""
    source = np.ones(COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(10):
        started = perf_counter()
        np.copyto(target, source)
        best = min(best, perf_counter() - started)
    return 2 * COPIED_BYTES / best


def finding(setup: Setup, facts: dict[str, Any], limits: Sequence[str]) -> str:
    """Return in one line how fast, how much faster, and how far from the floor."""
    from perfkit.core.stats import ratio_interval

    mine, theirs = facts["call_s"][OURS], facts["call_s"][facts["other"]]
    ns = 1e9 / facts["pixels"]
    ratio = ratio_interval(theirs, mine)
    floor_ns = BYTES_A_PIXEL / facts["copy_bytes_per_s"] * 1e9 / setup.threads
    words = [
        f"{setup.size}x{setup.size}, batch {setup.batch}, {setup.threads} thread(s), "
        f"{facts['isa']}: {min(mine) * ns:.2f} ns/pixel, {facts['other']} "
        f"{min(theirs) * ns:.2f}: {min(theirs) / min(mine):.2f}x on quiet figures, "
        f"{ratio.estimate:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] paired",
        *limits,
        f"{BYTES_A_PIXEL} bytes a pixel at {facts['copy_bytes_per_s'] / 1e9:.1f} GB/s a thread are "
        f"{floor_ns:.2f} ns: {min(mine) * ns / floor_ns:.1f} times that floor",
    ]
    return "; ".join(words)


if __name__ == "__main__":
    print(json.dumps(main(Setup(**json.loads(sys.argv[1])))))
