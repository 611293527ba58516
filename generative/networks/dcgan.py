"""The networks of DCGAN (arXiv:1511.06434), for a GAN with or without classes (projection, arXiv:1802.05637).

Shapes: B batch, C channels, H W pixels, D latents, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count
from trivium.generative.networks.coders import image_shape


class DCGAN(nn.Module):
    """A generator and a discriminator of convolutions.

    Unlike the paper: two doublings of the picture instead of four, since small pictures have no more in them; the
    discriminator has spectral norm on its convolutions (arXiv:1802.05957), not batch norm, whose statistics mix real
    and generated images.

    Args:
        input_shape: (C, H, W); H and W multiples of 4.
        latent_dim: D.
        num_classes: K; 0 for a GAN without classes.
        width: maps of the generator's last hidden layer; the one before has twice, the first four times as many.
        discriminator_width: maps of the discriminator's first layer; the next have twice and 8/3 as many.
        spectral_norm: whether the discriminator's convolutions have it; without it, WGAN-GP's penalty or R1 is needed.

    Raises:
        ValueError: the pictures are of another size; names the nearest that fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        latent_dim: Count,
        num_classes: int = 0,
        width: Count = 32,
        discriminator_width: Count = 48,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        shape = image_shape(input_shape, 4)
        self.generator = Generator(shape, latent_dim, num_classes, width)
        self.discriminator = Discriminator(shape, num_classes, discriminator_width, spectral_norm=spectral_norm)


class Generator(nn.Module):
    """z, and one-hot classes where there are any -> images in [-1, 1]."""

    def __init__(self, shape: tuple[int, int, int], latent_dim: int, num_classes: int, width: int) -> None:
        super().__init__()
        channels, height, width_px = shape
        self.num_classes = num_classes
        small = (4 * width, height // 4, width_px // 4)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim + num_classes, small[0] * small[1] * small[2], bias=False),
            nn.Unflatten(1, small),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, 1, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """float [B, D], int64 [B] -> float [B, C, H, W] in [-1, 1]."""
        if self.num_classes:
            assert label is not None
            z = torch.cat([z, F.one_hot(label, self.num_classes).to(z.dtype)], dim=1)
        image: Tensor = self.layers(z)
        return image


class Discriminator(nn.Module):
    """Images in [-1, 1], and classes where there are any -> logits: how real an image looks."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, width: int, *, spectral_norm: bool) -> None:
        super().__init__()
        channels, height, width_px = shape
        last = width * 8 // 3

        def conv(before: int, after: int, kernel: int) -> nn.Module:
            made = nn.Conv2d(before, after, kernel, 2, 1)
            return nn.utils.parametrizations.spectral_norm(made) if spectral_norm else made

        self.layers = nn.Sequential(
            conv(channels, width, 4),
            nn.LeakyReLU(0.2),
            conv(width, 2 * width, 4),
            nn.LeakyReLU(0.2),
            conv(2 * width, last, 3),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        size = last * -(-height // 8) * -(-width_px // 8)
        self.linear = nn.Linear(size, 1)
        self.embed = nn.Embedding(num_classes, size) if num_classes else None
        if self.embed is not None:
            nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """float [B, C, H, W], int64 [B] -> float [B]."""
        h_BD = self.layers(x)
        logit_B: Tensor = self.linear(h_BD).squeeze(1)
        if self.embed is not None:
            assert label is not None
            logit_B = logit_B + (self.embed(label) * h_BD).sum(1)
        return logit_B
