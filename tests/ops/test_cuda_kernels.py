"""The CUDA kernels, run on the CPU unchanged: OpenCV's bytes, in bounds, and without a race."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cuda_kernels import CSRC, RACE, Case, barriers, build, run
from opencv import noise, numpy_gamma, opencv_chain, scene

GAMMA = numpy_gamma(1.2)
UNTOUCHED = 0xA5  # what memory holds before the kernels run


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in which a step out of bounds is an error."""
    folder = tmp_path_factory.mktemp("checked")
    return build(folder, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


@pytest.fixture(scope="module")
def racing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in which two threads that share memory without a barrier are an error."""
    folder = tmp_path_factory.mktemp("racing")
    program = build(folder, "-fsanitize=thread")
    done = run(program, folder, [])
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot run on this kernel: vm.mmap_rnd_bits is too high")
    assert done.returncode == 0, done.stderr
    return program


def assert_same_bytes(program: Path, folder: Path, *cases: Case) -> None:
    done = run(program, folder, cases)
    assert done.returncode == 0, done.stderr
    for case in cases:
        want = opencv_chain(case.images, case.clip_limit, case.tile_grid, case.table)
        if case.values is not None:
            want = np.stack([case.values[c][want[..., c]] for c in range(want.shape[-1])], -1)
        got = case.out
        assert got.tobytes() == want.tobytes(), (
            f"{(got != want).sum()} of {want.size} elements differ from OpenCV: "
            f"{case.images.shape}, clip {case.clip_limit}, grid {case.tile_grid}"
        )


def case_of(images: np.ndarray, *parameters: object) -> Case:
    return Case(images, np.empty_like(images), GAMMA, *parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    ("size", "tile_grid"),
    [
        ((1, 1), (8, 8)),
        ((1, 37), (5, 3)),
        ((41, 1), (1, 4)),
        ((2, 3), (2, 1)),
        ((7, 5), (9, 12)),  # finer than the image
        ((32, 32), (4, 4)),  # divides
        ((33, 31), (4, 4)),  # does not
        ((20, 30), (3, 4)),  # divides one side, which grows nevertheless
        ((66, 130), (2, 3)),  # one pixel more than whole blocks
        ((97, 103), (1, 1)),  # a tile for several blocks
        ((150, 40), (2, 1)),
    ],
)
def test_kernels_have_opencvs_bytes(
    size: tuple[int, int], channels: int, tile_grid: tuple[int, int], checked: Path, tmp_path: Path
) -> None:
    shape = (*size, channels)
    kinds = np.stack([scene(np.random.default_rng(i), *shape) for i in (1, 4)])
    assert_same_bytes(
        checked, tmp_path, case_of(noise(2, *shape), 2.0, tile_grid), case_of(kinds, 3.0, tile_grid)
    )


@pytest.mark.parametrize("clip_limit", [0.0, 0.01, 1.0, 40.0, 1e6])
def test_clip_limits_of_every_size_are_followed(
    clip_limit: float, checked: Path, tmp_path: Path
) -> None:
    images = np.stack([scene(np.random.default_rng(i), 24, 35, 3) for i in range(4)])
    assert_same_bytes(checked, tmp_path, case_of(images, clip_limit, (3, 2)))


def test_any_table_is_followed(checked: Path, tmp_path: Path) -> None:
    images = noise(1, 19, 23, 3)
    assert_same_bytes(
        checked, tmp_path, Case(images, np.empty_like(images), noise(256, seed=3), 2.0, (2, 2))
    )


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("width", [20, 21])
def test_any_strides_are_read(width: int, channels: int, checked: Path, tmp_path: Path) -> None:
    shape = (2, 17, width, channels)
    padded = noise(2, 17, width + 8, channels)
    views = (
        noise(2, channels, 17, width).transpose(0, 2, 3, 1),
        noise(2, channels, width, 17).transpose(0, 3, 2, 1),
        noise(*shape[:3], 4)[..., :channels],
        padded[:, :, 4 : 4 + width],
        padded[:, :, 1 : 1 + width],
        padded[::-1, ::-1, 7 + width : 7 : -1],
        np.broadcast_to(noise(1, 17, width, channels), shape),
        np.broadcast_to(noise(2, 1, width, channels), shape),
    )
    assert all(view.shape == shape for view in views)
    cases = [Case(view, np.empty(shape, np.uint8), GAMMA, 2.0, (3, 2)) for view in views]
    assert_same_bytes(checked, tmp_path, *cases)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("element", ["uint8", "float32", "float16", "uint16"])
@pytest.mark.parametrize("width", [20, 21])
def test_any_strides_and_elements_are_written(
    width: int, element: str, channels: int, checked: Path, tmp_path: Path
) -> None:
    images = noise(2, 17, width, channels)
    values = None
    if element != "uint8":
        values = noise(channels, 256 * np.dtype(element).itemsize, seed=1).view(element)

    def untouched(*shape: int) -> np.ndarray:
        return (
            np.full(np.prod(shape) * np.dtype(element).itemsize, UNTOUCHED, np.uint8)
            .view(element)
            .reshape(shape)
        )

    padded = untouched(2, 17, width + 8, channels)
    outs = (
        untouched(*images.shape),
        untouched(2, channels, 17, width).transpose(0, 2, 3, 1),
        untouched(2, channels, width, 17).transpose(0, 3, 2, 1),
        padded[:, :, 4 : 4 + width],
        padded.copy()[:, :, 1 : 1 + width],
        padded.copy()[::-1, ::-1, 7 + width : 7 : -1],
    )
    cases = [Case(images, out, GAMMA, 2.0, (3, 2), values) for out in outs]
    assert_same_bytes(checked, tmp_path, *cases)
    between = np.delete(padded, np.s_[4 : 4 + width], axis=2)
    assert (between.view(np.uint8) == UNTOUCHED).all(), "memory beside the result was written"


def test_an_empty_batch_starts_nothing(checked: Path, tmp_path: Path) -> None:
    images = np.empty((0, 4, 5, 3), np.uint8)
    done = run(checked, tmp_path, [case_of(images)])
    assert done.returncode == 0, done.stderr


def test_images_take_turns_in_the_workspace(tmp_path: Path) -> None:
    csrc = tmp_path / "csrc"
    shutil.copytree(CSRC, csrc)
    plan = csrc / "clahe_gamma_median" / "cuda_plan.h"
    small = plan.read_text().replace("kWorkspace = int64_t{1} << 29", "kWorkspace = 20000")
    assert small != plan.read_text(), "the constant is written in another way"
    plan.write_text(small)
    program = build(tmp_path, csrc=csrc)
    # 9 kB of corners and 4 kB of planes an image: two turns of one, then two of three.
    assert_same_bytes(
        program,
        tmp_path,
        case_of(noise(2, 34, 40, 3), 2.0, (2, 2)),
        case_of(noise(5, 12, 12, 1), 2.0, (1, 1)),
    )


# Straddled groups of pixels, a tile for several blocks, more than one image and turn of each loop.
_SHARED = (
    (noise(2, 18, 35, 3), 2.0, (2, 1)),
    (noise(1, 70, 66, 3), 2.0, (1, 1)),
    (noise(1, 20, 22, 1), 2.0, (3, 2)),
)


def test_threads_and_blocks_never_race(racing: Path, tmp_path: Path) -> None:
    values = noise(3, 1024, seed=1).view(np.float32)
    images, *parameters = _SHARED[0]
    normalised = Case(images, np.empty(images.shape, np.float32), GAMMA, *parameters, values)
    assert_same_bytes(racing, tmp_path, normalised, *(case_of(*shared) for shared in _SHARED))


@pytest.mark.parametrize("barrier", barriers(), ids=":".join)
def test_a_removed_barrier_is_noticed(
    barrier: tuple[str, str], racing: Path, tmp_path: Path
) -> None:
    cases = [case_of(*shared) for shared in _SHARED[:2]]
    done = run(racing, tmp_path, cases, removed_barrier=barrier)
    assert done.returncode == RACE, f"exit code {done.returncode}\n{done.stderr}"
    assert "ThreadSanitizer" in done.stderr
