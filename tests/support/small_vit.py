"""A small ViT: torchvision's, with SE, and under the names of Hugging Face's transformers.

The last is written from the architecture (Dosovitskiy et al., 2021), with separate query, key
and value: an oracle for the conversion of weights to torchvision's layout.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from perfkit.core.config import Ops
from perfkit.models import vit_b_16, vit_b_16_se
from perfkit.models.registry import Architecture

IMAGE, PATCH, WIDTH, HEADS, INNER, LAYERS = 48, 16, 8, 2, 12, 2
EPS = 1e-6

State = dict[str, Tensor]


def build(num_classes: int, image_size: int, ops: Ops = "fused") -> nn.Module:
    """Return torchvision's model, all its weights random."""
    model: nn.Module = VisionTransformer(
        image_size=image_size,
        patch_size=PATCH,
        num_layers=LAYERS,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        mlp_dim=INNER,
        num_classes=num_classes,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


SMALL_VIT = Architecture(
    name="vit_b_16",
    build=build,
    stages=vit_b_16.stages,
    head="heads.head.",
    size_step=PATCH,
    adapted=vit_b_16.adapted,
)


def build_se(num_classes: int, image_size: int, ops: Ops = "fused") -> nn.Module:
    """Return the same with SE, all its weights random."""
    model = vit_b_16_se.with_squeeze_excite(build(num_classes, image_size), ops)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


SMALL_VIT_SE = replace(
    SMALL_VIT, name="vit_b_16_se", build=build_se, has_squeeze_excite=True, added=".se."
)


def hugging_face_state(classes: int = 2) -> State:
    """Return random weights, float64, named as a file of transformers names them."""
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "vit.embeddings.cls_token": (1, 1, WIDTH),
        "vit.embeddings.position_embeddings": (1, (IMAGE // PATCH) ** 2 + 1, WIDTH),
        "vit.embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "vit.layernorm.weight": (WIDTH,),
        "vit.layernorm.bias": (WIDTH,),
        "classifier.weight": (classes, WIDTH),
        "classifier.bias": (classes,),
    }
    linears = {
        "attention.attention.query": (WIDTH, WIDTH),
        "attention.attention.key": (WIDTH, WIDTH),
        "attention.attention.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (INNER, WIDTH),
        "output.dense": (WIDTH, INNER),
        "layernorm_before": (WIDTH,),
        "layernorm_after": (WIDTH,),
    }
    for layer in range(LAYERS):
        for name, shape in linears.items():
            shapes[f"vit.encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"vit.encoder.layer.{layer}.{name}.bias"] = shape[:1]
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) / 3
        for name, shape in shapes.items()
    }


def hugging_face_logits(state: State, images: Tensor) -> Tensor:
    """Return what the model of these weights says: [N, classes]."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        deviation = (x.var(-1, keepdim=True, correction=0) + EPS).sqrt()
        x = (x - x.mean(-1, keepdim=True)) / deviation
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def heads(x: Tensor) -> Tensor:  # [N, T, WIDTH] -> [N, HEADS, T, WIDTH / HEADS]
        return x.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)

    projection = state["vit.embeddings.patch_embeddings.projection.weight"].flatten(1)
    bias = state["vit.embeddings.patch_embeddings.projection.bias"]
    patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2) @ projection.T + bias
    token = state["vit.embeddings.cls_token"].expand(len(images), -1, -1)
    x = torch.cat([token, patches], dim=1) + state["vit.embeddings.position_embeddings"]
    for layer in range(LAYERS):
        here = f"vit.encoder.layer.{layer}"
        normed = norm(x, f"{here}.layernorm_before")
        query, key, value = (
            heads(linear(normed, f"{here}.attention.attention.{part}"))
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
        attended = (scores.softmax(3) @ value).transpose(1, 2).flatten(2)
        x = x + linear(attended, f"{here}.attention.output.dense")
        inner = linear(norm(x, f"{here}.layernorm_after"), f"{here}.intermediate.dense")
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        x = x + linear(inner, f"{here}.output.dense")
    return linear(norm(x, "vit.layernorm")[:, 0], "classifier")
