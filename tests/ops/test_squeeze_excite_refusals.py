"""What the native Squeeze-and-Excitation refuses: each message names argument and expectation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from perfkit.core.errors import PerfkitError
from perfkit.ops import squeeze_excite

X = torch.ones(2, 8, 4, 5)
W1, B1, W2, B2 = torch.ones(3, 8), torch.ones(3), torch.ones(8, 3), torch.ones(8)
NESTED = torch.nested.nested_tensor([torch.ones(3, 8)], layout=torch.jagged)


def shrunk(tensor: Tensor) -> Tensor:
    """Return a copy whose storage was cut behind its back."""
    copy = tensor.clone()
    copy.untyped_storage().resize_(7)
    return copy


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": X[0, 0]}, r"`x` must be \[N, C, H, W\] or \[N, L, C\], got float32 \[4, 5\]"),
        ({"x": X[None]}, r"`x` must be \[N, C, H, W\] or .*, got float32 \[1, 2, 8, 4, 5\]"),
        ({"x": X.numpy()}, r"`x` must be a tensor, got ndarray"),
        ({"x": X.int()}, r"`x` must be float32, float16, bfloat16, or .*float64, got .*\[2, 8, 4"),
        ({"x": X.bool()}, r"`x` must be float32, float16, .*, got .*\[2, 8, 4, 5\] on cpu"),
        ({"x": X.cfloat()}, r"`x` must be float32, float16, .*, got .*\[2, 8, 4, 5\] on cpu"),
        ({"x": X[:, :, :0]}, r"`x` must be of at least one channel and one pixel.*\[2, 8, 0, 5\]"),
        ({"x": X[:, :0]}, r"`x` must be of at least one channel and .*\[2, 0, 4, 5\]"),
        ({"x": X[0, :, :, :0]}, r"`x` must be of at least one channel and .*\[8, 4, 0\]"),
        ({"x": X[0, :, :0]}, r"`x` must be of at least one channel and .*token, .*\[8, 0, 5\]"),
        ({"x": X.to_sparse()}, r"`x` must be a strided tensor, got sparse_coo"),
        ({"x": NESTED}, r"`x` must be a strided tensor, got nested"),
        ({"x": X.to("meta")}, r"`w1` must be on meta, got on cpu"),
        ({"x": shrunk(X)}, r"`x` must be a tensor within its storage, got 7 bytes where 1280"),
        ({"x": X[:, :7]}, r"`w1` must be .*\[3, 7\] on cpu, got float32 \[3, 8\] on cpu"),
        ({"x": X.double()}, r"`w1` must be of the dtype of `x` \(float64\), got float32 \[3, 8\]"),
        ({"w1": None}, r"`w1` must be a tensor, got None"),
        ({"w1": [[1.0] * 8] * 3}, r"`w1` must be a tensor, got list"),
        (
            {"w1": W1[:, :7]},
            r"`w1` must be contiguous float32 \[3, 8\] on cpu, got float32 \[3, 7\]",
        ),
        ({"w1": W1[0]}, r"`w1` must be .*, got float32 \[8\] on cpu"),
        (
            {"w1": W1[:0]},
            r"`w1` must be \[R, C\] with R of at least 1, got float32 \[0, 8\] on cpu",
        ),
        ({"w1": torch.ones(3, 8, 1, 2)}, r"`w1` must be .*, got float32 \[3, 8, 1, 2\] on cpu"),
        ({"w1": W1.half()}, r"`w1` must be of the dtype of `x` \(float32\), got float16 \[3, 8\]"),
        ({"w1": W1.to("meta")}, r"`w1` must be on cpu, got on meta"),
        ({"w1": W1.to_sparse()}, r"`w1` must be a strided tensor, got sparse_coo"),
        ({"w1": NESTED}, r"`w1` must be a strided tensor, got nested"),
        ({"w1": shrunk(W1)}, r"`w1` must be a tensor within its storage, got 7 bytes where 96 are"),
        ({"b1": [1.0] * 3}, r"`b1` must be a tensor, got list"),
        ({"b1": B1[:2]}, r"`b1` must be contiguous float32 \[3\] on cpu, got float32 \[2\] on cpu"),
        (
            {"b1": B1[:, None]},
            r"`b1` must be contiguous float32 \[3\] on cpu, got float32 \[3, 1\]",
        ),
        (
            {"b1": B1.bfloat16()},
            r"`b1` must be contiguous float32 \[3\] on cpu, got bfloat16 \[3\]",
        ),
        ({"w2": None}, r"`w2` must be a tensor, got None"),
        ({"w2": W1}, r"`w2` must be contiguous float32 \[8, 3\] on cpu, got float32 \[3, 8\]"),
        (
            {"w2": W2[:, :2]},
            r"`w2` must be contiguous float32 \[8, 3\] on cpu, got float32 \[8, 2\]",
        ),
        ({"w2": W2.double()}, r"`w2` must be contiguous float32 \[8, 3\] .*, got float64 \[8, 3\]"),
        ({"b2": B2[:1]}, r"`b2` must be contiguous float32 \[8\] on cpu, got float32 \[1\] on cpu"),
        ({"b2": B2.to("meta")}, r"`b2` must be on cpu, got on meta"),
        ({"residual": 1.0}, r"`residual` must be a tensor, got float"),
        (
            {"residual": X[:1]},
            r"`residual` must be float32 \[2, 8, 4, 5\] .*, like `x`, got .*\[1, 8",
        ),
        ({"residual": X.half()}, r"`residual` must be float32 .*, like `x`, got float16 \[2, 8, 4"),
        ({"residual": X.to("meta")}, r"`residual` must be on cpu, got on meta"),
        ({"residual": shrunk(X)}, r"`residual` must be a tensor within its storage, got 7 bytes"),
        ({"activation": "gelu"}, r"`activation` must be None or \"relu\", got 'gelu'"),
        ({"activation": True}, r"`activation` must be None or \"relu\", got True"),
        (
            {"activation": np.array(["relu", "relu"])},
            r"`activation` must be None or \"relu\", got array",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed_and_what_came(
    changed: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"x": X, "w1": W1, "b1": B1, "w2": W2, "b2": B2} | changed
    with pytest.raises(PerfkitError, match=f"^squeeze_excite: {message}") as refusal:
        squeeze_excite(**arguments)
    assert "\n" not in str(refusal.value)


# --- What reaches the operators directly ----------------------------------------------------------

STATE = torch.zeros(2, 2 * 8 + 3)
SPREAD = torch.ones(2, 8, 4, 10)[..., ::2]
LAST = X.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"residual": X.int()}, "`residual` must be float32 .*, like `x`, got "),
        ({"residual": X.cfloat()}, "`residual` must be float32 .*, like `x`, got "),
        ({"residual": X.double()}, "`residual` must be float32 .*, like `x`, got float64"),
        ({"x": X.int(), "residual": X}, "`x` must be float32, float16, bfloat16, or .*, got "),
    ],
)
def test_autocast_promotes_no_residual_of_other_than_its_dtypes(
    changed: dict[str, Any], message: str
) -> None:
    arguments = {"x": X, "w1": W1, "b1": B1, "w2": W2, "b2": B2} | changed
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(PerfkitError, match=message):
        squeeze_excite(**arguments)


# torch's own forward mode uses what torch has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
@pytest.mark.parametrize("name", ["x", "w1", "b1", "w2", "b2", "residual"])
def test_a_tangent_is_refused_where_torch_would_drop_it(name: str) -> None:
    arguments = {"x": X, "w1": W1, "b1": B1, "w2": W2, "b2": B2, "residual": X}
    with forward_ad.dual_level():
        arguments[name] = forward_ad.make_dual(arguments[name], torch.ones_like(arguments[name]))
        with pytest.raises(PerfkitError, match=f"`{name}` must be without a tangent"):
            squeeze_excite(**arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"x": SPREAD},
            r"`x` must be contiguous or channels_last, got .*\[2, 8, 4, 5\].*with gaps",
        ),
        ({"x": SPREAD[0]}, r"`x` must be contiguous, got float32 \[8, 4, 5\] on cpu, with gaps"),
        ({"w1": torch.ones(8, 3).T}, r"`w1` must be contiguous .*, got .*\[3, 8\].*not contiguous"),
        ({"b1": torch.ones(6)[::2]}, r"`b1` must be contiguous .*, got .*\[3\].*, not contiguous"),
        ({"residual": LAST}, r"`residual` must be of the memory layout of `x`, got .* of another"),
        (
            {"residual": SPREAD},
            r"`residual` must be of the memory layout of `x`, got .* of another",
        ),
    ],
)
def test_the_operator_refuses_what_it_cannot_run_on(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": X, "w1": W1, "b1": B1, "w2": W2, "b2": B2, "residual": None}
    with pytest.raises(RuntimeError, match=f"squeeze_excite: {message}"):
        torch.ops.perfkit.squeeze_excite(**arguments | changed, relu=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"grad": X[:1]}, r"`grad` must be float32 \[2, 8, 4, 5\] on cpu, like `x`, got .*\[1, 8"),
        (
            {"grad": X.half()},
            r"`grad` must be float32 \[2, 8, 4, 5\] on cpu, like `x`, got float16",
        ),
        ({"grad": LAST}, r"`grad` must be of the memory layout of `x`, got .* of another"),
        ({"grad": X[:, :, :1, :1].expand_as(X)}, r"`grad` must be of the memory layout of `x`"),
        ({"grad": shrunk(X)}, r"`grad` must be a tensor within its storage, got 7 bytes"),
        ({"y": X[:, :4]}, r"`y` must be float32 \[2, 8, 4, 5\] on cpu, like `x`, got .*\[2, 4, 4"),
        ({"y": shrunk(X)}, r"`y` must be a tensor within its storage, got 7 bytes"),
        ({"state": STATE[:, 1:]}, r"`state` must be what the forward returned, got .*\[2, 18\]"),
        ({"state": STATE[:1]}, r"`state` must be what the forward returned, got .*\[1, 19\]"),
        ({"state": STATE[0]}, r"`state` must be what the forward returned, got float32 \[19\]"),
        ({"state": STATE.double()}, r"`state` must be what the forward returned, got float64"),
        ({"state": STATE.T.contiguous().T}, r"`state` must be what the forward returned"),
        ({"state": shrunk(STATE)}, r"`state` must be a tensor within its storage, got 7 bytes"),
        ({"w1": W1[:2]}, r"`w2` must be contiguous float32 \[8, 2\] on cpu, got float32 \[8, 3\]"),
        ({"w2": shrunk(W2)}, r"`w2` must be a tensor within its storage, got 7 bytes"),
        ({"wanted": [True] * 5}, r"`wanted` must be six flags, got 5"),
        ({"y": None}, r"`wanted` must be false for the residual where there is no `y`, got true"),
    ],
)
def test_the_backward_operator_refuses_what_does_not_belong_together(
    changed: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"grad": X, "x": X, "y": X, "state": STATE, "w1": W1, "w2": W2}
    with pytest.raises(RuntimeError, match=f"squeeze_excite: {message}"):
        torch.ops.perfkit.squeeze_excite_backward(**{**arguments, "wanted": [True] * 6, **changed})
