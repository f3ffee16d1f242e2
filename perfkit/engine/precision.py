"""Setting the precision of a training, and seeing what its matrix products really ran in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from perfkit.core.config import Precision
from perfkit.core.errors import PerfkitError

LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}

# As operators reach the dispatcher below autocast; what autograd, nn.Linear or einsum call ends in
# one of these.
PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "linear", "_addmm_activation"),
    *("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution"),
}
ATTENTION_PREFIX = "_scaled_dot_product_"


class Autocast:
    """The precision of one training: a context for its forward, and a scaler for its gradients.

    The scaler does nothing but for fp16, whose small gradients would otherwise be lost.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._dtype = LOW_PRECISION.get(precision)
        self._device_type = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def forward(self) -> torch.amp.autocast:
        """Return the context in which the model is called."""
        enabled = self._dtype is not None
        return torch.amp.autocast(self._device_type, self._dtype, enabled=enabled)

    def exact(self, outputs: Any) -> Any:
        """Return the model's output in float32 where it is in low precision: losses need it."""
        if self._dtype is not None and isinstance(outputs, Tensor):
            return outputs.float()
        return outputs


def set_float32_precision(precision: Precision) -> None:
    """Let float32 products and convolutions of this process use TF32 exactly if asked for.

    torch's own default is on for convolutions and off for products.
    """
    mode = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]


def tf32_in_use(devices: Sequence[torch.device]) -> bool | None:
    """Return whether float32 runs in TF32; None where no device has it (before Ampere, CPU)."""
    capable = [
        device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        for device in devices
    ]
    if not any(capable):
        return None
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def set_deterministic() -> None:
    """Use deterministic algorithms only, in this process and from now on."""
    # Read when cuBLAS is first used; see the notes on reproducibility in torch's documentation.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # Filling memory that is written anyway is for finding bugs, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class ProductObserver:
    """Counts the matrix products and convolutions of a model's forward by dtype."""

    def __init__(self) -> None:
        self.dtypes: Counter[str] = Counter()

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch every call of ``model`` for the duration of the block."""
        mode = _CountProducts(self.dtypes)

        def begin(*_: Any) -> None:
            mode.__enter__()  # type: ignore[no-untyped-call]

        def end(*_: Any) -> None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

        handles = [
            model.register_forward_pre_hook(begin),
            model.register_forward_hook(end, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _CountProducts(TorchDispatchMode):
    def __init__(self, dtypes: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtypes = dtypes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS or name.startswith(ATTENTION_PREFIX):
            tensors = (value for value in args if isinstance(value, Tensor))
            self._dtypes[str(next(tensors).dtype)] += 1
        return func(*args, **(kwargs or {}))


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
