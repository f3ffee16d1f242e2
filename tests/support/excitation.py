"""Cases of Squeeze-and-Excitation, and what they give by its formulas in float64.

As a program, runs the cases with the instruction set that PERFKIT_CPU_ISA names, and prints its
name: it is read once in a process.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from perfkit.ops import build_info, squeeze_excite

NAMES = ("x", "w1", "b1", "w2", "b2", "residual")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAYOUTS = ("NCHW", "channels_last", "tokens")
# Single elements, planes and rows shorter than a register and no multiples of one, and planes long
# enough for sums of sums.
IMAGES = ((3, 64, 7, 7), (2, 33, 5, 3), (2, 48, 1, 1), (1, 1, 3, 3), (1, 7, 13, 17), (2, 5, 71, 61))
TOKENS = ((4, 20, 31), (1, 1, 1), (2, 197, 24), (1, 2500, 3))
FORMS = ("linear", "conv", "float32 layers")


class Case(NamedTuple):
    """One call: x, w1, b1, w2, b2, residual; whether with a ReLU; the gradient of the result."""

    tensors: tuple[Tensor | None, ...]
    relu: bool
    grad: Tensor

    def double(self) -> Case:
        return Case(
            tuple(None if one is None else one.double() for one in self.tensors),
            self.relu,
            self.grad.double(),
        )


def make(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    layout: str = "NCHW",
    form: str = "linear",
    bias: bool = True,
    residual: bool = False,
    relu: bool = False,
    squeeze: int | None = None,
    seed: int = 0,
) -> Case:
    """Return a case of random tensors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int, to: torch.dtype = dtype) -> Tensor:
        return torch.randn(sizes, generator=generator).to(to)

    last = layout == "channels_last"
    memory_format = torch.channels_last if last else torch.contiguous_format
    channels = shape[2] if layout == "tokens" else shape[1]
    squeeze = squeeze or max(channels // 16, 2)
    layers = torch.float32 if form == "float32 layers" and dtype.itemsize < 4 else dtype
    ones = (1, 1) if form == "conv" else ()
    # With means, as behind a ReLU: sums do not cancel.
    x, added, grad = (
        (normal(*shape) + mean).contiguous(memory_format=memory_format) for mean in (0.5, 0, 1)
    )
    w1 = (normal(squeeze, channels, to=layers) * channels**-0.5).reshape(squeeze, channels, *ones)
    b1 = normal(squeeze, to=layers) + 1
    w2 = (normal(channels, squeeze, to=layers) * squeeze**-0.5).reshape(channels, squeeze, *ones)
    b2 = normal(channels, to=layers)
    tensors = (x, w1, b1 if bias else None, w2, b2 if bias else None, added if residual else None)
    return Case(tensors, relu, grad)


def cases(dtype: torch.dtype, layout: str) -> Iterator[Case]:
    """Yield every shape with every form of layers, with and without all that is optional."""
    shapes: tuple[tuple[int, ...], ...] = TOKENS if layout == "tokens" else IMAGES
    optional = itertools.product(FORMS, (False, True), (False, True), (False, True))
    for seed, (shape, options) in enumerate(itertools.product(shapes, optional), start=1000):
        form, bias, residual, relu = options
        yield make(
            shape,
            dtype,
            layout=layout,
            form=form,
            bias=bias,
            residual=residual,
            relu=relu,
            seed=seed,
        )


def evaluate(function: Callable[..., Tensor], case: Case) -> dict[str, Tensor]:
    """Return the result, as ``y``, and the gradient of every tensor of the case, by its name."""
    tensors = [None if one is None else one.detach().requires_grad_() for one in case.tensors]
    *arguments, residual = tensors
    y = function(*arguments, residual=residual, activation="relu" if case.relu else None)
    return {"y": y.detach()} | gradients(y, tensors, case.grad)


def gradients(y: Tensor, tensors: list[Tensor | None], grad: Tensor) -> dict[str, Tensor]:
    """Return the gradients of those tensors that there are, by name."""
    given = {name: one for name, one in zip(NAMES, tensors, strict=True) if one is not None}
    made = torch.autograd.grad(y, list(given.values()), grad)
    return dict(zip(given, made, strict=True))


def by_formulas(case: Case, y: Tensor) -> dict[str, Tensor]:
    """Return in float64 what `evaluate` should: Hu et al. (2018), section 3.

    The ReLU's gradient is 0 where ``y``, the result itself, is 0: about elements within rounding of
    zero, float64 may think otherwise.
    """
    exact = case.double()
    tensors = [None if one is None else one.requires_grad_() for one in exact.tensors]
    x, w1, b1, w2, b2, residual = tensors
    assert x is not None
    assert w1 is not None
    assert w2 is not None
    pixels = x if x.dim() == 3 else x.flatten(2).transpose(1, 2)  # [N, S, C]
    mean = pixels.sum(1) / pixels.shape[1]
    hidden = (mean @ w1.flatten(1).T + (0 if b1 is None else b1)).clamp(min=0)
    gate = 1 / (1 + torch.exp(-(hidden @ w2.flatten(1).T + (0 if b2 is None else b2))))
    result = x * (gate[:, None] if x.dim() == 3 else gate[:, :, None, None])
    if residual is not None:
        result = result + residual
    grad = exact.grad * (y > 0) if case.relu else exact.grad
    value = result.detach().clamp(min=0) if case.relu else result.detach()
    return {"y": value} | gradients(result, tensors, grad)


def assert_right(case: Case, got: dict[str, Tensor]) -> None:
    """Hold results to the formulas: computed in float32 (float64), rounded once to their dtype."""
    want = by_formulas(case, got["y"])
    assert got.keys() == want.keys()
    real = torch.float64 if case.grad.dtype == torch.float64 else torch.float32
    tensors = {"y": case.grad} | dict(zip(NAMES, case.tensors, strict=True))
    for name, exact in want.items():
        like, result = tensors[name], got[name]
        assert like is not None
        facts = (result.dtype, result.shape, result.stride())
        assert facts == (like.dtype, like.shape, like.stride()), name
        limits = torch.finfo(result.dtype)
        allowed = exact.abs() * (limits.eps / 2) + limits.smallest_normal * (limits.eps / 2)
        # The layers' gradients are sums of terms of both signs, much larger than themselves.
        slack = 64 if name in ("y", "x", "residual") else 4096
        allowed += slack * torch.finfo(real).eps * exact.abs().max()
        wrong = int(((result.double() - exact).abs() > allowed).sum())
        assert wrong == 0, f"{name} {tuple(like.shape)}: {wrong} numbers are too far off"


def main() -> None:
    torch.set_num_threads(1)
    for dtype, layout in itertools.product(DTYPES[:3], LAYOUTS):
        for case in itertools.islice(cases(dtype, layout), 0, None, 5):
            assert_right(case, evaluate(squeeze_excite, case))
    print(build_info().isa)


if __name__ == "__main__":
    main()
