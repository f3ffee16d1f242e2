"""CLAHE-gamma-median on a CUDA device: the CPU's bytes, and CUDA's manners.

The CPU operator stands in for OpenCV, whose bytes it has; so these tests need torch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from perfkit.core.errors import PerfkitError
from perfkit.ops import clahe_gamma_median, clahe_gamma_median_normalize
from perfkit.ops.native import require_cuda

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="no CUDA device")]

NORMALISATION: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
BUSY_CYCLES = 200_000_000  # about a tenth of a second


@pytest.fixture(autouse=True, scope="module")
def _library() -> None:
    require_cuda()


@contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Noise with dark and bright regions, so that all parts of the mappings are used."""
    slope = torch.linspace(0, 3, shape[-2])[:, None]
    return (noise(*shape, seed=seed).float() / 4 * slope).to(torch.uint8)


def assert_equal(got: Tensor, want: Tensor) -> None:
    differing = int((got.cpu() != want).sum())
    assert differing == 0, f"{differing} of {want.numel()} elements differ from the CPU's"


def arguments(images: Tensor, out: Tensor) -> tuple[Any, ...]:
    table = torch.arange(256, dtype=torch.uint8, device=images.device)
    return images, table, None, 2.0, 8, 8, out


@pytest.mark.parametrize("make", [noise, smooth])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    ("shape", "tile_grid", "clip_limit"),
    [
        ((1, 1, 1), (8, 8), 2.0),
        ((3, 1, 257), (4, 2), 2.0),
        ((3, 259, 1), (2, 5), 2.0),
        ((2, 13, 17), (40, 50), 2.0),
        ((64, 32, 32), (8, 8), 2.0),
        ((5, 224, 224), (8, 8), 0.0),
        ((5, 223, 225), (8, 8), 40.0),
        ((3, 500, 333), (7, 9), 0.01),
        ((2, 512, 512), (8, 8), 3.0),
        ((1, 1025, 2047), (1, 1), 1e6),
        ((70_000, 3, 2), (2, 1), 2.0),  # more images than a grid is high
    ],
)
def test_the_bytes_are_the_cpus(
    shape: tuple[int, int, int],
    tile_grid: tuple[int, int],
    clip_limit: float,
    channels: int,
    make: Callable[..., Tensor],
) -> None:
    images = make(*shape, channels)
    parameters: dict[str, Any] = {"clip_limit": clip_limit, "tile_grid": tile_grid}
    got = clahe_gamma_median(images.cuda(), **parameters)
    assert_equal(got, clahe_gamma_median(images, **parameters))


VIEWS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "whole": ("hwc", lambda wide: wide),
    "aligned": ("hwc", lambda wide: wide[:, :, 4:-4]),
    "unaligned": ("hwc", lambda wide: wide[:, :, 1:-7]),
    "every other row": ("hwc", lambda wide: wide[:, ::2]),
    "expanded": ("hwc", lambda wide: wide[:1].expand(4, -1, -1, -1)),
    "transposed": ("hwc", lambda wide: wide.transpose(1, 2)),
    "channels last": ("chw", lambda wide: wide.permute(0, 3, 1, 2)),
    "planes": ("chw", lambda wide: wide.permute(0, 3, 1, 2).contiguous()),
    "transposed planes": ("chw", lambda wide: wide.permute(0, 3, 2, 1).contiguous().mT),
}


@pytest.mark.parametrize("width", [64, 67])
@pytest.mark.parametrize("view", VIEWS)
def test_any_strides_and_layouts_are_read_and_written(view: str, width: int) -> None:
    layout, cut = VIEWS[view]
    wide = noise(2, 50, width + 8, 3)
    images = cut(wide.cuda())
    want = clahe_gamma_median(cut(wide), layout=layout)
    for written, (_, cut_out) in VIEWS.items():
        if written == "expanded":
            continue  # its elements overlap
        out = cut_out(torch.zeros_like(wide, device="cuda"))
        if out.shape == want.shape:
            clahe_gamma_median(images, layout=layout, out=out)
            assert_equal(out, want)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_normalised_elements_are_the_cpus(
    dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    for images in (noise(3, 224, 224, 3), noise(2, 37, 41, 3)):
        options = {**NORMALISATION, "dtype": dtype, "memory_format": memory_format}
        got = clahe_gamma_median_normalize(images.cuda(), **options)
        assert got.is_contiguous(memory_format=memory_format)
        assert_equal(got, clahe_gamma_median_normalize(images, **options))


def test_it_runs_on_the_current_stream_and_returns_before_it_is_done() -> None:
    images = noise(4, 128, 128, 3)
    device_images, late = images.cuda(), torch.zeros_like(images, device="cuda")
    out = torch.zeros_like(late)
    call = arguments(late, out)
    torch.ops.perfkit.clahe_gamma_median(*call)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), no_synchronisation():
        torch.cuda._sleep(BUSY_CYCLES)
        late.copy_(device_images)
        torch.ops.perfkit.clahe_gamma_median(*call)
        assert not stream.query(), "the operator waited for the device"
    stream.synchronize()
    assert_equal(out, clahe_gamma_median(images, gamma=1.0))


