"""A small U-Net (arXiv:1505.04597) that knows the time, and the class if there is one, for diffusion and flows.

Shapes: B batch, C channels, H W pixels, D features of time and class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count
from trivium.generative.networks.coders import image_shape


class UNet(nn.Module):
    """Two resolutions of residual blocks, below the second one attention.

    Pictures are first folded, 2 x 2 pixels into channels, which makes everything four times as cheap. Time and class
    scale and shift the maps of each block (FiLM, arXiv:1709.07871).

    Args:
        input_shape: (C, H, W); H and W multiples of 4.
        num_classes: 0 for a network without classes; else class number `num_classes` means "no class".
        width: maps of the first resolution; the second one has twice as many. A multiple of 8.
        heads: of the attention.

    Raises:
        ValueError: the pictures are of another size, or `width` is no multiple of 8.
    """

    @checks_keywords
    def __init__(
        self, *, input_shape: Sequence[int], num_classes: int = 0, width: Count = 32, heads: Count = 4
    ) -> None:
        super().__init__()
        channels, _, _ = image_shape(input_shape, 4)
        if width < 8 or width % 8:
            raise ValueError(f"width={width} must be a multiple of 8")
        features = 4 * width
        self.num_classes = num_classes
        self.time = nn.Sequential(nn.Linear(width, features), nn.SiLU(), nn.Linear(features, features))
        self.label = nn.Embedding(num_classes + 1, features) if num_classes else None
        self.first = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.down1 = Residual(width, width, features)
        self.downsample = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down2 = Residual(2 * width, 2 * width, features)
        self.attention = Attention(2 * width, heads)
        self.up2 = Residual(2 * width, 2 * width, features)
        self.upsample = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.up1 = Residual(2 * width, width, features)
        self.norm = nn.GroupNorm(8, width)
        self.last = nn.Conv2d(width, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        self.width = width

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """float [B, C, H, W], float [B] times in [0, 1], int64 [B] classes -> float [B, C, H, W]."""
        features_BD = self.time(time_features(time, self.width).to(x.dtype))
        if self.label is not None:
            none_B = torch.full_like(time, self.num_classes, dtype=torch.int64)
            features_BD = features_BD + self.label(none_B if label is None else label)
        x = self.first(F.pixel_unshuffle(x, 2))
        high = self.down1(x, features_BD)
        low = self.attention(self.down2(self.downsample(high), features_BD))
        low = self.up2(low, features_BD)
        x = self.up1(torch.cat([self.upsample(low), high], dim=1), features_BD)
        return F.pixel_shuffle(self.last(F.silu(self.norm(x))), 2)


class Residual(nn.Module):
    """Two convolutions, of which the second sees the features of time and class, added to the input."""

    def __init__(self, before: int, after: int, features: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, before), nn.GroupNorm(8, after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.film = nn.Linear(features, 2 * after)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, features_BD: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(F.silu(features_BD))[:, :, None, None].chunk(2, dim=1)
        y = self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))
        return y + self.skip(x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over all places of the maps, added to the input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.heads = heads
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, width_px = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, 3, self.heads, width // self.heads, height * width_px)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(batch, width, height, width_px)
        return x + self.out(y)  # type: ignore[no-any-return]


def time_features(time_B: Tensor, size: int) -> Tensor:
    """Sines and cosines of 1000 times the time at `size / 2` frequencies from 1 to 1/10000: float32 [B, size]."""
    half = size // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=time_B.device) / half)
    angle = 1000 * time_B.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)
