"""ViT-B/16 with Squeeze-and-Excitation in every layer.

86,684,930 parameters at two classes and 224 pixels. torchvision's network, SE (Hu et al., 2018,
reduction 16, without biases) over all tokens, the class token among them, on the output of each
MLP, before it is added.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from perfkit.core.config import Ops
from perfkit.models import vit_b_16
from perfkit.ops import SqueezeExcite


def build(num_classes: int, image_size: int, ops: Ops) -> nn.Module:
    """Return float [N, 3, image_size, image_size] -> logits [N, num_classes]."""
    return with_squeeze_excite(vit_b_16.build(num_classes, image_size, ops), ops)


def with_squeeze_excite(vit: Any, ops: Ops) -> nn.Module:
    """Return a VisionTransformer of torchvision, any of them, with SE put into its layers."""
    for name, plain in vit.encoder.layers.named_children():
        setattr(vit.encoder.layers, name, Layer(plain, ops))
    model: nn.Module = vit
    return model


class Layer(nn.Module):
    """An encoder layer of torchvision's with SE: [N, L, C] -> [N, L, C].

    It takes over the layers of ``plain``, and their names.
    """

    def __init__(self, plain: EncoderBlock, ops: Ops) -> None:
        super().__init__()
        self.ln_1, self.self_attention = plain.ln_1, plain.self_attention
        self.dropout = plain.dropout
        self.ln_2, self.mlp = plain.ln_2, plain.mlp
        self.se = SqueezeExcite(plain.self_attention.embed_dim, bias=False, ops=ops)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        normed = self.ln_1(x)
        attended, _ = self.self_attention(normed, normed, normed, need_weights=False)
        x = self.dropout(attended) + x
        result: Tensor = self.se(self.mlp(self.ln_2(x)), x)
        return result
