"""The tiny workload with two Squeeze-and-Excitation blocks in its model."""

from __future__ import annotations

from tiny import FEATURES, Tiny
from torch import Tensor, nn

from perfkit.core.config import Ops, RunConfig
from perfkit.ops import SqueezeExcite


class Block(nn.Module):
    """One on tokens, with a residual and ReLU: [N, L, FEATURES] -> the same."""

    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, FEATURES)
        self.se = SqueezeExcite(FEATURES, 2, bias=False, activation="relu", ops=ops)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.se(self.linear(x), x)
        return out


class TinySe(Tiny):
    """It says that its model has SE, and makes it with the run's operators."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._ops = config.ops

    @classmethod
    def has_squeeze_excite(cls, config: RunConfig) -> bool:
        return True

    def model(self) -> nn.Module:
        tokens = nn.Sequential(nn.Linear(FEATURES, 3 * FEATURES), nn.Unflatten(1, (3, FEATURES)))
        head = nn.Sequential(nn.Flatten(), nn.Linear(3 * FEATURES, 2))
        return nn.Sequential(tokens, Block(self._ops), Block(self._ops), head)


class Stubborn(TinySe):
    """Its blocks are run by the reference, whatever is asked for."""

    def model(self) -> nn.Module:
        self._ops = "reference"
        return super().model()
