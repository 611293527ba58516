"""The networks of StyleGAN2 (arXiv:1912.04958), in plain PyTorch: no compiled plug-in is needed.

Shapes: B batch, C channels, H W pixels, D latents, S numbers of a style vector w, L layers that read one, K classes,
N numbers of noise, I O maps before and after a convolution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, Widths
from trivium.generative.networks.coders import image_shape

GAIN = math.sqrt(2)  # keeps the variance of activations after a leaky ReLU
SLOPE = 0.2
MAPPING_RATE = 0.01  # of the mapping network's learning rate


class StyleGAN2Networks(nn.Module):
    """A generator (mapping and synthesis, with skips to the image) and a residual discriminator.

    Unlike the paper: images are resampled by [1, 3, 3, 1] before a convolution, not within it; at the border pixels are
    repeated when enlarging.

    Args:
        input_shape: (C, H, W); H and W multiples of 2 ** (len(channels) - 1).
        latent_dim: D; style vectors have as many numbers.
        num_classes: K; 0 for a GAN without classes.
        channels: maps at each size of the image, from the smallest to the image's own.
        mapping_layers: of the mapping network.
        group: images whose standard deviation the discriminator sees, see `minibatch_deviation`.

    Raises:
        ValueError: the images are of another size; names the nearest that fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        latent_dim: Count,
        num_classes: int = 0,
        channels: Widths = (128, 64, 32),
        mapping_layers: int = 2,
        group: int = 4,
    ) -> None:
        super().__init__()
        if not channels or min(*channels, mapping_layers, group) < 1:
            raise ValueError(
                f"channels={list(channels)}, mapping_layers={mapping_layers} and group={group}: at least 1"
            )
        shape = image_shape(input_shape, 2 ** (len(channels) - 1))
        self.generator = Generator(shape, latent_dim, num_classes, channels, mapping_layers)
        self.discriminator = Discriminator(shape, num_classes, channels, group)


