"""The native CLAHE-gamma-median of NumPy arrays has the bytes of OpenCV 5, and brings no torch."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from opencv import noise, numpy_gamma, opencv_chain, random_case

from perfkit.core.errors import PerfkitError
from perfkit.ops import clahe_gamma_median_numpy

GRID = (8, 8)


def expected(images: np.ndarray) -> np.ndarray:
    return opencv_chain(images, 2.0, GRID, numpy_gamma(1.2))


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 64), (130, 201)])
def test_an_image_and_a_batch_have_the_bytes_of_opencv(
    size: tuple[int, int], channels: int
) -> None:
    images = noise(3, *size, channels)
    assert np.array_equal(clahe_gamma_median_numpy(images), expected(images))
    assert np.array_equal(clahe_gamma_median_numpy(images[0]), expected(images[0]))


def test_random_configurations_have_the_bytes_of_opencv() -> None:
    wrong = []
    for index in range(150):
        case = random_case(11, index, 120)
        got = clahe_gamma_median_numpy(
            case.images, clip_limit=case.clip_limit, tile_grid=case.tile_grid, lut=case.lut
        )
        if not np.array_equal(got, case.expected()):
            wrong.append(f"{index}: {case}")
    assert wrong == []


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_does_not_change_bytes(threads: int) -> None:
    for shape in ((1, 61, 40, 3), (2, 3, 70, 1), (9, 33, 20, 3), (1, 1, 1, 3)):
        images = noise(*shape)
        got = clahe_gamma_median_numpy(images, threads=threads)
        assert np.array_equal(got, expected(images))


def views(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return arrays of the values of `images` [N, H, W, C] that lie differently in memory."""
    count, height, width, channels = images.shape
    wide = np.zeros((2 * count, 2 * height, 2 * width, channels + 2), np.uint8)
    wide[::2, ::2, 1::2, 1:-1] = images
    return {
        "dense": images,
        "backwards": images[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1],
        "planes": images.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1),
        "gaps": wide[::2, ::2, 1::2, 1:-1],
        "fortran": np.asfortranarray(images),
        "bgr": images[..., ::-1].copy()[..., ::-1],
    }


@pytest.mark.parametrize("channels", [3, 1])
def test_strides_of_either_sign_do_not_change_bytes(channels: int) -> None:
    images = noise(3, 40, 52, channels)
    want = expected(images)
    for name, view in views(images).items():
        got = clahe_gamma_median_numpy(view)
        assert got.flags.c_contiguous, name
        assert np.array_equal(got, want), name
    for name, out in views(np.full_like(images, 7)).items():
        assert clahe_gamma_median_numpy(images, out=out) is out, name
        assert np.array_equal(out, want), name
    repeated = np.broadcast_to(images[:1], images.shape)
    assert np.array_equal(clahe_gamma_median_numpy(repeated)[2], want[0])


def test_the_input_is_left_as_it_was_and_may_be_read_only() -> None:
    images = noise(20, 30, 3)
    images.flags.writeable = False
    before = images.copy()
    clahe_gamma_median_numpy(images)
    assert np.array_equal(images, before)


def test_an_empty_batch_gives_an_empty_batch() -> None:
    assert clahe_gamma_median_numpy(np.zeros((0, 8, 9, 3), np.uint8)).shape == (0, 8, 9, 3)


def test_it_runs_where_torch_was_never_imported() -> None:
    script = """
import sys
sys.modules["torch"] = None  # an import would fail
import numpy as np
from perfkit.ops import clahe_gamma_median_numpy
assert clahe_gamma_median_numpy(np.zeros((9, 9, 3), np.uint8)).shape == (9, 9, 3)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_threads_that_cannot_be_started_are_named() -> None:
    script = """
import resource
from pathlib import Path
import numpy as np
from perfkit.core.errors import PerfkitError
from perfkit.ops import clahe_gamma_median_numpy
images, out = np.zeros((2, 600, 9, 9, 3), np.uint8)
clahe_gamma_median_numpy(images, out=out)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
try:
    clahe_gamma_median_numpy(images, out=out, threads=600)
except PerfkitError as error:
    print(error)
clahe_gamma_median_numpy(images, out=out)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(
        r"clahe_gamma_median: `threads` must be no more than can .*, got 600 .*\n", done.stdout
    )


def test_numbers_of_numpy_are_numbers() -> None:
    image = noise(20, 30, 3)
    got = clahe_gamma_median_numpy(image, clip_limit=np.float16(3), gamma=np.int64(2))
    assert np.array_equal(got, clahe_gamma_median_numpy(image, clip_limit=3.0, gamma=2.0))


