"""Squeeze-and-Excitation as two native operators, one for each direction.

`csrc/squeeze_excite/squeeze_excite.h` has the formulas, and
`perfkit/ops/reference/squeeze_excite.py` the same in plain torch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from perfkit.core.errors import PerfkitError
from perfkit.ops import native, refusals
from perfkit.ops.reference import squeeze_excite as plain
from perfkit.ops.refusals import describe

NAME = "squeeze_excite"
_refusal = partial(refusals.refusal, NAME)
_NAMES = ("x", "w1", "b1", "w2", "b2", "residual")
_PROMOTED = {torch.float32, torch.float16, torch.bfloat16}
_WHY_NO_CUDA = native.load()
_FORWARD = torch.ops.perfkit.squeeze_excite.default
_BACKWARD = torch.ops.perfkit.squeeze_excite_backward.default


def squeeze_excite(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """Scale the channels of ``x`` by gates computed from their means (Hu et al., 2018).

    mean over pixels -> w1, b1 -> ReLU -> w2, b2 -> sigmoid -> x * gate, then, in the same pass,
    + residual and a ReLU. Means, gates and their gradients are computed in float32 (in float64
    where x is), and the result is rounded once; so under autocast nothing is cast but an x or a
    residual of lower precision than the other. Results do not depend on the number of threads and
    are the same from run to run. Gradients flow to every tensor that asks for one; second
    derivatives, forward-mode differentiation, torch.func and subclasses of Tensor are not
    supported.

    Keeps x and [N, 2C + R] numbers for the backward, and with a ReLU also its own result.

    Args:
        x: float32, float16, bfloat16 or float64; [N, C, H, W], or tokens [N, L, C]. Runs as it is
            where it is contiguous or channels_last, else on a contiguous copy. N may be 0; C, H, W
            and L are at least 1. CPU or CUDA (float64 on CUDA runs the reference).
        w1: [R, C] or [R, C, 1, 1], dtype of x or float32, on the device of x like all that follow.
        b1: [R], dtype of w1, or None.
        w2: [C, R] or [C, R, 1, 1], dtype of w1.
        b2: [C], dtype of w1, or None.
        residual: shape and dtype of x (under autocast float32, float16 and bfloat16 go together,
            in float32), or None. May be x.
        activation: "relu" or None.

    Returns:
        A new tensor, shape, memory format and dtype of x, or float32 as said of the residual.

    Raises:
        PerfkitError: an argument is not as described above, or the native library is missing.
    """
    _check(x, w1, b1, w2, b2, residual, activation)
    if (
        residual is not None
        and residual.dtype != x.dtype
        and {residual.dtype, x.dtype} <= _PROMOTED
        and torch.is_autocast_enabled(x.device.type)
    ):
        x, residual, w1, w2 = x.float(), residual.float(), w1.float(), w2.float()
        b1, b2 = (None if bias is None else bias.float() for bias in (b1, b2))
    if x.dtype == torch.float64 and x.is_cuda:
        return plain.squeeze_excite(x, w1, b1, w2, b2, residual=residual, activation=activation)
    x = _dense(x, x)
    residual = None if residual is None else _dense(residual, x)
    layers = [None if one is None else one.contiguous() for one in (w1, b1, w2, b2)]
    try:
        y: Tensor = _FORWARD(x, *layers, residual, activation == "relu")[0]
    except RuntimeError as error:
        # Shapes, dtypes and devices are refused at the operator's edge.
        if str(error).startswith(f"{NAME}: `"):
            raise PerfkitError(str(error)) from None
        raise
    return y


def _check(*arguments: Any) -> None:
    *tensors, activation = arguments
    x = tensors[0]
    for name, tensor in zip(_NAMES, tensors, strict=True):
        if isinstance(tensor, Tensor):
            if tensor.is_nested or tensor.layout != torch.strided:
                got = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
                raise _refusal(name, "a strided tensor", got)
        elif tensor is not None:
            raise _refusal(name, "a tensor", type(tensor).__name__)
        elif name in ("x", "w1", "w2"):
            raise _refusal(name, "a tensor", "None")
        # Otherwise torch would drop it without a word.
        if not torch.compiler.is_compiling() and _has_tangent(tensor):
            raise _refusal(name, "without a tangent (no forward-mode derivatives)", "one with")
    if not (activation is None or (isinstance(activation, str) and activation == "relu")):
        raise _refusal("activation", 'None or "relu"', repr(activation))
    if x.is_cuda and _WHY_NO_CUDA:
        raise _refusal("x", f"on the CPU ({_WHY_NO_CUDA})", f"on {x.device}")
    if x.device.type not in ("cpu", "cuda", "meta"):
        raise _refusal("x", "on the CPU or a CUDA device", f"on {x.device}")
    if x.dim() not in (3, 4):
        raise _refusal("x", "[N, C, H, W] or [N, L, C]", describe(x))


def _has_tangent(tensor: Tensor | None) -> bool:
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None


def _dense(tensor: Tensor, x: Tensor) -> Tensor:
    """Return ``tensor`` in the memory format that the operator runs ``x`` in."""
    last = torch.channels_last
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=last):
        return tensor.contiguous(memory_format=last)
    return tensor.contiguous()


@torch.library.register_fake("perfkit::squeeze_excite")  # type: ignore[untyped-decorator]
def _(x: Tensor, w1: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    channels = x.shape[2] if x.dim() == 3 else x.shape[1]
    for name, tensor in zip(_NAMES, (x, w1, *rest[:-1]), strict=True):
        if tensor is not None and tensor.device != x.device:
            # A meta tensor among real ones leads here too.
            raise RuntimeError(str(_refusal(name, f"on {x.device}", f"on {tensor.device}")))
    return torch.empty_like(x), _real(x, x.shape[0], 2 * channels + w1.shape[0])


@torch.library.register_fake("perfkit::squeeze_excite_backward")  # type: ignore[untyped-decorator]
def _(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, w1, w2, wanted = rest
    made = (
        torch.empty_like(x),
        torch.empty_like(x),
        torch.empty_like(w1),
        w1.new_empty(w1.shape[0]),
        torch.empty_like(w2),
        w1.new_empty(w1.shape[1]),
    )
    return tuple(
        tensor if asked else x.new_empty(0) for tensor, asked in zip(made, wanted, strict=True)
    )


def _real(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=x.dtype if x.dtype == torch.float64 else torch.float32)


class _SqueezeExcite(torch.autograd.Function):
    """The forward and the backward as one node of the graph.

    By itself, because `torch.library.register_autograd` takes a quarter longer.
    """

    @staticmethod
    def forward(ctx: Any, keys: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        x, w1, _, w2, _, _, relu = inputs
        y, state = _below_autograd(keys, *inputs)
        ctx.save_for_backward(x, y if relu else None, state, w1, w2)
        ctx.mark_non_differentiable(state)
        ctx.set_materialize_grads(False)
        return y, state

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        grad = gradients[0]
        if grad is None:
            return (None,) * 8
        x, y, state, w1, w2 = ctx.saved_tensors
        _, of_x, of_w1, of_b1, of_w2, of_b2, of_residual, _ = ctx.needs_input_grad
        # Without a ReLU the residual's gradient is that of the result.
        wanted = [of_x, of_residual and y is not None, of_w1, of_b1, of_w2, of_b2]
        found: list[Tensor | None] = [None] * 6
        if any(wanted):
            made = _BACKWARD(_dense(grad, x), x, y, state, w1, w2, wanted)
            found = [one if asked else None for one, asked in zip(made, wanted, strict=True)]
        through = found.pop(1)
        return (None, *found, through if y is not None else grad if of_residual else None, None)


def _below_autograd(keys: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
    # Not a call of its own, which the profiler would count beside the one that led here.
    with torch._C._AutoDispatchBelowAutograd():
        y, state = _FORWARD.redispatch(keys & torch._C._after_autograd_keyset, *inputs)
    return y, state


def _autograd(keys: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
        y, state = _SqueezeExcite.apply(keys, *inputs)
        return y, state
    return _below_autograd(keys, *inputs)


_LIBRARY = torch.library.Library("perfkit", "FRAGMENT")
_LIBRARY.impl("squeeze_excite", _autograd, "Autograd", with_keyset=True)


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pass


def _no_second_derivatives(ctx: Any, *gradients: Tensor) -> None:
    raise PerfkitError(
        f"{NAME}: second derivatives are not supported; use the reference, "
        "perfkit.ops.reference.squeeze_excite"
    )


torch.library.register_autograd(
    "perfkit::squeeze_excite_backward", _no_second_derivatives, setup_context=_keep_nothing
)
