"""The native CLAHE-gamma-median of tensors has the bytes of OpenCV 5; cv2 is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from opencv import PHOTO_SETS, noise, numpy_gamma, opencv_chain, photos, random_case
from torch import Tensor

from perfkit.core.errors import PerfkitError
from perfkit.ops import clahe_gamma_median, clahe_gamma_median_normalize

GRID = (8, 8)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FORMATS = [torch.contiguous_format, torch.channels_last]


def assert_same_bytes(
    image: np.ndarray,
    clip_limit: float = 2.0,
    tile_grid: tuple[int, int] = GRID,
    gamma: float = 1.2,
) -> None:
    got = clahe_gamma_median(
        torch.from_numpy(image), clip_limit=clip_limit, tile_grid=tile_grid, gamma=gamma
    )
    want = opencv_chain(image, clip_limit, tile_grid, numpy_gamma(gamma))
    differing = int((got.numpy() != want).sum())
    assert differing == 0, f"{differing} of {want.size} bytes differ from OpenCV"


# Sizes around the widths of vectors and blocks, whole tiles and none.
SIZES = [(1, 1), (1, 2), (2, 1), (7, 5), (1, 37), (41, 1), (2, 300), (3, 63), (5, 64), (9, 65)]
SIZES += [(16, 127), (17, 129), (64, 64), (224, 224), (300, 401), (511, 513), (512, 512)]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_size_has_the_bytes_of_opencv(size: tuple[int, int], channels: int) -> None:
    assert_same_bytes(noise(*size, channels))


@pytest.mark.parametrize("clip_limit", [0, 0.01, 0.5, 1, 2.0, 40.0, 256.0, 1e6])
@pytest.mark.parametrize("tile_grid", [(1, 1), (8, 8), (7, 3), (2, 16), (13, 9)])
def test_every_grid_and_clip_limit_has_the_bytes_of_opencv(
    tile_grid: tuple[int, int], clip_limit: float
) -> None:
    # 96 x 112: (8, 8) and (2, 16) divide it, (7, 3) divides both sides unevenly, (13, 9) neither.
    image = cv2.GaussianBlur(noise(96, 112, 3), (9, 9), 0)
    assert_same_bytes(image, clip_limit, tile_grid)


@pytest.mark.parametrize("clip_limit", [0, 2.0, 40.0])
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
    size: tuple[int, int], tile_grid: tuple[int, int], clip_limit: float
) -> None:
    assert_same_bytes(noise(*size, 3), clip_limit, tile_grid)


def test_a_grid_far_larger_than_the_image_costs_no_memory_for_tiles_without_pixels() -> None:
    image = torch.from_numpy(noise(5, 7, 3))
    want = clahe_gamma_median(image, tile_grid=(64, 64))
    assert torch.equal(clahe_gamma_median(image, tile_grid=(2**31 - 1, 10**9)), want)


def test_a_clip_limit_beyond_int32_clips_nothing() -> None:
    image = torch.from_numpy(cv2.GaussianBlur(noise(64, 64, 3), (9, 9), 0))
    unclipped = clahe_gamma_median(image, clip_limit=0)
    assert torch.equal(clahe_gamma_median(image, clip_limit=1e300), unclipped)
    assert torch.equal(clahe_gamma_median(image, clip_limit=10**300), unclipped)
    assert not torch.equal(clahe_gamma_median(image, clip_limit=2.0), unclipped)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("levels", [(0, 0), (255, 255), (128, 128), (0, 255), (100, 101)])
def test_flat_and_two_valued_images_have_the_bytes_of_opencv(
    levels: tuple[int, int], channels: int
) -> None:
    image = np.random.default_rng(1).choice(np.array(levels, np.uint8), (61, 64, channels))
    assert_same_bytes(image)


def test_every_one_of_the_16_million_colours_has_the_bytes_of_opencv() -> None:
    second, third = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    for start in range(0, 256, 32):
        planes = [
            np.stack((np.full_like(second, first), second, third), axis=-1)
            for first in range(start, start + 32)
        ]
        # One tile without clipping spreads L over all of 0..255; colours stay side by side.
        assert_same_bytes(np.concatenate(planes, axis=1).astype(np.uint8), 0, (1, 1), 1.0)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1, 2.2, 10.0])
def test_every_gamma_has_the_bytes_of_opencv(gamma: float) -> None:
    assert_same_bytes(noise(33, 50, 3), gamma=gamma)


def test_a_table_takes_the_place_of_gamma() -> None:
    image, lut = noise(40, 30, 3), noise(512, seed=1)[::2]
    got = clahe_gamma_median(torch.from_numpy(image), lut=torch.from_numpy(lut), gamma=-1)
    assert np.array_equal(got.numpy(), opencv_chain(image, 2.0, GRID, lut))


def test_random_configurations_have_the_bytes_of_opencv() -> None:
    wrong = []
    for index in range(300):
        case = random_case(7, index, 120)
        got = clahe_gamma_median(
            torch.from_numpy(case.images),
            clip_limit=case.clip_limit,
            tile_grid=case.tile_grid,
            lut=torch.from_numpy(case.lut),
        )
        if not np.array_equal(got.numpy(), case.expected()):
            wrong.append(f"{index}: {case}")
    assert wrong == []


@pytest.mark.parametrize("channels", [3, 1])
def test_a_batch_has_the_bytes_of_its_single_images(channels: int) -> None:
    batch = torch.from_numpy(noise(5, 45, 62, channels))
    singles = torch.stack([clahe_gamma_median(image) for image in batch])
    assert torch.equal(clahe_gamma_median(batch), singles)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_does_not_change_bytes(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for shape in ((1, 61, 40, 3), (2, 5, 70, 1), (9, 33, 20, 3), (1, 1, 1, 3)):
            images = noise(*shape)
            got = clahe_gamma_median(torch.from_numpy(images))
            assert np.array_equal(got.numpy(), opencv_chain(images, 2.0, GRID, numpy_gamma(1.2)))
    finally:
        torch.set_num_threads(before)


def layouts(hwc: Tensor) -> dict[str, Tensor]:
    """Return views of the values of `hwc` [N, H, W, C] that lie differently in memory."""
    count, height, width, channels = hwc.shape
    wide = torch.zeros(2 * count, 2 * height, 2 * width, channels + 2, dtype=torch.uint8)
    wide[::2, ::2, 1::2, 1:-1] = hwc
    return {
        "dense": hwc,
        "planes": hwc.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "transposed": hwc.transpose(1, 2).contiguous().transpose(1, 2),
        "gaps": wide[::2, ::2, 1::2, 1:-1],
        "batch last": hwc.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    }


@pytest.mark.parametrize("channels", [3, 1])
def test_strides_do_not_change_bytes(channels: int) -> None:
    hwc = torch.from_numpy(noise(3, 40, 52, channels))
    want = clahe_gamma_median(hwc)
    for name, view in layouts(hwc).items():
        got = clahe_gamma_median(view)
        assert got.is_contiguous(), name
        assert torch.equal(got, want), name
    repeated = hwc[:1].expand(3, -1, -1, -1)
    assert torch.equal(clahe_gamma_median(repeated), want[:1].expand(3, -1, -1, -1))


@pytest.mark.parametrize("channels", [3, 1])
def test_a_chw_image_has_the_bytes_of_the_hwc_one(channels: int) -> None:
    hwc = torch.from_numpy(noise(3, 40, 52, channels))
    want = clahe_gamma_median(hwc).permute(0, 3, 1, 2)
    for chw in (hwc.permute(0, 3, 1, 2), hwc.permute(0, 3, 1, 2).contiguous()):
        got = clahe_gamma_median(chw, layout="chw")
        assert got.is_contiguous()
        assert torch.equal(got, want)
        assert torch.equal(clahe_gamma_median(chw[1], layout="chw"), want[1])


@pytest.mark.parametrize("channels", [3, 1])
def test_out_is_filled_and_returned_and_nothing_else_is_written(channels: int) -> None:
    images = torch.from_numpy(noise(3, 20, 33, channels))
    before = images.clone()
    want = clahe_gamma_median(images)
    for name, out in layouts(torch.full_like(images, 7)).items():
        assert clahe_gamma_median(images, out=out) is out, name
        assert torch.equal(out, want), name
    wide = torch.full((3, 22, 35, channels), 7, dtype=torch.uint8)
    clahe_gamma_median(images, out=wide[:, 1:-1, 1:-1])
    assert torch.equal(wide[:, 1:-1, 1:-1], want)
    wide[:, 1:-1, 1:-1] = 7
    assert bool((wide == 7).all())
    assert torch.equal(images, before)


@pytest.mark.parametrize("layout", ["hwc", "chw"])
def test_a_single_image_fits_a_place_in_a_batch(layout: str) -> None:
    images = torch.from_numpy(noise(2, 3, 3, 20) if layout == "chw" else noise(2, 20, 30, 3))
    batch = torch.zeros_like(images)
    for image, out in zip(images, batch, strict=True):
        clahe_gamma_median(image, out=out, layout=layout)
    assert torch.equal(batch, clahe_gamma_median(images, layout=layout))


@pytest.mark.parametrize(("shape", "layout"), [((0, 8, 9, 3), "hwc"), ((0, 1, 8, 9), "chw")])
def test_an_empty_batch_gives_an_empty_batch(shape: tuple[int, ...], layout: str) -> None:
    images = torch.zeros(shape, dtype=torch.uint8)
    got = clahe_gamma_median(images, layout=layout)
    assert got.shape == shape
    assert got.dtype == torch.uint8
    channels = shape[3] if layout == "hwc" else shape[1]
    normalised = clahe_gamma_median_normalize(
        images, mean=[0.5] * channels, std=[0.5] * channels, layout=layout
    )
    assert normalised.shape == (0, channels, 8, 9)


# --- Normalised ---------------------------------------------------------------------------------


def chain(images: Tensor, mean: list[float], std: list[float], dtype: torch.dtype) -> Tensor:
    """Normalise uint8 [N, H, W, C] into [N, C, H, W] by the operations that ours replaces."""
    means, deviations = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (mean, std))
    return ((images.permute(0, 3, 1, 2).float() / 255 - means) / deviations).to(dtype)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalised_images_have_the_bits_of_the_chain(
    dtype: torch.dtype, memory_format: torch.memory_format, channels: int
) -> None:
    images = torch.from_numpy(noise(3, 37, 65, channels))
    mean, std = MEAN[:channels], STD[:channels]
    want = chain(clahe_gamma_median(images), mean, std, dtype)
    options: dict[str, Any] = {"mean": mean, "std": std, "dtype": dtype}
    options["memory_format"] = memory_format
    got = clahe_gamma_median_normalize(images, **options)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=memory_format)
    assert torch.equal(got, want)
    chw = images.permute(0, 3, 1, 2).contiguous()
    assert torch.equal(clahe_gamma_median_normalize(chw, layout="chw", **options), want)
    single = clahe_gamma_median_normalize(images[1], **options)
    assert torch.equal(single, want[1])
    assert single.unsqueeze(0).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_byte_is_normalised_with_the_bits_of_the_chain(dtype: torch.dtype) -> None:
    # Without clipping, a flat image of each grey comes out as one byte of all 256, by the table.
    images = torch.full((256, 2, 2, 3), 9, dtype=torch.uint8)
    for byte in range(256):
        lut = torch.full((256,), byte, dtype=torch.uint8)
        got = clahe_gamma_median_normalize(images[:1], mean=MEAN, std=STD, dtype=dtype, lut=lut)
        want = chain(torch.full_like(images[:1], byte), MEAN, STD, dtype)
        assert torch.equal(got, want), byte


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalised_out_takes_any_strides(dtype: torch.dtype) -> None:
    images = torch.from_numpy(noise(3, 20, 33, 3))
    want = clahe_gamma_median_normalize(images, mean=MEAN, std=STD, dtype=dtype)
    for name, view in layouts(torch.zeros_like(images)).items():
        out = torch.empty_strided(view.shape, view.stride(), dtype=dtype).permute(0, 3, 1, 2)
        got = clahe_gamma_median_normalize(images, mean=MEAN, std=STD, dtype=dtype, out=out)
        assert got is out, name
        assert torch.equal(out, want), name


@pytest.mark.parametrize("kind", [tuple, np.array, np.float32, torch.tensor])
def test_mean_and_std_may_be_any_array(kind: Any) -> None:
    images = torch.from_numpy(noise(20, 30, 3))
    mean, std = [0.5, 0.25, 0.125], [1.0, 0.5, 2.0]
    want = clahe_gamma_median_normalize(images, mean=mean, std=std, gamma=2.0)
    got = clahe_gamma_median_normalize(images, mean=kind(mean), std=kind(std), gamma=np.float32(2))
    assert torch.equal(got, want)


def test_a_gradient_that_needs_what_out_held_is_refused() -> None:
    images = torch.from_numpy(noise(20, 30, 3))
    weight = torch.ones(3, 20, 30, requires_grad=True)
    out = torch.empty(3, 20, 30)
    clahe_gamma_median_normalize(images, mean=MEAN, std=STD, out=out)
    loss = (weight * out).sum()
    clahe_gamma_median_normalize(255 - images, mean=MEAN, std=STD, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        images = images.clone()
        assert clahe_gamma_median(images, out=torch.empty_like(images)).is_inference()


# --- Bad input ----------------------------------------------------------------------------------

IMAGE = torch.zeros(4, 5, 3, dtype=torch.uint8)
LUT = torch.zeros(256, dtype=torch.uint8)
NAN, INFINITY = float("nan"), float("inf")
OVERLAPPING = torch.zeros(8, 5, 3, dtype=torch.uint8)
NESTED = torch.nested.nested_tensor([IMAGE], layout=torch.jagged)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (IMAGE.float(), {}, r"`images` must be a uint8 tensor.*got float32 \[4, 5, 3\]"),
        (IMAGE.numpy(), {}, r"`images` must be a uint8 tensor.*got ndarray"),
        (IMAGE[0], {}, r"`images` must be .*\[N, H, W, C\], got uint8 \[5, 3\]"),
        (IMAGE[..., :2], {}, r"`images` must be .*C = 1 or 3.*got uint8 \[4, 5, 2\]"),
        (IMAGE, {"layout": "chw"}, r"`images` must be .*\[C, H, W\].*layout \"chw\".*\[4, 5, 3\]"),
        (IMAGE[:0], {}, r"`images` must be .*H, W >= 1.*got uint8 \[0, 5, 3\]"),
        (IMAGE, {"layout": "nhwc"}, r"`layout` must be \"hwc\" or \"chw\", got 'nhwc'"),
        (IMAGE.to_sparse(), {}, r"`images` must be a strided tensor, got sparse_coo"),
        (NESTED, {}, r"`images` must be a strided tensor, got nested"),
        (IMAGE, {"tile_grid": 8}, r"`tile_grid` must be two positive ints.*got 8"),
        (IMAGE, {"tile_grid": (8, 0)}, r"`tile_grid` must be .*got \(8, 0\)"),
        (IMAGE, {"tile_grid": (-8, 8)}, r"`tile_grid` must be .*got \(-8, 8\)"),
        (IMAGE, {"tile_grid": (2**31, 8)}, r"`tile_grid` must be .*below 2\*\*31, got"),
        (IMAGE, {"clip_limit": NAN}, r"`clip_limit` must be a finite number.*got nan"),
        (IMAGE, {"clip_limit": INFINITY}, r"`clip_limit` must be a finite number.*got inf"),
        (IMAGE, {"clip_limit": -0.5}, r"`clip_limit` must be .*0 \(no clipping\).*got -0.5"),
        (IMAGE, {"clip_limit": 10**400}, r"`clip_limit` must be a finite number"),
        (IMAGE, {"gamma": True}, r"`gamma` must be .*got True"),
        (IMAGE, {"gamma": 0}, r"`gamma` must be a finite number above 0, got 0"),
        (IMAGE, {"gamma": NAN}, r"`gamma` must be .*got nan"),
        (IMAGE, {"lut": LUT[:255]}, r"`lut` must be .*uint8 \[255\]"),
        (IMAGE, {"lut": LUT.to("meta")}, r"`lut` must be a tensor that holds bytes.*on meta"),
        (IMAGE, {"lut": LUT.to_sparse()}, r"`lut` must be a strided tensor, got sparse_coo"),
        (IMAGE, {"lut": LUT.float()}, r"`lut` must be a uint8 tensor.*float32 \[256\]"),
        (IMAGE, {"lut": [0] * 256}, r"`lut` must be a uint8 tensor of shape \[256\], got list"),
        (IMAGE, {"out": IMAGE.numpy()}, r"`out` must be uint8 \[4, 5, 3\] on cpu.*got ndarray"),
        (IMAGE, {"out": IMAGE[1:].clone()}, r"`out` must be uint8 \[4, 5, 3\].*uint8 \[3, 5, 3\]"),
        (IMAGE, {"out": IMAGE.float()}, r"`out` must be uint8 .*got float32 \[4, 5, 3\]"),
        (IMAGE, {"out": IMAGE.to("meta")}, r"`out` must be .* on cpu.*got .* on meta"),
        (IMAGE, {"out": IMAGE}, r"`out` must be in memory apart from `images`"),
        (OVERLAPPING[:4], {"out": OVERLAPPING[3:7]}, r"`out` must be in memory apart from"),
        (IMAGE, {"out": IMAGE[:1].clone().expand(4, 5, 3)}, r"`out` must be .*do not overlap"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed_and_what_came(
    images: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PerfkitError, match=message) as refusal:
        clahe_gamma_median(images, **options)
    assert "\n" not in str(refusal.value)
    assert not IMAGE.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": MEAN[:2]}, r"`mean` must be 3 finite float32 numbers, one a.*got \[0.485, 0.456"),
        ({"mean": [0, 0, NAN]}, r"`mean` must be .*got \[0, 0, nan\]"),
        ({"mean": [0, 0, True]}, r"`mean` must be .*got \[0, 0, True\]"),
        ({"mean": b"abc"}, r"`mean` must be .*got b'abc'"),
        ({"mean": np.zeros((3, 1))}, r"`mean` must be .*got array\(\[\[0"),
        ({"mean": 0.5}, r"`mean` must be 3 finite.*got 0.5"),
        (
            {"std": [1, 1, 0]},
            r"`std` must be 3 .* of 2\*\*-126 .* or more.*got \[1, 1, 0\]",
        ),
        ({"std": [1, 1, 1e-50]}, r"`std` must be .*got \[1, 1, 1e-50\]"),
        ({"dtype": torch.float64}, r"`dtype` must be torch.float32, .*got torch.float64"),
        ({"memory_format": torch.preserve_format}, r"`memory_format` must be .*got torch.preserve"),
        ({"out": torch.zeros(4, 5, 3)}, r"`out` must be float32 \[3, 4, 5\].*got float32 \[4, 5"),
        ({"out": torch.zeros(3, 4, 5).half()}, r"`out` must be float32 .*got float16 \[3, 4, 5\]"),
        (
            {"out": torch.zeros(3, 4, 5, requires_grad=True)},
            r"`out` must be .*without gradient.*requiring gradient",
        ),
        ({"clip_limit": -1}, r"`clip_limit` must be .*got -1"),
    ],
)
def test_a_wrong_argument_of_normalisation_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PerfkitError, match=message):
        clahe_gamma_median_normalize(IMAGE, **({"mean": MEAN, "std": STD} | options))


# --- What reaches the operator directly -----------------------------------------------------------

BATCH = torch.zeros(2, 4, 5, 3, dtype=torch.uint8)


def shrunk(tensor: Tensor) -> Tensor:
    """Return a copy whose storage was cut behind its back."""
    copy = tensor.clone()
    copy.untyped_storage().resize_(7)
    return copy


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": BATCH[0]}, r"`images` must be uint8 \[N, H, W, C\], got uint8 \[4, 5, 3\]"),
        ({"images": BATCH.float()}, r"`images` must be .*got float32 \[2, 4, 5, 3\] on cpu"),
        ({"images": BATCH[..., :2], "out": BATCH[..., :2].clone()}, r"`images` must be .*C = 1 or"),
        ({"images": shrunk(BATCH)}, r"`images` must be a tensor within its storage, got 7 bytes"),
        ({"table": LUT[:9]}, r"`lut` must be contiguous uint8 \[256\] on cpu, got uint8 \[9\]"),
        ({"table": LUT.to(torch.int8)}, r"`lut` must be contiguous uint8 \[256\] on cpu, got"),
        ({"table": LUT[:1].expand(256)}, r"`lut` must be .*not contiguous"),
        ({"table": shrunk(LUT)}, r"`lut` must be a tensor within its storage, got 7 bytes"),
        ({"values": torch.zeros(3, 256)}, r"`out` must be float32, .* where `values` are given"),
        ({"out": BATCH.float()}, r"`out` must be uint8 where no `values` are given, got float32"),
        (
            {"out": BATCH.half(), "values": torch.zeros(3, 256)},
            r"`values` must be contiguous float16 \[3, 256\] on cpu, got float32 \[3, 256\]",
        ),
        (
            {"out": BATCH.float(), "values": torch.zeros(1, 256)},
            r"`values` must be contiguous float32 \[3, 256\] on cpu, got float32 \[1, 256\]",
        ),
        ({"out": BATCH[:1].clone()}, r"`out` must be \[2, 4, 5, 3\] on cpu, got uint8 \[1, 4, 5"),
        ({"out": shrunk(BATCH)}, r"`out` must be a tensor within its storage, got 7 bytes"),
        ({"out": BATCH[:1].clone().expand(2, 4, 5, 3)}, r"`out` must be .*do not overlap"),
        ({"clip_limit": NAN}, r"`clip_limit` must be a finite number, .*got nan"),
        ({"clip_limit": -1.0}, r"`clip_limit` must be a finite number, .*got -1"),
        ({"clip_limit": INFINITY}, r"`clip_limit` must be a finite number, .*got inf"),
        ({"columns": 0}, r"`tile_grid` must be two ints .*got \(0, 8\)"),
        ({"rows": -(2**63)}, r"`tile_grid` must be two ints .*got \(8, -9223372036854775808\)"),
        ({"out": BATCH.to("meta")}, r"`out` must be on cpu, like `images`, got .* on meta"),
        ({"table": LUT.to("meta")}, r"`lut` must be on cpu, like `images`, got .* on meta"),
        ({"columns": 2**63 - 1}, r"`tile_grid` must be two ints .*from 1 to 2147483647"),
    ],
)
def test_the_operator_itself_refuses_what_would_leave_its_memory(
    changed: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"images": BATCH, "table": LUT, "values": None}
    arguments |= {"clip_limit": 2.0, "columns": 8, "rows": 8, "out": torch.zeros_like(BATCH)}
    with pytest.raises(RuntimeError, match=f"^clahe_gamma_median: {message}"):
        torch.ops.perfkit.clahe_gamma_median(**(arguments | changed))


@pytest.mark.parametrize(
    ("height", "width", "columns", "message"),
    [
        (50_000, 50_000, 1, r"so fine that a tile has at most 2147483647 .*got 50000 x 50000"),
        (1, 2**22 + 1, 2**31 - 1, r"so coarse that at most 4194304 tiles lie .*got 4194305 x 1"),
        (1, 2**31, 1, r"H, W <= 2147483647"),
    ],
)
def test_the_operator_refuses_what_it_cannot_count(
    height: int, width: int, columns: int, message: str
) -> None:
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1, height, width, 1)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.perfkit.clahe_gamma_median(images, LUT, None, 2.0, columns, 1, images)


def test_an_empty_image_is_nothing_to_do_for_the_operator() -> None:
    for shape in ((0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 0, 1)):
        empty = torch.zeros(shape, dtype=torch.uint8)
        torch.ops.perfkit.clahe_gamma_median(empty, LUT, None, 2.0, 8, 8, empty.clone())


# --- Real photographs -----------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize("name", PHOTO_SETS)
def test_every_real_photo_has_the_bytes_of_opencv(name: str, data_dir: Path) -> None:
    count = 0
    for photo in photos(data_dir / name):
        assert_same_bytes(photo)
        count += len(photo) if photo.ndim == 4 else 1
    assert count >= 100, f"{count} photos under {data_dir / name}"
