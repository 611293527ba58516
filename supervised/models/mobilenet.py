"""MobileNets: v1 (Howard et al. 2017, arXiv:1704.04861), v2 (Sandler et al. 2018, arXiv:1801.04381) and v3 (Howard et
al. 2019, arXiv:1905.02244).

All replace a convolution by a depthwise one, which looks at each map by itself, and one of 1 x 1, which mixes the maps:
for 3 x 3 pixels about a ninth of the multiplications.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

from torch import Tensor, nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import FractionBelowOne, Positive, Widths
from trivium.supervised.models.images import begin_as_he, image_shape
from trivium.supervised.models.weights import load_weights

Stem = Literal["imagenet", "small"]
Variant = Literal["small", "large"]

# ------------------------------------------------------------------------------------------------- version 1


class MobileNetV1(nn.Sequential):
    """Depthwise convolutions of 3 x 3, each followed by one of 1 x 1.

    float [B, C, H, W] -> float [B, num_outputs].

    Args:
        input_shape: (C, H, W).
        num_outputs: logits or regression targets per sample.
        channels: maps of the first convolution and of each block after it. A block with more maps than the one before
            halves the picture, but for the first block.
        stem: `imagenet`: the first convolution halves the picture; `small`, for 28 to 64 pixels: it does not.
        dropout: the probability of zeroing an input of the last layer while training.
        weights: a file of weights to begin with, see `trivium.supervised.models.weights.load_weights`.

    Raises:
        ValueError: `stem` is none of these, there are fewer than two `channels`, the input is no image, or the weights
            do not fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: Widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024),
        stem: Stem = "imagenet",
        dropout: FractionBelowOne = 0.0,
        weights: str | None = None,
    ) -> None:
        if len(channels) < 2:
            raise ValueError(f"channels={list(channels)} must be the maps of the first convolution and of each block")
        features: list[nn.Module] = [_conv(image_shape(self, input_shape)[0], channels[0], 3, stride=_stride(stem))]
        for i, (maps_in, maps) in enumerate(pairwise(channels)):
            depthwise = _conv(maps_in, maps_in, 3, stride=2 if i and maps > maps_in else 1, groups=maps_in)
            features.append(nn.Sequential(depthwise, _conv(maps_in, maps, 1)))
        super().__init__(_parts(features, nn.Dropout(dropout), nn.Linear(channels[-1], num_outputs)))
        begin_as_he(self)
        load_weights(self, weights, heads=("classifier.1",))


# ------------------------------------------------------------------------------------------------- version 2


class MobileNetV2(nn.Sequential):
    """Inverted residuals: a block widens, looks, and narrows again without an activation; what is added up is narrow.

    float [B, C, H, W] -> float [B, num_outputs]. Weights have the names and shapes of torchvision's, and the same
    weights compute the same numbers.

    Args:
        input_shape: (C, H, W).
        num_outputs: logits or regression targets per sample.
        width_multiplier: of all maps, which become multiples of 8; those before the last layer are not fewer than
            1,280. Above 0.
        stem: `imagenet`: the first convolution halves the picture, the whole network five times; `small`, for 28 to 64
            pixels: it does not.
        dropout: the probability of zeroing an input of the last layer while training.
        weights: a file of weights to begin with, see `trivium.supervised.models.weights.load_weights`.

    Raises:
        ValueError: `stem` or `width_multiplier` is out of range, the input is no image, or the weights do not fit.
    """

    # Of each stage, the paper's table 2: how much its blocks widen (t), maps (c), blocks (n), stride of the first (s).
    STAGES = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        width_multiplier: Positive = 1.0,
        stem: Stem = "imagenet",
        dropout: FractionBelowOne = 0.2,
        weights: str | None = None,
    ) -> None:
        conv = partial(_conv, activation=nn.ReLU6)
        maps = divisible(32 * width_multiplier)
        features: list[nn.Module] = [conv(image_shape(self, input_shape)[0], maps, 3, stride=_stride(stem))]
        for widening, full, num_blocks, stride in self.STAGES:
            for i in range(num_blocks):
                maps_out = divisible(full * width_multiplier)
                features.append(_InvertedResidual(maps, maps_out, widening=widening, stride=1 if i else stride))
                maps = maps_out
        last = divisible(1280 * max(1.0, width_multiplier))
        features.append(conv(maps, last, 1))
        super().__init__(_parts(features, nn.Dropout(dropout), nn.Linear(last, num_outputs)))
        begin_as_he(self)
        load_weights(self, weights, heads=("classifier.1",))


