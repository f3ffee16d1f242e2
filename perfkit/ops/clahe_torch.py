"""CLAHE, gamma and median of uint8 tensors in one native pass, with the bytes of OpenCV 5.

`perfkit/ops/reference/clahe_gamma_median.py` is the same in plain torch, and says what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perfkit.core.errors import PerfkitError
from perfkit.ops import native
from perfkit.ops.clahe_checks import (
    NAME,
    check_gamma,
    check_images,
    check_lut,
    check_normalisation,
    check_parameters,
    refusal,
)
from perfkit.ops.clahe_tables import (
    gamma_values,
    gamma_values_kept,
    normalised_values,
    normalised_values_kept,
)
from perfkit.ops.refusals import describe

_WHY_NO_CUDA = native.load()
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FORMATS = (torch.contiguous_format, torch.channels_last)


@torch.library.register_fake("perfkit::clahe_gamma_median")  # type: ignore[untyped-decorator]
def _(images: Tensor, table: Tensor, values: Tensor | None, *rest: Any) -> None:
    """Say that only `out` changes; refuse meta tensors among real ones, which lead here too."""
    for name, tensor in (("lut", table), ("values", values), ("out", rest[-1])):
        if tensor is not None and tensor.device != images.device:
            place = f"on {images.device}, like `images`"
            raise RuntimeError(str(refusal(name, place, f"{describe(tensor)} on {tensor.device}")))


def clahe_gamma_median(
    images: Tensor,
    *,
    clip_limit: float = 2.0,
    tile_grid: tuple[int, int] = (8, 8),
    gamma: float = 1.2,
    lut: Tensor | None = None,
    out: Tensor | None = None,
    layout: str = "hwc",
) -> Tensor:
    """Equalise contrast tile by tile, apply a gamma table, and take the 3x3 median.

    Three channels are RGB: CLAHE runs on L of the 8-bit L*a*b* image, which goes back to RGB
    before the table and the median of each channel. One channel goes through CLAHE, table and
    median as it is. Every image is treated alone: a batch gives the bytes of its single images.

    The bytes are those of OpenCV 5 on x86-64: `cvtColor(RGB2LAB)`, `createCLAHE(clip_limit,
    tile_grid).apply` on L, `cvtColor(LAB2RGB)`, `LUT`, `medianBlur(3)`. The CPU implementation
    runs on torch's threads, the CUDA one on the current stream. torch.vmap, nested tensors and
    subclasses of Tensor are not supported.

    Args:
        images: uint8 [H, W, C] or [N, H, W, C] (layout "hwc"), [C, H, W] or [N, C, H, W]
            (layout "chw"); C is 3 or 1, H and W are at least 1, N may be 0, any strides, CPU or
            CUDA.
        clip_limit: the highest histogram bin, in multiples of the mean bin of a tile; 0 means no
            clipping, and so does 256 or more. A negative one is refused (OpenCV takes it for 0).
        tile_grid: tiles as (columns, rows); may exceed the image.
        gamma: a byte v becomes 255 * (v / 255) ** (1 / gamma), rounded half to even: above 1
            brightens. Not looked at when `lut` is given.
        lut: uint8 [256] on any device, used in place of the gamma table.
        out: uint8, shape and device of `images`, any strides; its memory lies apart from that of
            the inputs.
        layout: "hwc" or "chw", of `images` and of the result.

    Returns:
        `out`, or a new uint8 tensor, shape and device of `images`, contiguous.

    Raises:
        PerfkitError: an argument is not as described above, or the native library is missing.
    """
    _check(images, layout)
    clip_limit = check_parameters(clip_limit, tile_grid)
    table = _table(images, gamma, lut)
    if out is None:
        result = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    else:
        result = _check_out(out, list(images.shape), torch.uint8, images.device)
    _run(_nhwc(images, layout), _nhwc(result, layout), table, None, (clip_limit, tile_grid))
    if out is not None:
        _note_change(out)
    return result


def clahe_gamma_median_normalize(
    images: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    clip_limit: float = 2.0,
    tile_grid: tuple[int, int] = (8, 8),
    gamma: float = 1.2,
    lut: Tensor | None = None,
    out: Tensor | None = None,
    layout: str = "hwc",
) -> Tensor:
    """Run `clahe_gamma_median` and normalise its result for a network, in the same pass.

    A byte v of channel c becomes (v / 255 - mean[c]) / std[c], each step rounded to float32 as
    torch does on the CPU, then cast to `dtype`: bit for bit `((x.float() / 255 - mean) /
    std).to(dtype)`, which is torchvision's `to_tensor` and `Normalize`. (Its v2 `ToDtype`
    multiplies by 1 / 255 instead, which differs in the last bit.)

    Args:
        images: as for `clahe_gamma_median`.
        mean: one finite number a channel, on the scale 0..1.
        std: one finite number of 2**-126 or more a channel, on the scale 0..1.
        dtype: float32, float16 or bfloat16.
        memory_format: of a new result: torch.contiguous_format or torch.channels_last.
        clip_limit: as for `clahe_gamma_median`, like all that follow.
        tile_grid: tiles as (columns, rows).
        gamma: exponent of the gamma table.
        lut: uint8 [256], used in place of the gamma table.
        out: `dtype` [N, C, H, W] ([C, H, W] for one image) on the device of `images`, any
            strides; `memory_format` is then not looked at.
        layout: "hwc" or "chw", of `images` only.

    Returns:
        `out`, or a new tensor: `dtype` [N, C, H, W] ([C, H, W] for one image).

    Raises:
        PerfkitError: an argument is not as described above, or the native library is missing.
    """
    height, width, channels = _check(images, layout)
    clip_limit = check_parameters(clip_limit, tile_grid)
    means, deviations = check_normalisation(mean, std, channels)
    if dtype not in _DTYPES:
        raise refusal("dtype", "torch.float32, torch.float16 or torch.bfloat16", repr(dtype))
    if memory_format not in _FORMATS:
        expected = "torch.contiguous_format or torch.channels_last"
        raise refusal("memory_format", expected, repr(memory_format))
    table = _table(images, gamma, lut)
    values = _values(images, means, deviations, dtype)
    batch = _nhwc(images, layout)
    if out is None:
        shape = (batch.shape[0], channels, height, width)
        result = torch.empty(shape, dtype=dtype, device=images.device, memory_format=memory_format)
        result = result if images.dim() == 4 else result.squeeze(0)
    else:
        wanted = [*images.shape[:-3], channels, height, width]
        result = _check_out(out, wanted, dtype, images.device)
    _run(batch, _nhwc(result, "chw"), table, values, (clip_limit, tile_grid))
    if out is not None:
        _note_change(out)
    return result


def _check(images: Tensor, layout: str) -> tuple[int, int, int]:
    _check_strided("images", images)
    sizes = check_images(images, Tensor, torch.uint8, layout)
    if images.is_cuda and _WHY_NO_CUDA:
        raise refusal("images", f"on the CPU ({_WHY_NO_CUDA})", f"on {images.device}")
    if images.device.type not in ("cpu", "cuda", "meta"):
        raise refusal("images", "on the CPU or a CUDA device", f"on {images.device}")
    return sizes


def _check_strided(name: str, tensor: object) -> None:
    """Refuse sparse and nested tensors, which have no shape or memory to speak of."""
    if isinstance(tensor, Tensor) and (tensor.is_nested or tensor.layout != torch.strided):
        got = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise refusal(name, "a strided tensor", got)


def _check_out(out: object, shape: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    _check_strided("out", out)
    expected = f"{str(dtype).removeprefix('torch.')} {shape} on {device}, without gradient"
    if not isinstance(out, Tensor):
        raise refusal("out", expected, type(out).__name__)
    if out.dtype != dtype or list(out.shape) != shape or out.device != device or out.requires_grad:
        gradient = ", requiring gradient" if out.requires_grad else ""
        raise refusal("out", expected, f"{describe(out)} on {out.device}{gradient}")
    return out


def _nhwc(tensor: Tensor, layout: str) -> Tensor:
    batch = tensor if tensor.dim() == 4 else tensor.unsqueeze(0)
    return batch if layout == "hwc" else batch.permute(0, 2, 3, 1)


def _table(images: Tensor, gamma: float, lut: Tensor | None) -> Tensor:
    if lut is not None:
        _check_strided("lut", lut)
        check_lut(lut, Tensor, torch.uint8)
        if lut.is_meta and not images.is_meta:
            raise refusal("lut", "a tensor that holds bytes", f"{describe(lut)} on meta")
        return lut.to(images.device).contiguous()
    exponent = check_gamma(gamma)
    table = gamma_values_kept if _is_eager(images) else gamma_values
    return table(exponent, images.device)


def _values(images: Tensor, mean: list[float], std: list[float], dtype: torch.dtype) -> Tensor:
    values = normalised_values_kept if _is_eager(images) else normalised_values
    return values(mean, std, dtype, images.device)


def _is_eager(images: Tensor) -> bool:
    """Say whether a table that is kept may be used, and nothing fake or symbolic is asked for."""
    return type(images) is Tensor and not torch.compiler.is_compiling()


def _note_change(out: Tensor) -> None:
    """Let autograd know that what it may have saved of `out` is gone."""
    if not torch.compiler.is_compiling() and not out.is_inference():
        torch.autograd.graph.increment_version(out)


def _run(
    images: Tensor,
    out: Tensor,
    table: Tensor,
    values: Tensor | None,
    parameters: tuple[float, tuple[int, int]],
) -> None:
    clip_limit, (columns, rows) = parameters
    operator = torch.ops.perfkit.clahe_gamma_median
    try:
        operator(images, table, values, clip_limit, columns, rows, out)
    except RuntimeError as error:
        # What only the memory tells, such as overlap, is refused at the operator's edge.
        if str(error).startswith(f"{NAME}: `"):
            raise PerfkitError(str(error)) from None
        raise
