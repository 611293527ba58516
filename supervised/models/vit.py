"""The vision transformer (Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929).

Shapes: B batch, C channels, H W pixels, T tokens, D features, N heads, F features of a head.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne
from trivium.supervised.models.images import image_shape
from trivium.supervised.models.weights import load_weights

Stem = Literal["patch", "conv"]
Pool = Literal["class", "mean"]


class ViT(nn.Module):
    """A transformer encoder that reads an image as a sequence of patches; ViT-B/16 by default.

    Weights have the names and shapes of torchvision's, and the same weights compute the same numbers. As there, layers
    normalise before they attend (pre-norm), positions are learnt, and the last layer begins with zeros.

    Args:
        input_shape: (C, H, W).
        num_outputs: logits or regression targets per sample.
        patch_size: pixels of a patch each way; H and W are multiples of it, but for the stem `conv`.
        num_layers: of attention and MLP.
        width: D, a multiple of `num_heads`.
        num_heads: N.
        mlp_ratio: the width of an MLP, in D.
        dropout: the probability of zeroing a number in a residual branch while training.
        pool: what the last layer reads: `class`, a token of its own; `mean`, the mean of the patches' tokens, and there
            is no token of its own.
        stem: how patches become tokens: `patch`, a linear map of their pixels; `conv`, 3 x 3 convolutions that each
            halve the picture, with batch normalisation and ReLU between them (arXiv:2106.14881), as many as make a
            patch of `patch_size`, a power of 2: it learns faster from little data.
        weights: a file of weights to begin with, see `trivium.supervised.models.weights.load_weights`.

    Raises:
        ValueError: `stem` or `pool` is none of these, a number does not divide as above, the input is no image, or the
            weights do not fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        patch_size: Count = 16,
        num_layers: Count = 12,
        width: Count = 768,
        num_heads: Count = 12,
        mlp_ratio: Count = 4,
        dropout: FractionBelowOne = 0.0,
        pool: Pool = "class",
        stem: Stem = "patch",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width={width} must be a multiple of num_heads={num_heads}")
        channels, *size = image_shape(self, input_shape)
        if pool == "class":
            self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        if stem == "patch":
            if any(pixels % patch_size for pixels in size):
                raise ValueError(f"patch_size={patch_size} must divide the data's {size[0]} x {size[1]} pixels")
            self.conv_proj: nn.Module = _patch_stem(channels, width, patch_size)
        else:
            self.conv_proj = _conv_stem(channels, width, patch_size)
        num_tokens = math.prod(-(-pixels // patch_size) for pixels in size) + (pool == "class")
        self.encoder = Encoder(num_tokens, num_layers, width, num_heads, mlp_ratio * width, dropout=dropout)
        head = nn.Linear(width, num_outputs)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.heads = nn.Sequential(OrderedDict(head=head))
        self.pool = pool
        load_weights(self, weights, heads=("heads.head",))

    def forward(self, x: Tensor) -> Tensor:
        """float [B, C, H, W] -> float [B, num_outputs]."""
        x_BTD = self.conv_proj(x).flatten(2).transpose(1, 2)
        if self.pool == "class":
            x_BTD = torch.cat([self.class_token.expand(len(x_BTD), -1, -1), x_BTD], dim=1)
        x_BTD = self.encoder(x_BTD)
        y: Tensor = self.heads(x_BTD[:, 0] if self.pool == "class" else x_BTD.mean(1))
        return y


class Encoder(nn.Module):
    """Tokens know where they are, and look at one another: float [B, T, D] -> float [B, T, D]."""

    def __init__(
        self, num_tokens: int, num_layers: int, width: int, num_heads: int, mlp_width: int, *, dropout: float
    ) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, num_tokens, width).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)
        layers = [EncoderLayer(width, num_heads, mlp_width, dropout=dropout) for _ in range(num_layers)]
        self.layers = nn.Sequential(OrderedDict((f"encoder_layer_{i}", layer) for i, layer in enumerate(layers)))
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y: Tensor = self.ln(self.layers(self.dropout(x_BTD + self.pos_embedding)))
        return y


class EncoderLayer(nn.Module):
    """Attention and an MLP, each added to what it reads."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, *, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = SelfAttention(width, num_heads)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        widen, narrow = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        for linear in (widen, narrow):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)
        self.mlp = nn.Sequential(widen, nn.GELU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout))

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.self_attention(self.ln_1(x_BTD)))
        y: Tensor = x_BTD + self.mlp(self.ln_2(x_BTD))
        return y


class SelfAttention(nn.Module):
    """Every token looks at every token; the weights are named as those of `torch.nn.MultiheadAttention`, which copies
    more."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        q_BNTF, k_BNTF, v_BNTF = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in F.linear(x_BTD, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=2)
        )
        y_BNTF = F.scaled_dot_product_attention(q_BNTF, k_BNTF, v_BNTF)
        y: Tensor = self.out_proj(y_BNTF.transpose(1, 2).flatten(2))
        return y


def _patch_stem(channels: int, width: int, patch_size: int) -> nn.Conv2d:
    stem = nn.Conv2d(channels, width, patch_size, patch_size)
    nn.init.trunc_normal_(stem.weight, std=math.sqrt(1 / (channels * patch_size**2)))
    if stem.bias is not None:
        nn.init.zeros_(stem.bias)
    return stem


def _conv_stem(channels: int, width: int, patch_size: int) -> nn.Sequential:
    """Convolutions of a stride of 2 with twice as many maps each, of which the last has `width`; see `ViT`."""
    num_convs = patch_size.bit_length() - 1
    if patch_size != 2**num_convs or num_convs < 1 or width % 2 ** (num_convs - 1):
        raise ValueError(
            f"patch_size={patch_size} must be a power of 2 for stem=conv, and half of it must divide width={width}"
        )
    layers: list[nn.Module] = []
    for i in reversed(range(num_convs)):
        maps = width // 2**i
        layers.append(nn.Conv2d(channels, maps, 3, 2, padding=1, bias=i == 0))
        layers += [nn.BatchNorm2d(maps), nn.ReLU(inplace=True)] if i else []
        channels = maps
    return nn.Sequential(*layers)
