"""Seeing what a model's forward really ran: matrix products by dtype, SE blocks by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from perfkit.core.config import Ops, Precision
from perfkit.core.errors import PerfkitError
from perfkit.engine.precision import LOW_PRECISION
from perfkit.ops import SqueezeExcite, native

# As operators reach the dispatcher below autocast; what autograd, nn.Linear or einsum call ends in
# one of these.
PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "linear", "_addmm_activation"),
    *("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution"),
}
ATTENTION_PREFIX = "_scaled_dot_product_"


class ForwardObserver:
    """Counts matrix products and convolutions by dtype, and SE blocks by what ran them.

    A block that runs without the native operator is "reference"; the operator is seen wherever it
    is called from, as "fused avx512" or "fused cuda".
    """

    def __init__(self) -> None:
        self.products: Counter[str] = Counter()
        self.squeeze_excites: Counter[str] = Counter()

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch every call of ``model`` for the duration of the block."""
        during_forward = ExitStack()

        def begin(*_: Any) -> None:
            mode = during_forward.enter_context(_Count(self.products, self.squeeze_excites))
            for module in model.modules():
                if isinstance(module, SqueezeExcite):
                    during_forward.enter_context(module.register_forward_pre_hook(mode.enter_block))
                    during_forward.enter_context(module.register_forward_hook(mode.leave_block))

        def end(*_: Any) -> None:
            during_forward.close()

        with (
            model.register_forward_pre_hook(begin),
            model.register_forward_hook(end, always_call=True),
        ):
            yield


class _Count(TorchDispatchMode):
    def __init__(self, products: Counter[str], squeeze_excites: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._products = products
        self._squeeze_excites = squeeze_excites
        self._seen_before_block = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS or name.startswith(ATTENTION_PREFIX):
            tensors = (value for value in args if isinstance(value, Tensor))
            self._products[str(next(tensors).dtype)] += 1
        elif str(func.overloadpacket) == "perfkit.squeeze_excite":
            self._squeeze_excites[f"fused {_implementation(args[0].device)}"] += 1
        return func(*args, **(kwargs or {}))

    def enter_block(self, *_: Any) -> None:
        self._seen_before_block = self._squeeze_excites.total()

    def leave_block(self, *_: Any) -> None:
        if self._squeeze_excites.total() == self._seen_before_block:
            self._squeeze_excites["reference"] += 1


def _implementation(device: torch.device) -> str:
    return native.build_info().isa if device.type == "cpu" else device.type


def check_products(precision: Precision, dtypes: Counter[str]) -> None:
    """Raise PerfkitError if a run of low precision multiplied nothing in it."""
    dtype = LOW_PRECISION.get(precision)
    if dtype is None or dtypes[str(dtype)]:
        return
    seen = ", ".join(f"{count} in {name}" for name, count in sorted(dtypes.items())) or "none"
    raise PerfkitError(
        f"--precision {precision}: no matrix product or convolution of the first forward ran in "
        f"{dtype} (seen: {seen}); something in the model switches autocast off, so this would be "
        "another run under the name of mixed precision"
    )


def check_squeeze_excites(ops: Ops, seen: Counter[str]) -> None:
    """Raise PerfkitError if there were SE blocks, and what was asked for ran none of them."""
    if not seen or any(name.startswith(ops) for name in seen):
        return
    told = ", ".join(f"{count} {name}" for name, count in sorted(seen.items()))
    raise PerfkitError(
        f"--ops {ops}: no Squeeze-and-Excitation of the first forward ran by it (seen: {told}); "
        "give the model's SqueezeExcite the ops of the run's config, or this would be another run "
        f"under the name of {ops}"
    )
