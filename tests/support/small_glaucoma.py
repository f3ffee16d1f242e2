"""The glaucoma workload with a model that is trained at once: its data are what is tested."""

from __future__ import annotations

from torch import nn

from perfkit.workloads.glaucoma import Glaucoma


class Small(Glaucoma):
    """Two layers in the place of 76."""

    def model(self) -> nn.Module:
        layers = (nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 2))
        return nn.Sequential(*layers)

    def stages(self, model: nn.Module) -> list[nn.Module]:
        return list(model.children())