class Linear(nn.Module):
    """A linear layer whose weights are stored with variance 1 / rate^2 and scaled when used, so that all layers learn
    equally fast, this one by `rate` times as fast (equalised learning rate, arXiv:1710.10196)."""

    def __init__(self, before: int, after: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before) / rate)
        self.bias = nn.Parameter(torch.full((after,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(before), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution with an equalised learning rate, see `Linear`."""

    def __init__(self, before: int, after: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.scale, self.padding = 1 / math.sqrt(before * kernel**2), kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def activated(x: Tensor) -> Tensor:
    """A leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, SLOPE) * GAIN


def normalised(x_BD: Tensor) -> Tensor:
    """Each row divided by the root of its mean square."""
    return x_BD * (x_BD.float().square().mean(1, keepdim=True) + 1e-8).rsqrt().to(x_BD.dtype)


class Mapping(nn.Module):
    """From a latent, and a class where there are any, to a style vector."""

    def __init__(self, latent_dim: int, num_classes: int, layers: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed = Linear(num_classes, latent_dim) if num_classes else None
        sizes = [latent_dim * (2 if num_classes else 1), *[latent_dim] * (layers - 1)]
        self.layers = nn.ModuleList(Linear(size, latent_dim, rate=MAPPING_RATE) for size in sizes)

    def forward(self, z_BD: Tensor, label_B: Tensor | None) -> Tensor:
        x = normalised(z_BD)
        if self.embed is not None:
            assert label_B is not None
            one_hot = F.one_hot(label_B, self.num_classes).to(x.dtype)
            x = torch.cat([x, normalised(self.embed(one_hot))], dim=1)
        for layer in self.layers:
            x = activated(layer(x))
        return x


def modulated_convolution(x_BIHW: Tensor, weight_OIKK: Tensor, style_BI: Tensor, *, demodulate: bool) -> Tensor:
    """A convolution whose weights are scaled for each image by its style, per input map, and then, if `demodulate`,
    such that the filter of each output map has length 1 (arXiv:1912.04958, eq. 1 and 3).

    The input and output are scaled in place of the weights, which gives the same and leaves one convolution for all
    images.

    Args:
        x_BIHW, weight_OIKK, style_BI: float.

    Returns:
        float [B, O, H, W].
    """
    y_BOHW = F.conv2d(
        x_BIHW * style_BI[:, :, None, None].to(x_BIHW.dtype), weight_OIKK, padding=weight_OIKK.shape[2] // 2
    )
    if not demodulate:
        return y_BOHW
    with torch.autocast(x_BIHW.device.type, enabled=False):
        square_BO = style_BI.float().square() @ weight_OIKK.float().square().sum((2, 3)).T
        length_BO = (square_BO + 1e-8).rsqrt()
    return y_BOHW * length_BO[:, :, None, None].to(y_BOHW.dtype)


class StyledConv(nn.Module):
    """A modulated convolution, noise, bias and leaky ReLU; the image is doubled before it if `double`."""

    def __init__(self, before: int, after: int, style_dim: int, *, double: bool) -> None:
        super().__init__()
        self.conv = Conv(before, after, 3, bias=False)
        self.style = Linear(style_dim, before, bias=1.0)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(after))
        self.enlarges = double

    def forward(self, x: Tensor, w_BS: Tensor, noise_B1HW: Tensor) -> Tensor:
        x = doubled(x) if self.enlarges else x
        x = modulated_convolution(x, self.conv.weight * self.conv.scale, self.style(w_BS), demodulate=True)
        return activated(x + self.noise_strength * noise_B1HW.to(x.dtype) + self.bias[:, None, None])


class ToImage(nn.Module):
    """A modulated 1 x 1 convolution to the image's channels, not demodulated."""

    def __init__(self, before: int, channels: int, style_dim: int) -> None:
        super().__init__()
        self.conv = Conv(before, channels, 1)
        self.style = Linear(style_dim, before, bias=1.0)

    def forward(self, x: Tensor, w_BS: Tensor) -> Tensor:
        y = modulated_convolution(x, self.conv.weight * self.conv.scale, self.style(w_BS), demodulate=False)
        assert self.conv.bias is not None
        return y + self.conv.bias[:, None, None]


class Generator(nn.Module):
    """Latents to images in about [-1, 1].

    Attributes:
        num_layers: L.
        noise_sizes: (H, W) of each layer's noise.
        w_mean: float32 [S], a running mean of style vectors, towards which truncation pulls. The learner moves it.
    """

    w_mean: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int,
        num_classes: int,
        channels: Sequence[int],
        mapping_layers: int,
    ) -> None:
        super().__init__()
        halvings = len(channels) - 1
        sizes = [(shape[1] >> n, shape[2] >> n) for n in range(halvings, -1, -1)]
        self.mapping = Mapping(latent_dim, num_classes, mapping_layers)
        self.start = nn.Parameter(torch.randn(channels[0], *sizes[0]))
        self.noise_sizes = [sizes[0], *(size for size in sizes[1:] for _ in range(2))]
        self.convs = nn.ModuleList([StyledConv(channels[0], channels[0], latent_dim, double=False)])
        self.to_image = nn.ModuleList([ToImage(channels[0], shape[0], latent_dim)])
        for before, after in itertools.pairwise(channels):
            self.convs += [
                StyledConv(before, after, latent_dim, double=True),
                StyledConv(after, after, latent_dim, double=False),
            ]
            self.to_image.append(ToImage(after, shape[0], latent_dim))
        self.num_layers = len(self.convs)
        self.register_buffer("w_mean", torch.zeros(latent_dim))

    @property
    def noise_dim(self) -> int:
        """N, the numbers of noise for one image."""
        return sum(height * width for height, width in self.noise_sizes)

    def styles(self, z_BD: Tensor, label_B: Tensor | None = None, *, truncation: float = 1.0) -> Tensor:
        """float [B, D], int64 [B] -> one style vector for all layers, float [B, L, S].

        Args:
            truncation: psi: how far styles are from their mean, 1 as they are, 0 the mean itself.
        """
        w_BS = self.mapping(z_BD, label_B)
        if truncation != 1:
            w_BS = self.w_mean + truncation * (w_BS - self.w_mean)
        return w_BS[:, None].expand(-1, self.num_layers, -1)  # type: ignore[no-any-return]

    def synthesize(self, w_BLS: Tensor, noise_BN: Tensor) -> Tensor:
        """float [B, L, S], float [B, N] standard normal -> images, float [B, C, H, W]."""
        parts = noise_BN.split([height * width for height, width in self.noise_sizes], dim=1)
        noises = [part.view(-1, 1, *size) for part, size in zip(parts, self.noise_sizes, strict=True)]
        x = self.convs[0](self.start.expand(len(w_BLS), -1, -1, -1), w_BLS[:, 0], noises[0])
        image = self.to_image[0](x, w_BLS[:, 0])
        for number, to_image in enumerate(self.to_image[1:]):
            first = 1 + 2 * number
            for layer in (first, first + 1):
                x = self.convs[layer](x, w_BLS[:, layer], noises[layer])
            image = doubled(image) + to_image(x, w_BLS[:, first + 1])
        return image  # type: ignore[no-any-return]

    def forward(
        self, z_BD: Tensor, label_B: Tensor | None, noise_BN: Tensor, other_BD: Tensor, cut_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images and their styles [B, L, S], for training.

        Args:
            other_BD: latents whose styles the layers from number `cut_B` (int64) on take; L for none of them.
        """
        w_BLS = self.styles(z_BD, label_B)
        if other_BD is not z_BD:
            later_BL = torch.arange(self.num_layers, device=cut_B.device) >= cut_B[:, None]
            w_BLS = torch.where(later_BL[:, :, None], self.styles(other_BD, label_B), w_BLS)
        return self.synthesize(w_BLS, noise_BN), w_BLS


class Discriminator(nn.Module):
    """Residual blocks, each of which halves the image, the deviation over a group of images, and a linear layer."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, channels: Sequence[int], group: int) -> None:
        super().__init__()
        colours, height, width = shape
        widths = list(reversed(channels))
        self.first = Conv(colours, widths[0], 1)
        self.blocks = nn.ModuleList(HalvingBlock(a, b) for a, b in itertools.pairwise(widths))
        last = widths[-1]
        self.group = group
        self.conv = Conv(last + 1, last, 3)
        halvings = len(channels) - 1
        self.linear = Linear(last * (height >> halvings) * (width >> halvings), last)
        self.logit = Linear(last, 1)
        self.embed = nn.Embedding(num_classes, last) if num_classes else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """float [B, C, H, W], int64 [B] -> logits, float [B]."""
        x = activated(self.first(x))
        for block in self.blocks:
            x = block(x)
        x = activated(self.conv(minibatch_deviation(x, self.group)))
        h_BD = activated(self.linear(x.flatten(1)))
        logit_B: Tensor = self.logit(h_BD).squeeze(1)
        if self.embed is not None:
            assert label is not None
            logit_B = logit_B + (self.embed(label) * h_BD).sum(1) / math.sqrt(h_BD.shape[1])
        return logit_B


class HalvingBlock(nn.Module):
    """(conv3(halved(conv3(x))) + conv1(halved(x))) / sqrt(2)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(before, before, 3), Conv(before, after, 3)
        self.skip = Conv(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = activated(self.conv2(halved(activated(self.conv1(x)))))
        return (y + self.skip(halved(x))) / GAIN  # type: ignore[no-any-return]


def minibatch_deviation(x_BIHW: Tensor, group: int) -> Tensor:
    """The maps with one more, which holds the mean standard deviation over groups of images, so that a discriminator
    sees it when generated images are alike (arXiv:1710.10196).

    A group is `group` images that follow each other, or the largest divisor of the batch below that. Workers that each
    have whole groups of a batch therefore compute what one worker computes.

    Args:
        x_BIHW: float; any B >= 1.
    """
    batch = len(x_BIHW)
    size = max(n for n in range(1, min(group, batch) + 1) if batch % n == 0)
    grouped = x_BIHW.float().unflatten(0, (-1, size))
    deviation_G = (grouped.var(1, correction=0) + 1e-8).sqrt().flatten(1).mean(1)
    map_B1HW = deviation_G.repeat_interleave(size).view(-1, 1, 1, 1).expand(-1, 1, *x_BIHW.shape[2:])
    return torch.cat([x_BIHW, map_B1HW.to(x_BIHW.dtype)], dim=1)


def doubled(x: Tensor) -> Tensor:
    """Twice as large, by the filter [1, 3, 3, 1], which for factor 2 is linear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def halved(x: Tensor) -> Tensor:
    """Half as large, by the filter [1, 3, 3, 1] in both directions; pixels outside count as 0."""
    place = torch.arange(4, device=x.device, dtype=x.dtype)
    line = 1 + place * (3 - place)  # 1, 3, 3, 1: numbers from the CPU would make it wait for the device
    kernel = (line[:, None] * line / 64).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def path_lengths(image_BX: Tensor, w_BLS: Tensor, direction_BX: Tensor) -> Tensor:
    """|J^T y| for each image, J = d image / d w, y a random image of which the pixels' number is normalised away
    (arXiv:1912.04958, section 3.2): the root of the mean over layers of the squared gradient, float32 [B].

    Args:
        image_BX: computed from w_BLS, which requires its gradient.
        direction_BX: standard normal.
    """
    pixels = image_BX.shape[2] * image_BX.shape[3]
    total = (image_BX.float() * direction_BX).sum() / math.sqrt(pixels)
    gradient_BLS: Any
    (gradient_BLS,) = torch.autograd.grad(total, w_BLS, create_graph=True)
    return gradient_BLS.float().square().sum(2).mean(1).sqrt()  # type: ignore[no-any-return]
