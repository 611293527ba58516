"""ResNet (He et al. 2015, "Deep residual learning for image recognition", arXiv:1512.03385).

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count
from trivium.supervised.models.images import begin_as_he, image_shape
from trivium.supervised.models.weights import load_weights

Depth = Literal[8, 14, 20, 18, 34, 50, 101]
Stem = Literal["imagenet", "small", "cifar"]

NUM_BLOCKS: dict[int, tuple[int, ...]] = {
    8: (1, 1, 1),
    14: (2, 2, 2),
    20: (3, 3, 3),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
"""Blocks of each stage, by depth."""


class ResNet(nn.Sequential):
    """Stages of residual blocks; each stage but the first halves the picture and doubles the maps.

    float [B, C, H, W] -> float [B, num_outputs]. Weights have the names and shapes of torchvision's, and the same
    weights compute the same numbers. As there, and unlike in the paper, the bottleneck's 3 x 3 convolution is the one
    that halves the picture (ResNet v1.5), and a shortcut that changes the number of maps is a 1 x 1 convolution in
    every network, also in those for small images.

    Args:
        input_shape: (C, H, W).
        num_outputs: logits or regression targets per sample.
        depth: layers with weights. 18, 34, 50 and 101 are the paper's for ImageNet, of four stages; from 50 on their
            blocks are bottlenecks. 8, 14 and 20 are the paper's for CIFAR-10, of three stages.
        width: maps of the first stage: 64 for ImageNet, 16 in the paper for CIFAR-10.
        stem: what comes before the stages: `imagenet`, a 7 x 7 convolution and pooling, each of which halves the
            picture; `small`, a 3 x 3 convolution and one pooling, for 28 to 64 pixels; `cifar`, the convolution without
            pooling, as in the paper, at about four times the cost.
        weights: a file of weights to begin with, see `trivium.supervised.models.weights.load_weights`.

    Raises:
        ValueError: `depth` or `stem` is none of these, the input is no image, or the weights do not fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        depth: Depth = 18,
        width: Count = 64,
        stem: Stem = "imagenet",
        weights: str | None = None,
    ) -> None:
        channels, *_ = image_shape(self, input_shape)
        block = Bottleneck if depth >= 50 else BasicBlock
        large = stem == "imagenet"
        pool = {"imagenet": nn.MaxPool2d(3, 2, padding=1), "small": nn.MaxPool2d(2), "cifar": nn.Identity()}[stem]
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(channels, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False),
            bn1=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
            maxpool=pool,
        )
        maps = width
        for stage, num_blocks in enumerate(NUM_BLOCKS[depth]):
            blocks: list[nn.Module] = []
            for i in range(num_blocks):
                blocks.append(block(maps, width * 2**stage, stride=2 if stage and not i else 1))
                maps = width * 2**stage * block.expansion
            layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(maps, num_outputs)
        super().__init__(layers)
        begin_as_he(self)
        load_weights(self, weights, heads=("fc",))


class BasicBlock(nn.Module):
    """relu(x + conv(conv(x))), both convolutions 3 x 3.

    Args:
        maps_in: of x.
        width: maps of both convolutions, and of what comes out.
        stride: of the first convolution.
    """

    expansion = 1

    def __init__(self, maps_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(maps_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(maps_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y)
        return out


class Bottleneck(nn.Module):
    """relu(x + conv(conv(conv(x)))), the convolutions 1 x 1 to fewer maps, 3 x 3, and 1 x 1 to four times as many.

    Args:
        maps_in: of x.
        width: maps of the first two convolutions; a fourth of what comes out.
        stride: of the second.
    """

    expansion = 4

    def __init__(self, maps_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(maps_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(maps_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y)
        return out


def _shortcut(maps_in: int, maps_out: int, stride: int) -> nn.Sequential | None:
    """A projection where x and what is added to it differ in shape; None where they do not."""
    if stride == 1 and maps_in == maps_out:
        return None
    return nn.Sequential(nn.Conv2d(maps_in, maps_out, 1, stride, bias=False), nn.BatchNorm2d(maps_out))