def test_other_threads_run_while_it_works() -> None:
    # Only a thread that runs during the call can see the first image done and the last one not.
    images = np.broadcast_to(noise(1, 256, 256, 3), (64, 256, 256, 3))
    ones, out = np.ones(256, np.uint8), np.empty(images.shape, np.uint8)
    first, last = out[0, 0, 0], out[-1, -1, -1]
    seen = False
    for _ in range(20):
        out.fill(0)
        options = {"lut": ones, "out": out}
        worker = threading.Thread(target=clahe_gamma_median_numpy, args=(images,), kwargs=options)
        worker.start()
        while worker.is_alive() and not seen:
            seen = bool(first.any()) and not last.any()
        worker.join()
        assert out.all()
        if seen:
            return
    pytest.fail("the GIL is held")


IMAGE = np.zeros((4, 5, 3), np.uint8)
LUT = np.zeros(256, np.uint8)
READ_ONLY = np.broadcast_to(np.uint8(0), (4, 5, 3))
FOLDED = np.lib.stride_tricks.as_strided(np.zeros(99, np.uint8), (4, 5, 3), (5, 1, 1))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (IMAGE.astype(np.float32), {}, r"`images` must be a uint8 array.*got float32 \[4, 5, 3\]"),
        (IMAGE.astype(np.int8), {}, r"`images` must be a uint8 array.*got int8 \[4, 5, 3\]"),
        (IMAGE.tolist(), {}, r"`images` must be a uint8 array.*got list"),
        (IMAGE[0], {}, r"`images` must be .*\[N, H, W, C\], got uint8 \[5, 3\]"),
        (IMAGE[..., :2], {}, r"`images` must be .*C = 1 or 3.*got uint8 \[4, 5, 2\]"),
        (IMAGE[:0], {}, r"`images` must be .*H, W >= 1.*got uint8 \[0, 5, 3\]"),
        (IMAGE, {"tile_grid": (8, 0)}, r"`tile_grid` must be .*got \(8, 0\)"),
        (IMAGE, {"tile_grid": "88"}, r"`tile_grid` must be two positive ints.*got '88'"),
        (IMAGE, {"clip_limit": float("nan")}, r"`clip_limit` must be a finite number.*got nan"),
        (IMAGE, {"clip_limit": -1}, r"`clip_limit` must be .*got -1"),
        (IMAGE, {"clip_limit": True}, r"`clip_limit` must be .*got True"),
        (IMAGE, {"clip_limit": np.float32("inf")}, r"`clip_limit` must be a finite number.*inf"),
        (IMAGE, {"gamma": "2"}, r"`gamma` must be .*got '2'"),
        (IMAGE, {"gamma": -1.2}, r"`gamma` must be .*got -1.2"),
        (IMAGE, {"lut": LUT[:255]}, r"`lut` must be a uint8 array.*uint8 \[255\]"),
        (IMAGE, {"lut": LUT.astype(int)}, r"`lut` must be a uint8 array.*int64 \[256\]"),
        (IMAGE, {"threads": 0}, r"`threads` must be an int from 1 to 1024, got 0"),
        (IMAGE, {"threads": 10**12}, r"`threads` must be an int from 1 to 1024, got 10000"),
        (IMAGE, {"threads": 1.5}, r"`threads` must be an int from 1 to 1024, got 1.5"),
        (IMAGE, {"out": [0]}, r"`out` must be a writeable uint8 array.*\[4, 5, 3\], got list"),
        (IMAGE, {"out": IMAGE[1:].copy()}, r"`out` must be .*got uint8 \[3, 5, 3\]"),
        (IMAGE, {"out": READ_ONLY}, r"`out` must be a writeable .*, not writeable"),
        (IMAGE, {"out": IMAGE}, r"`out` must be in memory apart from `images`"),
        (IMAGE, {"out": IMAGE[::-1]}, r"`out` must be in memory apart from `images`"),
        (IMAGE, {"out": FOLDED}, r"`out` must be an array whose elements do not overlap"),
        (
            np.broadcast_to(np.uint8(0), (50_000, 50_000, 1)),
            {"tile_grid": (1, 1)},
            r"`tile_grid` must be so fine that a tile has at most 2147483647 .*got 50000 x 50000",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed_and_what_came(
    images: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PerfkitError, match=message) as refusal:
        clahe_gamma_median_numpy(images, **options)
    assert "\n" not in str(refusal.value)
    assert not IMAGE.any()
