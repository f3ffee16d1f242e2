"""Setting the precision of a training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perfkit.core.config import Precision

LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
