"""The pure-torch CLAHE-gamma-median reference has the bytes of OpenCV 5; cv2 is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from opencv import noise, numpy_gamma, opencv_chain, photos, random_case

from perfkit.core.errors import PerfkitError
from perfkit.ops.reference.clahe_gamma_median import clahe_gamma_median, gamma_lut
from perfkit.ops.reference.lab import lab_to_rgb, rgb_to_lab


def assert_same_bytes(
    image: np.ndarray,
    clip_limit: float = 2.0,
    tile_grid: tuple[int, int] = (8, 8),
    gamma: float = 1.2,
) -> None:
    got = clahe_gamma_median(
        torch.from_numpy(image), clip_limit=clip_limit, tile_grid=tile_grid, gamma=gamma
    )
    want = opencv_chain(image, clip_limit, tile_grid, numpy_gamma(gamma))
    differing = int((got.numpy() != want).sum())
    assert differing == 0, f"{differing} of {want.size} bytes differ from OpenCV"


SIZES = [(1, 1), (7, 5), (1, 37), (41, 1), (2, 300), (224, 224), (300, 401), (511, 513)]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_size_has_the_bytes_of_opencv(size: tuple[int, int], channels: int) -> None:
    assert_same_bytes(noise(*size, channels))


@pytest.mark.parametrize("clip_limit", [0.0, 0.01, 0.5, 2.0, 40.0, 256.0, 1e6])
@pytest.mark.parametrize("tile_grid", [(1, 1), (8, 8), (7, 3), (2, 16), (13, 9)])
def test_every_grid_and_clip_limit_has_the_bytes_of_opencv(
    tile_grid: tuple[int, int], clip_limit: float
) -> None:
    # 96 x 112: (8, 8) and (2, 16) divide it, (7, 3) divides both sides unevenly, (13, 9) neither.
    image = cv2.GaussianBlur(noise(96, 112, 3), (9, 9), 0)
    assert_same_bytes(image, clip_limit, tile_grid)


@pytest.mark.parametrize(
    ("size", "tile_grid"),
    [
        ((1, 1), (8, 8)),
        ((1, 2), (2, 3)),
        ((3, 5), (8, 8)),
        ((8, 5), (8, 8)),
        ((5, 40), (3, 64)),
        ((40, 5), (64, 3)),
        ((9, 9), (9, 10)),
        ((6, 4), (500, 700)),
    ],
)
def test_a_grid_larger_than_the_image_has_the_bytes_of_opencv(
    size: tuple[int, int], tile_grid: tuple[int, int]
) -> None:
    for clip_limit in (0.0, 2.0, 40.0):
        assert_same_bytes(noise(*size, 3), clip_limit, tile_grid)


def test_a_grid_far_larger_than_the_image_costs_no_memory_for_tiles_without_pixels() -> None:
    image = torch.from_numpy(noise(5, 7, 3))
    want = clahe_gamma_median(image, tile_grid=(64, 64))
    assert torch.equal(clahe_gamma_median(image, tile_grid=(2**31 - 1, 10**9)), want)


def test_a_clip_limit_beyond_int32_clips_nothing() -> None:
    image = torch.from_numpy(cv2.GaussianBlur(noise(64, 64, 3), (9, 9), 0))
    unclipped = clahe_gamma_median(image, clip_limit=0)
    assert torch.equal(clahe_gamma_median(image, clip_limit=1e300), unclipped)
    assert not torch.equal(clahe_gamma_median(image, clip_limit=2.0), unclipped)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("levels", [(0, 0), (255, 255), (128, 128), (0, 255), (100, 101)])
def test_flat_and_two_valued_images_have_the_bytes_of_opencv(
    levels: tuple[int, int], channels: int
) -> None:
    image = np.random.default_rng(1).choice(np.array(levels, np.uint8), (61, 64, channels))
    assert_same_bytes(image)


def test_gradients_have_the_bytes_of_opencv() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    for channels in ((ramp, ramp, ramp), (ramp, ramp[:, ::-1], 255 - ramp // 2)):
        image = np.stack(channels, axis=-1)
        assert_same_bytes(image)
        assert_same_bytes(np.ascontiguousarray(image.transpose(1, 0, 2)), tile_grid=(5, 11))


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.2, 10.0])
def test_every_gamma_has_the_bytes_of_opencv(gamma: float) -> None:
    assert_same_bytes(noise(33, 50, 3), gamma=gamma)


def test_random_configurations_have_the_bytes_of_opencv() -> None:
    wrong = []
    for index in range(150):
        case = random_case(2026, index, 90)
        got = clahe_gamma_median(
            torch.from_numpy(case.images),
            clip_limit=case.clip_limit,
            tile_grid=case.tile_grid,
            lut=torch.from_numpy(case.lut),
        )
        if not np.array_equal(got.numpy(), case.expected()):
            wrong.append(str(case))
    assert wrong == []


@pytest.mark.parametrize(
    ("ours", "code"), [(rgb_to_lab, cv2.COLOR_RGB2LAB), (lab_to_rgb, cv2.COLOR_LAB2RGB)]
)
def test_every_one_of_the_16_million_colours_converts_as_in_opencv(ours: Any, code: int) -> None:
    second, third = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    for start in range(0, 256, 16):
        planes = [
            np.stack((np.full_like(second, first), second, third))
            for first in range(start, start + 16)
        ]
        cube = np.concatenate(planes, axis=1).astype(np.uint8)
        want = cv2.cvtColor(np.ascontiguousarray(cube.transpose(1, 2, 0)), code)
        assert np.array_equal(ours(torch.from_numpy(cube)).numpy(), want.transpose(2, 0, 1))


def test_a_table_given_to_lab_to_rgb_acts_on_its_result() -> None:
    lab = torch.from_numpy(noise(3, 50, 60))
    lut = torch.from_numpy(noise(256, seed=1))
    assert torch.equal(lab_to_rgb(lab, lut), lut[lab_to_rgb(lab).long()])


def test_a_batch_has_the_bytes_of_its_single_images() -> None:
    for channels in (1, 3):
        batch = torch.from_numpy(noise(5, 45, 62, channels))
        singles = torch.stack([clahe_gamma_median(image) for image in batch])
        assert torch.equal(clahe_gamma_median(batch), singles)


@pytest.mark.parametrize("channels", [3, 1])
def test_layout_and_strides_do_not_change_bytes(channels: int) -> None:
    hwc = torch.from_numpy(noise(3, 40, 52, channels))
    want = clahe_gamma_median(hwc)
    permuted = hwc.permute(0, 3, 1, 2)
    for chw in (permuted, permuted.contiguous()):
        got = clahe_gamma_median(chw, layout="chw")
        assert got.is_contiguous()
        assert torch.equal(got, want.permute(0, 3, 1, 2))
        assert torch.equal(clahe_gamma_median(chw[1], layout="chw"), want[1].permute(2, 0, 1))

    wide = torch.zeros(6, 80, 104, channels + 2, dtype=torch.uint8)
    strided = wide[::2, ::2, 1::2, 1:-1]
    strided.copy_(hwc)
    assert torch.equal(clahe_gamma_median(strided), want)
    repeated = hwc[:1].expand(3, -1, -1, -1)
    assert torch.equal(clahe_gamma_median(repeated), want[:1].expand(3, -1, -1, -1))


def test_the_input_is_left_as_it_was() -> None:
    for channels in (1, 3):
        for layout, shape in (("hwc", (20, 30, channels)), ("chw", (channels, 20, 30))):
            image = torch.from_numpy(noise(*shape))
            before = image.clone()
            clahe_gamma_median(image, layout=layout)
            assert torch.equal(image, before)


@pytest.mark.parametrize(("shape", "layout"), [((0, 8, 9, 3), "hwc"), ((0, 1, 8, 9), "chw")])
def test_an_empty_batch_gives_an_empty_batch(shape: tuple[int, ...], layout: str) -> None:
    got = clahe_gamma_median(torch.zeros(shape, dtype=torch.uint8), layout=layout)
    assert got.shape == shape
    assert got.dtype == torch.uint8


@pytest.mark.parametrize("gamma", [0.01, 0.3, 0.5, 1, 1.2, 2.2, 50.0, 1e300])
def test_gamma_lut_is_the_rounded_power(gamma: float) -> None:
    lut = gamma_lut(gamma)
    assert lut.dtype == torch.uint8
    assert np.array_equal(lut.numpy(), numpy_gamma(gamma))


def test_a_gamma_above_one_brightens_and_one_changes_nothing() -> None:
    assert gamma_lut(1.0).tolist() == list(range(256))
    assert gamma_lut(2.0)[64] == 128


IMAGE = torch.zeros(4, 5, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (IMAGE.float(), {}, r"`images` must be a uint8 tensor.*got float32 \[4, 5, 3\]"),
        (IMAGE.numpy(), {}, r"`images` must be a uint8 tensor.*got ndarray"),
        (IMAGE[0], {}, r"`images` must be .*\[N, H, W, C\], got uint8 \[5, 3\]"),
        (IMAGE[..., :2], {}, r"`images` must be .*C = 1 or 3.*got uint8 \[4, 5, 2\]"),
        (IMAGE, {"layout": "chw"}, r"`images` must be .*\[C, H, W\].*layout \"chw\".*\[4, 5, 3\]"),
        (IMAGE[:0], {}, r"`images` must be .*H, W >= 1.*got uint8 \[0, 5, 3\]"),
        (IMAGE[:, :0], {}, r"`images` must be .*H, W >= 1.*got uint8 \[4, 0, 3\]"),
        (IMAGE, {"layout": "nhwc"}, r"`layout` must be \"hwc\" or \"chw\", got 'nhwc'"),
        (IMAGE, {"tile_grid": 8}, r"`tile_grid` must be two positive ints.*got 8"),
        (IMAGE, {"tile_grid": (8,)}, r"`tile_grid` must be two positive ints.*got \(8,\)"),
        (IMAGE, {"tile_grid": (8, 0)}, r"`tile_grid` must be .*got \(8, 0\)"),
        (IMAGE, {"tile_grid": (8, 8.0)}, r"`tile_grid` must be .*got \(8, 8.0\)"),
        (IMAGE, {"tile_grid": (2**31, 1)}, r"`tile_grid` must be .*below 2\*\*31, got"),
        (
            IMAGE[:1, :1, :1].expand(50_000, 50_000, 1),
            {"tile_grid": (1, 1)},
            r"`tile_grid` must be so fine .*got \(1, 1\) for 50000 x 50000 pixels",
        ),
        (IMAGE, {"clip_limit": float("nan")}, r"`clip_limit` must be a finite number.*got nan"),
        (IMAGE, {"clip_limit": float("inf")}, r"`clip_limit` must be a finite number.*got inf"),
        (IMAGE, {"clip_limit": -1.0}, r"`clip_limit` must be .*0 \(no clipping\).*got -1.0"),
        (IMAGE, {"clip_limit": "2"}, r"`clip_limit` must be a finite number.*got '2'"),
        (IMAGE, {"gamma": 0}, r"`gamma` must be a finite number above 0, got 0"),
        (IMAGE, {"gamma": -1.2}, r"`gamma` must be .*got -1.2"),
        (IMAGE, {"gamma": float("nan")}, r"`gamma` must be .*got nan"),
        (IMAGE, {"lut": torch.zeros(255, dtype=torch.uint8)}, r"`lut` must be .*uint8 \[255\]"),
        (IMAGE, {"lut": torch.zeros(256)}, r"`lut` must be a uint8 tensor.*float32 \[256\]"),
        (IMAGE, {"lut": [0] * 256}, r"`lut` must be a uint8 tensor of shape \[256\], got list"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed_and_what_came(
    images: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PerfkitError, match=message) as refusal:
        clahe_gamma_median(images, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.real_data
def test_real_fundus_photos_have_the_bytes_of_opencv(data_dir: Path) -> None:
    fundus = list(photos(data_dir / "smdg-fundus"))
    assert fundus
    for photo in fundus:
        assert_same_bytes(photo)


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_cuda_has_the_bytes_of_the_cpu(size: tuple[int, int]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for channels in (1, 3):
        for tile_grid in ((8, 8), (5, 3)):
            batch = torch.from_numpy(noise(2, *size, channels))
            got = clahe_gamma_median(batch.cuda(), tile_grid=tile_grid)
            assert got.device.type == "cuda"
            assert torch.equal(got.cpu(), clahe_gamma_median(batch, tile_grid=tile_grid))
