"""The networks of CycleGAN (arXiv:1703.10593): residual generators, and discriminators of patches.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, CountOrZero
from trivium.generative.networks.coders import image_shape


class CycleGANNetworks(nn.Module):
    """Generators `forth`, A to B, and `back`, B to A, and a discriminator for each domain.

    Unlike the paper: fewer and narrower layers, for small images; upsampling by nearest neighbours and a convolution,
    since transposed convolutions leave checkerboards.

    Args:
        input_shape: (C, H, W) of domain A; H and W multiples of 2 ** halvings.
        other_shape: of domain B; the number of channels may differ.
        width: maps of the generators' first layer.
        halvings: how often the generators halve the image, each time with twice the maps.
        blocks: residual blocks at the smallest size.
        discriminator_width: maps of the discriminators' first layer.
        discriminator_layers: their convolutions of stride 2, see `PatchDiscriminator`.

    Raises:
        ValueError: the images are of another size or too small, or the domains' sizes differ.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        other_shape: Sequence[int],
        width: Count = 32,
        halvings: int = 1,
        blocks: CountOrZero = 3,
        discriminator_width: Count = 32,
        discriminator_layers: int = 2,
    ) -> None:
        super().__init__()
        (a, *size), (b, *other_size) = image_shape(input_shape, 2**halvings), image_shape(other_shape, 2**halvings)
        if size != other_size:
            raise ValueError(f"images of {size[0]} x {size[1]} pixels, the others {other_size[0]} x {other_size[1]}")
        if min(size) < 3 * 2**discriminator_layers:
            raise ValueError(
                f"images of {size[0]} x {size[1]} pixels: discriminator_layers={discriminator_layers} needs at least "
                f"{3 * 2**discriminator_layers}"
            )
        self.forth = Generator(a, b, width, halvings, blocks)
        self.back = Generator(b, a, width, halvings, blocks)
        self.discriminator_a = PatchDiscriminator(a, discriminator_width, discriminator_layers)
        self.discriminator_b = PatchDiscriminator(b, discriminator_width, discriminator_layers)


class Generator(nn.Module):
    """Convolutions with instance normalisation, residual blocks, and back to the image's size."""

    def __init__(self, before: int, after: int, width: int, halvings: int, blocks: int) -> None:
        super().__init__()
        layers = [*_conv(before, width, 7)]
        for _ in range(halvings):
            layers += [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.InstanceNorm2d(2 * width), nn.ReLU()]
            width *= 2
        layers += [Block(width) for _ in range(blocks)]
        for _ in range(halvings):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), *_conv(width, width // 2, 3)]
            width //= 2
        layers += [nn.Conv2d(width, after, 7, padding=3, padding_mode="reflect"), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, C, H, W] in [-1, 1] -> the same of the other domain."""
        return self.layers(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + norm(conv3(ReLU(norm(conv3(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_conv(width, width, 3), *_conv(width, width, 3)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


def _conv(before: int, after: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, padding_mode="reflect", bias=False)
    return [conv, nn.InstanceNorm2d(after), nn.ReLU()]


class PatchDiscriminator(nn.Module):
    """Says of each patch of an image how real it looks (PatchGAN).

    Args:
        channels: C.
        width: maps of the first layer; each further one has twice as many.
        layers: convolutions of stride 2; a patch has a side of 9 * 2 ** layers - 2 pixels.
    """

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for number in range(1, layers + 1):
            stride = 2 if number < layers else 1
            parts += [nn.Conv2d(width, 2 * width, 4, stride, 1, bias=False), nn.InstanceNorm2d(2 * width)]
            parts.append(nn.LeakyReLU(0.2))
            width *= 2
        self.layers = nn.Sequential(*parts, nn.Conv2d(width, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """float [B, C, H, W] in [-1, 1] -> logits, float [B, P], one for each of P patches."""
        return self.layers(x).flatten(1)  # type: ignore[no-any-return]
