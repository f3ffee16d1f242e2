"""ResNet18 with Squeeze-and-Excitation in every block; 11,264,578 parameters at two classes.

torchvision's network, SE (Hu et al., 2018, reduction 16, without biases) after the second
normalisation of each block, before the shortcut is added.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from perfkit.core.config import Ops
from perfkit.models import resnet18
from perfkit.ops import SqueezeExcite


def build(num_classes: int, image_size: int, ops: Ops) -> nn.Module:
    """Return float [N, 3, H, W] -> logits [N, num_classes]; any image size will do."""
    model: Any = resnet18.build(num_classes, image_size, ops)
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        for index, plain in enumerate(layer):
            layer[index] = Block(plain, ops)
    network: nn.Module = model
    return network


class Block(nn.Module):
    """A block of torchvision's with SE: [N, C, H, W] -> [N, C', H/s, W/s].

    It takes over the layers of ``plain``, and their names.
    """

    def __init__(self, plain: BasicBlock, ops: Ops) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = plain.conv1, plain.bn1, plain.relu
        self.conv2, self.bn2 = plain.conv2, plain.bn2
        self.downsample = plain.downsample
        channels = plain.conv2.out_channels
        self.se = SqueezeExcite(channels, bias=False, activation="relu", ops=ops)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.se(self.bn2(self.conv2(out)), shortcut)
        return result
