"""The networks of SRGAN (arXiv:1609.04802): SRResNet, which enlarges images, and a discriminator.

Shapes: B batch, C channels, h w pixels of the small image, H W of the large one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, CountOrZero
from trivium.generative.networks.coders import image_shape
from trivium.generative.networks.dcgan import Discriminator


class SRResNet(nn.Module):
    """A generator that enlarges images of any size, and a discriminator of the training's size.

    Unlike the paper: no batch normalisation (it costs sharpness and depends on the other images, arXiv:1707.02921);
    the network adds to the bicubic enlargement, which is therefore what it begins with; the discriminator is DCGAN's.

    Args:
        input_shape: (C, H, W) of the large images; H and W multiples of 4 and of `scale`.
        scale: how many times larger the images become, 2 or 4.
        width: maps of the residual blocks.
        blocks: how many there are.
        discriminator_width: see `networks.dcgan.DCGAN`.
        spectral_norm: whether the discriminator's convolutions have it.

    Raises:
        ValueError: the images are of another size, or a number is out of range.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        scale: int,
        width: Count = 32,
        blocks: CountOrZero = 4,
        discriminator_width: Count = 32,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        if scale not in (2, 4) or width < 1 or blocks < 1:
            raise ValueError(f"scale={scale} must be 2 or 4, width={width} and blocks={blocks} at least 1")
        shape = image_shape(input_shape, 4)
        self.generator = Generator(shape[0], scale, width, blocks)
        self.discriminator = Discriminator(shape, 0, discriminator_width, spectral_norm=spectral_norm)


class Generator(nn.Module):
    """Residual blocks at the small size, then PixelShuffle (arXiv:1609.05158) by 2 once or twice."""

    def __init__(self, channels: int, scale: int, width: int, blocks: int) -> None:
        super().__init__()
        self.scale = scale
        self.first = nn.Sequential(nn.Conv2d(channels, width, 9, padding=4), nn.PReLU())
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1))
        larger: list[nn.Module] = []
        for _ in range(scale // 2):
            larger += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.larger = nn.Sequential(*larger)
        self.last = nn.Conv2d(width, channels, 9, padding=4)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, small: Tensor) -> Tensor:
        """float [B, C, h, w] in [0, 1] -> float32 [B, C, scale h, scale w], in [0, 1] about."""
        x = self.first(small)
        x = self.larger(x + self.blocks(x))
        return enlarged(small, self.scale) + self.last(x).float()  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + conv3(PReLU(conv3(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.PReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


def shrunk(image: Tensor, scale: int) -> Tensor:
    """Each square of `scale` x `scale` pixels as its mean, as a camera with larger pixels sees it:
    float [B, C, H, W] -> [B, C, H / scale, W / scale]."""
    return F.avg_pool2d(image, scale)


def enlarged(small: Tensor, scale: int) -> Tensor:
    """The bicubic enlargement, float32 [B, C, scale h, scale w]; it may leave [0, 1] a little at edges."""
    return F.interpolate(small.float(), scale_factor=scale, mode="bicubic", align_corners=False)
