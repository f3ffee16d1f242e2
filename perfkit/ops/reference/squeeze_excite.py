"""Squeeze-and-Excitation in plain torch: what the native operator is held to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Scale the channels of ``x`` by gates computed from their means; see `perfkit.ops`.

    Takes what the native operator takes, on any device and of any dtype, and checks nothing.
    """
    tokens = x.dim() == 3
    mean = x.mean(1) if tokens else F.adaptive_avg_pool2d(x, 1).flatten(1)  # [N, C]
    hidden = F.relu(F.linear(mean, w1.flatten(1), b1))  # [N, R]
    gate = torch.sigmoid(F.linear(hidden, w2.flatten(1), b2))  # [N, C]
    y = x * (gate[:, None] if tokens else gate[:, :, None, None])
    if residual is not None:
        y = y + residual
    return F.relu(y) if activation == "relu" else y
