"""Networks around a map of discrete codes, for VQ-VAE (arXiv:1711.00937).

A model is a module with `encoder`, float [B, C, H, W] -> float [B, D, h, w], and `decoder`, the same in reverse; the
prior over the codes is a network of its own.

Shapes: B batch, C channels, H W pixels, h w the code map, K codes, D numbers of a code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, CountOrZero, Widths
from trivium.generative.networks.coders import image_shape


class CodeMapCoder(nn.Module):
    """Convolutions of stride 2, residual blocks, and a 1 x 1 convolution to the codes; mirrored in the decoder.

    Args:
        input_shape: (C, H, W); H and W multiples of 2 ** len(channels).
        code_dim: D.
        channels: maps of the convolutions, each of which halves the picture.
        blocks: residual blocks on the code map, in the encoder and in the decoder.

    Raises:
        ValueError: the pictures can't be halved so often; names the nearest sizes that can.
    """

    @checks_keywords
    def __init__(
        self, *, input_shape: Sequence[int], code_dim: Count, channels: Widths = (32, 64), blocks: CountOrZero = 1
    ) -> None:
        super().__init__()
        colours, height, width = image_shape(input_shape, 2 ** len(channels))
        self.map_shape = (height >> len(channels), width >> len(channels))
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        before = colours
        for after in channels:
            down += [nn.Conv2d(before, after, 4, 2, 1), nn.SiLU()]
            up = [nn.SiLU(), nn.ConvTranspose2d(after, before, 4, 2, 1), *up]
            before = after
        residual = [ResidualBlock(before) for _ in range(2 * blocks)]
        self.encoder = nn.Sequential(*down, *residual[:blocks], nn.SiLU(), nn.Conv2d(before, code_dim, 1))
        self.decoder = nn.Sequential(nn.Conv2d(code_dim, before, 3, 1, 1), *residual[blocks:], *up)


class ResidualBlock(nn.Module):
    """x + conv1(SiLU(conv3(SiLU(x)))), all with the same number of maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.SiLU(), nn.Conv2d(channels, channels, 3, 1, 1), nn.SiLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees only the positions before its own in row order (PixelCNN, arXiv:1606.05328), and its own
    too if `own`."""

    mask: Tensor

    def __init__(self, channels_in: int, channels_out: int, size: int, *, own: bool) -> None:
        super().__init__(channels_in, channels_out, size, padding=size // 2)
        mask = torch.zeros(size, size)
        mask[: size // 2] = 1
        mask[size // 2, : size // 2 + own] = 1
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class CodePrior(nn.Module):
    """p(code | codes before it in row order), by residual masked convolutions.

    Args:
        num_codes: K.
        width: maps.
        layers: masked convolutions after the first; each sees 2 rows more.
    """

    def __init__(self, *, num_codes: int, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, width)
        self.first = MaskedConv2d(width, width, 7, own=False)
        self.hidden = nn.ModuleList(MaskedConv2d(width, width, 5, own=True) for _ in range(layers))
        self.head = nn.Conv2d(width, num_codes, 1)

    def forward(self, index_BHW: Tensor) -> Tensor:
        """int64 [B, h, w] -> logits float [B, K, h, w]; those of a position depend on earlier ones only."""
        x = self.first(self.embedding(index_BHW).permute(0, 3, 1, 2))
        for layer in self.hidden:
            x = x + layer(F.silu(x))
        return self.head(F.silu(x))  # type: ignore[no-any-return]

    @torch.no_grad()
    def sample(self, num: int, map_shape: Sequence[int], uniform_NP: Tensor) -> Tensor:
        """Code maps, int64 [num, h, w].

        Args:
            num: how many.
            map_shape: (h, w).
            uniform_NP: float32 [num, h * w] in [0, 1), which decides what is drawn.
        """
        height, width = map_shape
        index_NHW = torch.zeros(num, height, width, dtype=torch.int64, device=uniform_NP.device)
        for position in range(height * width):
            row, column = divmod(position, width)
            p_NK = self(index_NHW)[:, :, row, column].float().softmax(1)
            drawn_N = torch.searchsorted(p_NK.cumsum(1), uniform_NP[:, position : position + 1].contiguous()).squeeze(1)
            index_NHW[:, row, column] = drawn_N.clamp(max=p_NK.shape[1] - 1)
        return index_NHW
