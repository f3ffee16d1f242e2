"""CLAHE, gamma and median of photographs, by whichever implementation ``--ops`` names.

The clip limit, the tile grid and the direction of the gamma of the published system were not told;
here they are OpenCV's usual 2.0 and 8x8, and brightening.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from perfkit.core.config import Ops

PARAMETERS: dict[str, Any] = {"clip_limit": 2.0, "tile_grid": (8, 8), "gamma": 1.2}


class Enhancement:
    """The operator on uint8 RGB [N, 3, H, W] of any device; both implementations give equal bytes.

    ``ran`` is what the last call ran in this process ("fused avx512", "fused cuda", "reference"),
    and empty before the first.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self.ran = ""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the images enhanced: uint8 [N, 3, H, W], contiguous."""
        if self._ops == "reference":
            from perfkit.ops.reference.clahe_gamma_median import clahe_gamma_median
        else:
            from perfkit.ops import clahe_gamma_median
        enhanced: Tensor = clahe_gamma_median(images, layout="chw", **PARAMETERS)
        self._note(images)
        return enhanced

    def normalised(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return the images enhanced and normalised, in one pass where the operator can.

        ``mean`` and ``std`` are float32 [3] on the CPU. Returns float32 [N, 3, H, W], contiguous.
        """
        if self._ops == "reference":
            return normalise(self(images), mean, std)
        from perfkit.ops import clahe_gamma_median_normalize

        inputs: Tensor = clahe_gamma_median_normalize(
            images, mean=mean.tolist(), std=std.tolist(), layout="chw", **PARAMETERS
        )
        self._note(images)
        return inputs

    def _note(self, images: Tensor) -> None:
        if self._ops == "reference":
            self.ran = "reference"
        else:
            self.ran = f"fused {_isa() if images.device.type == 'cpu' else images.device.type}"


@cache
def _isa() -> str:
    from perfkit.ops import build_info

    return build_info().isa


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return uint8 [N, 3, H, W] as float32, scaled to 0..1 and normalised by channel."""
    # Or the copies to a GPU would wait until it has nothing else to do.
    there = [value[:, None, None].to(images.device, non_blocking=True) for value in (mean, std)]
    return (images.float() / 255 - there[0]) / there[1]
