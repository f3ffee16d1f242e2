"""ResNet18 (He et al., 2016) as torchvision has it; 11,177,538 parameters at two classes."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import resnet18

from perfkit.core.config import Ops


def build(num_classes: int, image_size: int, ops: Ops) -> nn.Module:
    """Return float [N, 3, H, W] -> logits [N, num_classes]; any image size will do."""
    model: nn.Module = resnet18(num_classes=num_classes)
    return model


def stages(model: Any) -> list[nn.Module]:
    """Return the network cut into five stages, to be called one after the other.

    The published cut between two devices lies after the second.
    """
    return [
        nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool),
        model.layer1,
        model.layer2,
        model.layer3,
        nn.Sequential(model.layer4, model.avgpool, nn.Flatten(), model.fc),
    ]