class _InvertedResidual(nn.Module):
    """x + narrow(look(widen(x))), without the x where the shape changes."""

    def __init__(self, maps_in: int, maps_out: int, *, widening: int, stride: int) -> None:
        super().__init__()
        self.adds = stride == 1 and maps_in == maps_out
        wide = maps_in * widening
        self.conv = nn.Sequential(
            *([_conv(maps_in, wide, 1, activation=nn.ReLU6)] if widening > 1 else []),
            _conv(wide, wide, 3, stride=stride, groups=wide, activation=nn.ReLU6),
            nn.Conv2d(wide, maps_out, 1, bias=False),
            nn.BatchNorm2d(maps_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


# ------------------------------------------------------------------------------------------------- version 3


class _Block(NamedTuple):
    """A row of the paper's tables 1 and 2; `squeezes`: it weighs its maps; `hard_swish`: instead of ReLU."""

    kernel: int
    wide: int
    maps_out: int
    squeezes: bool
    hard_swish: bool
    stride: int


BLOCKS: dict[str, tuple[_Block, ...]] = {
    "small": (
        _Block(3, 16, 16, True, False, 2),
        _Block(3, 72, 24, False, False, 2),
        _Block(3, 88, 24, False, False, 1),
        _Block(5, 96, 40, True, True, 2),
        _Block(5, 240, 40, True, True, 1),
        _Block(5, 240, 40, True, True, 1),
        _Block(5, 120, 48, True, True, 1),
        _Block(5, 144, 48, True, True, 1),
        _Block(5, 288, 96, True, True, 2),
        _Block(5, 576, 96, True, True, 1),
        _Block(5, 576, 96, True, True, 1),
    ),
    "large": (
        _Block(3, 16, 16, False, False, 1),
        _Block(3, 64, 24, False, False, 2),
        _Block(3, 72, 24, False, False, 1),
        _Block(5, 72, 40, True, False, 2),
        _Block(5, 120, 40, True, False, 1),
        _Block(5, 120, 40, True, False, 1),
        _Block(3, 240, 80, False, True, 2),
        _Block(3, 200, 80, False, True, 1),
        _Block(3, 184, 80, False, True, 1),
        _Block(3, 184, 80, False, True, 1),
        _Block(3, 480, 112, True, True, 1),
        _Block(3, 672, 112, True, True, 1),
        _Block(5, 672, 160, True, True, 2),
        _Block(5, 960, 160, True, True, 1),
        _Block(5, 960, 160, True, True, 1),
    ),
}
HIDDEN = {"small": 1024, "large": 1280}  # width of the layer before the last


class MobileNetV3(nn.Sequential):
    """Inverted residuals with squeeze-and-excitation (arXiv:1709.01507), found by a search.

    float [B, C, H, W] -> float [B, num_outputs]. Weights have the names and shapes of torchvision's, and the same
    weights compute the same numbers.

    Args:
        input_shape: (C, H, W).
        num_outputs: logits or regression targets per sample.
        variant: `small` or `large`.
        width_multiplier: of all maps, which become multiples of 8. Above 0.
        stem: `imagenet`: the first convolution halves the picture, the whole network five times; `small`, for 28 to 64
            pixels: it does not.
        dropout: the probability of zeroing an input of the last layer while training.
        weights: a file of weights to begin with, see `trivium.supervised.models.weights.load_weights`.

    Raises:
        ValueError: `variant`, `stem` or `width_multiplier` is out of range, the input is no image, or the weights do
            not fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        variant: Variant = "small",
        width_multiplier: Positive = 1.0,
        stem: Stem = "imagenet",
        dropout: FractionBelowOne = 0.2,
        weights: str | None = None,
    ) -> None:
        conv = partial(_conv, norm=_norm_v3, activation=nn.Hardswish)
        maps = divisible(16 * width_multiplier)
        features: list[nn.Module] = [conv(image_shape(self, input_shape)[0], maps, 3, stride=_stride(stem))]
        for block in BLOCKS[variant]:
            wide, maps_out = divisible(block.wide * width_multiplier), divisible(block.maps_out * width_multiplier)
            features.append(_InvertedResidualV3(maps, block._replace(wide=wide, maps_out=maps_out)))
            maps = maps_out
        features.append(conv(maps, 6 * maps, 1))
        hidden = divisible(HIDDEN[variant] * width_multiplier)
        classifier = (
            nn.Linear(6 * maps, hidden),
            nn.Hardswish(inplace=True),
            nn.Dropout(dropout, inplace=True),
            nn.Linear(hidden, num_outputs),
        )
        super().__init__(_parts(features, *classifier))
        begin_as_he(self)
        load_weights(self, weights, heads=("classifier.3",))


class _InvertedResidualV3(nn.Module):
    """See `_InvertedResidual`; the wide maps are weighed before they are narrowed."""

    def __init__(self, maps_in: int, block: _Block) -> None:
        super().__init__()
        self.adds = block.stride == 1 and maps_in == block.maps_out
        wide = block.wide
        conv = partial(_conv, norm=_norm_v3, activation=nn.Hardswish if block.hard_swish else nn.ReLU)
        self.block = nn.Sequential(
            *([conv(maps_in, wide, 1)] if wide != maps_in else []),
            conv(wide, wide, block.kernel, stride=block.stride, groups=wide),
            *([_SqueezeExcitation(wide, divisible(wide // 4))] if block.squeezes else []),
            _conv(wide, block.maps_out, 1, norm=_norm_v3, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.adds else y


class _SqueezeExcitation(nn.Module):
    """Each map, times a weight in [0, 1] that depends on the means of all maps."""

    def __init__(self, maps: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(maps, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, maps, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * nn.functional.hardsigmoid(self.fc2(self.fc1(mean).relu()))


# ------------------------------------------------------------------------------------------------- shared


def divisible(maps: float) -> int:
    """The multiple of 8 that is nearest to a number of maps, at least 8, and more than a tenth below it never.

    Example:
        12 -> 16, 19 -> 24 (16 would be a sixth less), 20 -> 24, 100 -> 104.
    """
    nearest = max(8, int(maps + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * maps else nearest + 8


def _conv(
    maps_in: int,
    maps_out: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: type[nn.Module] | partial[nn.BatchNorm2d] = nn.BatchNorm2d,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution that keeps the size of the picture or divides it by `stride`, normalisation and activation."""
    layers = [
        nn.Conv2d(maps_in, maps_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        norm(maps_out),
        *([activation(inplace=True)] if activation else []),
    ]
    return nn.Sequential(*layers)


_norm_v3 = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


def _parts(features: Sequence[nn.Module], *classifier: nn.Module) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        features=nn.Sequential(*features),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(*classifier),
    )


def _stride(stem: Stem) -> int:
    return 1 if stem == "small" else 2
