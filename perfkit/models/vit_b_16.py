"""ViT-B/16 (Dosovitskiy et al., 2021) as torchvision has it, and weights in other layouts.

85,800,194 parameters at two classes and 224 pixels; other sizes have other position embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import vit_b_16
from torchvision.models.vision_transformer import interpolate_embeddings

from perfkit.core.config import Ops

PATCH_SIZE = 16  # pixels


def build(num_classes: int, image_size: int, ops: Ops) -> nn.Module:
    """Return float [N, 3, image_size, image_size] -> logits [N, num_classes]."""
    model: nn.Module = vit_b_16(num_classes=num_classes, image_size=image_size)
    return model


def stages(model: Any) -> list[nn.Module]:
    """Return the embedding, each encoder layer, and the head, to be called one after the other."""
    return [Embedding(model), *model.encoder.layers, Head(model)]


class Embedding(nn.Module):
    """Patches, class token and positions: [N, 3, H, W] -> [N, 1 + patches, 768].

    Shares its parameters with ``vit``, as Head does.
    """

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.conv_proj = vit.conv_proj
        self.class_token = vit.class_token
        self.pos_embedding = vit.encoder.pos_embedding
        self.dropout = vit.encoder.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens that the first encoder layer takes."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        class_token = self.class_token.expand(len(x), -1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        embedded: Tensor = self.dropout(tokens + self.pos_embedding)
        return embedded


class Head(nn.Module):
    """Norm and classifier of the class token: [N, 1 + patches, 768] -> [N, num_classes]."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.ln = vit.encoder.ln
        self.heads = vit.heads

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.heads(self.ln(x)[:, 0])
        return logits


def adapted(state: Mapping[str, Tensor], image_size: int) -> dict[str, Tensor]:
    """Return a state dict with torchvision's names and position embeddings for ``image_size``.

    ``state`` is torchvision's own, of any release, or that of a ``ViTForImageClassification`` of
    Hugging Face's transformers. What is not known keeps its name. Raises ValueError or RuntimeError
    for shapes that no such model has.

    Layer norms go on adding torchvision's 1e-6 to the variance where transformers adds 1e-12: of a
    randomly initialised model that changes logits of 0.6 by 0.0002.
    """
    renamed = {_renamed(name): tensor for name, tensor in state.items()}
    for name in [name for name in renamed if ".self_attention.q_proj." in name]:
        names = [name.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
        if all(part in renamed for part in names):
            whole = name.replace("q_proj.", "in_proj_")
            renamed[whole] = torch.cat([renamed.pop(part) for part in names])
    if "encoder.pos_embedding" in renamed:
        interpolate_embeddings(image_size, PATCH_SIZE, renamed)
    return renamed


# Hugging Face's names and torchvision's. A file of transformers has the first of two names that
# lead to the same, the modules of transformers 5 have the second.
_OUTSIDE_LAYERS = {
    "vit.embeddings.cls_token": "class_token",
    "vit.embeddings.position_embeddings": "encoder.pos_embedding",
    "vit.embeddings.patch_embeddings.projection": "conv_proj",
    "vit.layernorm": "encoder.ln",
    "classifier": "heads.head",
}
_IN_LAYERS = {
    "layernorm_before": "ln_1",
    "attention.attention.query": "self_attention.q_proj",
    "attention.q_proj": "self_attention.q_proj",
    "attention.attention.key": "self_attention.k_proj",
    "attention.k_proj": "self_attention.k_proj",
    "attention.attention.value": "self_attention.v_proj",
    "attention.v_proj": "self_attention.v_proj",
    "attention.output.dense": "self_attention.out_proj",
    "attention.o_proj": "self_attention.out_proj",
    "layernorm_after": "ln_2",
    "intermediate.dense": "mlp.0",
    "mlp.fc1": "mlp.0",
    "output.dense": "mlp.3",
    "mlp.fc2": "mlp.3",
    # torchvision's own before 0.14, which its published weights still have
    "mlp.linear_1": "mlp.0",
    "mlp.linear_2": "mlp.3",
}
_LAYER = re.compile(
    r"(?:vit\.encoder\.layer\.|vit\.layers\.|encoder\.layers\.encoder_layer_)(\d+)\.(.+)"
)


def _renamed(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        module, kind = name, ""
    layer = _LAYER.fullmatch(module)
    if layer is not None:
        index, inner = layer.groups()
        module = f"encoder.layers.encoder_layer_{index}.{_IN_LAYERS.get(inner, inner)}"
    else:
        module = _OUTSIDE_LAYERS.get(module, module)
    return f"{module}.{kind}" if kind else module
