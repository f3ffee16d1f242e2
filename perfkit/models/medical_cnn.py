"""MedicalCNN: a residual network with squeeze-and-excitation and a multi-dilated block.

The architecture of the published glaucoma system: ResNet-34's stage shape (He et al., 2016) with
an SE module (Hu et al., 2018, reduction 16) in every block and one multi-dilated block after stage
3; 22,494,274 parameters at two classes. Its authors count "129 layers", which is a tally of their
own; this network has 76 weighted layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perfkit.core.config import Ops
from perfkit.ops import SqueezeExcite

DILATIONS = (1, 2, 3, 4)


class ResidualBlock(nn.Module):
    """conv-BN-ReLU-conv-BN-SE, plus the shortcut, ReLU: [N, C, H, W] -> [N, C', H/s, W/s]."""

    def __init__(self, in_channels: int, channels: int, stride: int, ops: Ops) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcite(channels, bias=False, activation="relu", ops=ops)
        self.relu = nn.ReLU()
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.se(self.bn2(self.conv2(out)), shortcut)
        return result


class MultiDilatedBlock(nn.Module):
    """Four dilated 3x3 branches side by side, fused by a 1x1 convolution; shape is kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // len(DILATIONS)
        self.branches = nn.ModuleList(
            conv_bn_relu(channels, width, kernel=3, dilation=dilation) for dilation in DILATIONS
        )
        self.fusion = conv_bn_relu(channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the fused branches, [N, C, H, W]."""
        fused: Tensor = self.fusion(torch.cat([branch(x) for branch in self.branches], dim=1))
        return fused


class Head(nn.Module):
    """Global average pool and a three-layer classifier: [N, C, H, W] -> [N, num_classes]."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(channels, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class MedicalCNN(nn.Module):
    """The classifier: float [N, 3, H, W] -> logits [N, num_classes]."""

    def __init__(self, num_classes: int = 2, dropout: float = 0.3, *, ops: Ops = "fused") -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stage1 = _blocks(3, 64, 64, stride=1, ops=ops)
        self.stage2 = _blocks(4, 64, 128, stride=2, ops=ops)
        self.stage3 = nn.Sequential()
        self.stage3.add_module("blocks", _blocks(6, 128, 256, stride=2, ops=ops))
        self.stage3.add_module("multi_dilated", MultiDilatedBlock(256))
        self.stage4 = nn.Sequential()
        self.stage4.add_module("blocks", _blocks(3, 256, 512, stride=2, ops=ops))
        self.stage4.add_module("head", Head(512, num_classes, dropout))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        for stage in self.stages():
            x = stage(x)
        return x

    def stages(self) -> list[nn.Module]:
        """Return the network cut into five stages, to be called one after the other.

        Put on two devices in turn they are the placement that the glaucoma system published:
        stem, stage 2, stage 4 and head on the first; stage 1, stage 3 and the multi-dilated
        block on the second.
        """
        return [self.stem, self.stage1, self.stage2, self.stage3, self.stage4]


def build(num_classes: int, image_size: int, ops: Ops) -> nn.Module:
    """Return a MedicalCNN; any image size will do."""
    return MedicalCNN(num_classes, ops=ops)


def conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel: int, dilation: int = 1
) -> nn.Sequential:
    """Return convolution (no bias, size-keeping padding), batch normalisation and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _blocks(count: int, in_channels: int, channels: int, stride: int, ops: Ops) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(in_channels, channels, stride, ops),
        *(ResidualBlock(channels, channels, 1, ops) for _ in range(count - 1)),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