def test_a_captured_graph_follows_new_images() -> None:
    images = [noise(4, 100, 120, 3, seed=seed) for seed in range(3)]
    given = images[0].cuda()
    out = torch.empty_like(given)
    call = arguments(given, out)
    torch.ops.perfkit.clahe_gamma_median(*call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.perfkit.clahe_gamma_median(*call)
    for batch in images:
        given.copy_(batch)
        graph.replay()
        assert_equal(out, clahe_gamma_median(batch, gamma=1.0))


def test_all_memory_is_torchs() -> None:
    images = noise(16, 256, 256, 3).cuda()
    out = torch.empty_like(images)
    call = arguments(images, out)
    torch.ops.perfkit.clahe_gamma_median(*call)
    torch.cuda.synchronize()
    free, allocated = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(10):
        torch.ops.perfkit.clahe_gamma_median(*call)
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] == free
    assert torch.cuda.memory_allocated() == allocated
    assert torch.cuda.max_memory_allocated() > allocated  # the workspace


@pytest.mark.skipif(GPUS < 2, reason="needs two CUDA devices")
def test_it_runs_on_the_device_of_the_images() -> None:
    images = noise(2, 90, 70, 3)
    with torch.cuda.device(0):
        got = clahe_gamma_median(images.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    assert got.device == torch.device("cuda:1")
    assert_equal(got, clahe_gamma_median(images))


def test_calls_on_several_streams_do_not_disturb_each_other() -> None:
    images = [noise(4, 90, 110, 3, seed=seed).cuda() for seed in range(4)]
    streams = [torch.cuda.Stream() for _ in images]
    torch.cuda.synchronize()
    results: list[Tensor] = []
    for batch, stream in zip(images * 5, streams * 5, strict=True):
        with torch.cuda.stream(stream):
            results.append(clahe_gamma_median(batch))
    torch.cuda.synchronize()
    for batch, got in zip(images * 5, results, strict=True):
        assert_equal(got, clahe_gamma_median(batch.cpu()))


@pytest.mark.parametrize("channels", [3, 1])
def test_opcheck_passes(channels: int) -> None:
    images = noise(2, 20, 24, channels).cuda()
    call = arguments(images, torch.empty_like(images))
    torch.library.opcheck(torch.ops.perfkit.clahe_gamma_median.default, call)


def test_devices_are_not_mixed() -> None:
    images = noise(2, 20, 24, 3)
    with pytest.raises(PerfkitError, match="`out` must be"):
        clahe_gamma_median(images.cuda(), out=torch.empty_like(images))


def test_an_empty_batch_stays_empty() -> None:
    assert clahe_gamma_median(noise(0, 20, 24, 3).cuda()).shape == (0, 20, 24, 3)


def needs(gigabytes: int) -> None:
    if torch.cuda.mem_get_info()[0] < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GiB of device memory")


def test_batches_of_more_than_int32_elements_are_right() -> None:
    needs(6)
    images = noise(1, 512, 512, 3)
    want = clahe_gamma_median(images).cuda()
    count = 2**31 // images.numel() + 2
    got = clahe_gamma_median(images.cuda().expand(count, -1, -1, -1))
    assert got.numel() > 2**31
    assert all(bool((part == want).all()) for part in got.split(64))


@pytest.mark.slow
def test_an_image_of_more_than_int32_elements_is_right() -> None:
    needs(10)
    side = 26_760
    images = noise(1, side, 64, 3).repeat(1, 1, side // 64 + 1, 1)[:, :, :side].contiguous()
    assert images.numel() > 2**31
    got = clahe_gamma_median(images.cuda()).cpu()
    assert torch.equal(got, clahe_gamma_median(images))
