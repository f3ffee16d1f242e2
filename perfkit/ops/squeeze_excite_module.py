"""The Squeeze-and-Excitation block as a module."""

from __future__ import annotations

from numbers import Integral
from typing import Any, get_args

from torch import Tensor, nn

from perfkit.core.config import Ops
from perfkit.ops.refusals import refusal


class SqueezeExcite(nn.Module):
    """Squeeze-and-Excitation: [N, C, H, W] or [N, L, C] -> the same, channels scaled by gates.

    Its parameters bear the names ``fc1.weight``, ``fc1.bias``, ``fc2.weight``, ``fc2.bias``, as
    those of timm's ``SEModule`` and torchvision's ``SqueezeExcitation`` do, whose state dicts it
    loads: weights as [R, C] and as [R, C, 1, 1] are taken for each other. For a state dict that
    those modules load, make it with ``conv=True``. (Theirs has to be the usual form: no
    normalisation between the layers, ReLU and sigmoid.)
    """

    def __init__(
        self,
        channels: int,
        squeeze_channels: int | None = None,
        *,
        bias: bool = True,
        conv: bool = False,
        activation: str | None = None,
        ops: Ops = "fused",
    ) -> None:
        """Make the two layers, with torch's default initialisation.

        Args:
            channels: C.
            squeeze_channels: R; a sixteenth of C, but at least 1, unless given.
            bias: whether the layers add one.
            conv: whether they are nn.Conv2d with 1x1 kernels rather than nn.Linear.
            activation: "relu" for one after the scaling and the residual, or None.
            ops: "fused" for `perfkit.ops.squeeze_excite`, "reference" for the same in plain torch.

        Raises:
            PerfkitError: for channels that are no integers of at least 1, and names that do not
                exist.
        """
        super().__init__()
        _check_size("channels", channels)
        squeeze = max(channels // 16, 1) if squeeze_channels is None else squeeze_channels
        _check_size("squeeze_channels", squeeze)
        _check_name("activation", activation, (None, "relu"))
        _check_name("ops", ops, get_args(Ops))
        self.fc1: nn.Module
        self.fc2: nn.Module
        if conv:
            self.fc1 = nn.Conv2d(channels, squeeze, 1, bias=bias)
            self.fc2 = nn.Conv2d(squeeze, channels, 1, bias=bias)
        else:
            self.fc1 = nn.Linear(channels, squeeze, bias=bias)
            self.fc2 = nn.Linear(squeeze, channels, bias=bias)
        self.activation = activation
        self.ops: Ops = ops
        self.register_load_state_dict_pre_hook(_take_either_shape)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(x * gates + residual)``."""
        if self.ops == "reference":
            from perfkit.ops.reference.squeeze_excite import squeeze_excite
        else:
            from perfkit.ops.squeeze_excite_torch import squeeze_excite
        layers: tuple[Any, ...] = (
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
        )
        return squeeze_excite(x, *layers, residual=residual, activation=self.activation)

    def extra_repr(self) -> str:
        """Return what the two layers do not tell."""
        return f"activation={self.activation!r}, ops={self.ops!r}"


def _check_size(argument: str, size: object) -> None:
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise refusal("SqueezeExcite", argument, "an integer of at least 1", repr(size))


def _check_name(argument: str, name: object, known: tuple[str | None, ...]) -> None:
    if not (name is None or isinstance(name, str)) or name not in known:
        raise refusal("SqueezeExcite", argument, " or ".join(map(repr, known)), repr(name))


def _take_either_shape(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for layer in ("fc1", "fc2"):
        name = f"{prefix}{layer}.weight"
        own = getattr(module, layer).weight
        given = state.get(name)
        if isinstance(given, Tensor) and given.dim() in (2, 4):
            size = (*own.shape[:2], *[1] * (given.dim() - 2))
            state[name] = given.reshape(own.shape) if given.shape == size else given
