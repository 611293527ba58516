"""GoogLeNet (Szegedy et al. 2014, "Going deeper with convolutions", arXiv:1409.4842).

Shapes: B batch, C channels, H W pixels, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne, Widths
from trivium.supervised.models.images import begin_as_he, image_shape
from trivium.supervised.models.weights import load_weights

Stem = Literal["imagenet", "small"]

BLOCKS: dict[int, tuple[tuple[int, int, int, int, int, int], ...]] = {
    3: ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    4: (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    5: ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
}
"""Maps of the convolutions of each block, see `Inception`, by the stage's number in the paper's table 1."""

AUXILIARY = {"4a": "aux1", "4d": "aux2"}
"""The heads that training adds, by the block that they read."""


class GoogLeNet(nn.Module):
    """Stages of Inception blocks, which look at pixels in four ways at once, with pooling between the stages.

    Weights have the names and shapes of torchvision's, and the same weights compute the same numbers. As there, and
    unlike in the paper, each convolution is followed by batch normalisation, and the third branch of a block has 3 x 3
    pixels instead of 5 x 5. torchvision's own weights were learned on pixels in [-1, 1]: there (x - 0.5) / 0.5 takes
    the place of ImageNet's mean and standard deviation.

    Args:
        input_shape: (C, H, W).
        num_outputs: O, logits or regression targets per sample.
        width: maps of the first convolution; all others scale with it.
        num_blocks: Inception blocks of each stage, at most (2, 5, 2); fewer stages or blocks make a smaller network.
        stem: what comes before the stages: `imagenet`, three convolutions and two poolings, a picture of an eighth;
            `small`, for 28 to 64 pixels, one convolution of 5 x 5 and one pooling, a picture of half the size.
        aux: whether training adds auxiliary heads after the blocks 4a and 4d, where they are not the last; the task
            weighs their losses, see `trivium.supervised.tasks.classification.Classification`.
        dropout: the probability of zeroing an input of the last layer while training.
        aux_dropout: the same in the auxiliary heads.
        weights: a file of weights to begin with, see `trivium.supervised.models.weights.load_weights`.

    Raises:
        ValueError: `stem` or `num_blocks` is out of range, the input is no image, or the weights do not fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        width: Count = 64,
        num_blocks: Widths = (2, 5, 2),
        stem: Stem = "imagenet",
        aux: bool = True,
        dropout: FractionBelowOne = 0.2,
        aux_dropout: FractionBelowOne = 0.7,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        most = [len(blocks) for blocks in BLOCKS.values()]
        if not 1 <= len(num_blocks) <= 3 or not all(1 <= n <= m for n, m in zip(num_blocks, most, strict=False)):
            raise ValueError(f"num_blocks={list(num_blocks)} must be one to three numbers from 1 to {most}")
        maps, *_ = image_shape(self, input_shape)

        def scaled(full: int) -> int:
            return max(1, round(full * width / 64))

        if stem == "imagenet":
            self.conv1 = Convolution(maps, width, 7, stride=2)
            self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
            self.conv2 = Convolution(width, width, 1)
            self.conv3 = Convolution(width, 3 * width, 3)
            self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
            maps = 3 * width
        else:
            self.conv1 = Convolution(maps, width, 5)
            self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
            maps = width
        heads: dict[str, nn.Module] = {}
        for number, count in zip(BLOCKS, num_blocks, strict=False):
            for i, full in enumerate(BLOCKS[number][:count]):
                block = f"{number}{'abcde'[i]}"
                inception = Inception(maps, [scaled(each) for each in full])
                self.add_module(f"inception{block}", inception)
                maps = inception.maps_out
                last = (number - 2, i + 1) == (len(num_blocks), count)
                if aux and block in AUXILIARY and not last:
                    heads[block] = AuxiliaryHead(maps, scaled(128), scaled(1024), num_outputs, dropout=aux_dropout)
            if number - 2 < len(num_blocks):
                pool = nn.MaxPool2d(3 if number == 3 else 2, 2, ceil_mode=True)
                self.add_module(f"maxpool{number}", pool)
        # In the order of the pass through the network; torchvision's order, that of the weights, has the heads later.
        self._path = [name for name, _ in self.named_children()]
        self._heads = {f"inception{block}": AUXILIARY[block] for block in heads}
        for block, head in heads.items():
            self.add_module(AUXILIARY[block], head)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(maps, num_outputs)
        begin_as_he(self)
        load_weights(self, weights, heads=("fc", "aux1.fc2", "aux2.fc2"), ignored=() if aux else ("aux1.", "aux2."))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """float [B, C, H, W] -> float [B, O]; in training mode, if there are auxiliary heads, a tuple of such outputs,
        the main one first."""
        auxiliary: list[Tensor] = []
        for name in self._path:
            x = getattr(self, name)(x)
            if self.training and name in self._heads:
                auxiliary.append(getattr(self, self._heads[name])(x))
        y: Tensor = self.fc(self.dropout(x.mean((2, 3))))
        return (y, *auxiliary) if auxiliary else y


class Inception(nn.Module):
    """Four branches on the same pixels, their maps concatenated: 1 x 1; twice 1 x 1 and 3 x 3; pooling and 1 x 1.

    Args:
        maps_in: of what comes in.
        maps: of the convolutions: of the first branch, of both in the second and the third, of the fourth.

    Attributes:
        maps_out: of all branches together.
    """

    def __init__(self, maps_in: int, maps: Sequence[int]) -> None:
        super().__init__()
        one, second_in, second, third_in, third, fourth = maps
        self.branch1 = Convolution(maps_in, one, 1)
        self.branch2 = nn.Sequential(Convolution(maps_in, second_in, 1), Convolution(second_in, second, 3))
        self.branch3 = nn.Sequential(Convolution(maps_in, third_in, 1), Convolution(third_in, third, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), Convolution(maps_in, fourth, 1))
        self.maps_out = one + second + third + fourth

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """What is seen half-way, classified: so that the gradient is short.

    Args:
        maps_in: of what comes in.
        maps: of the 1 x 1 convolution.
        width: of the hidden layer.
        num_outputs, dropout: see `GoogLeNet`.
    """

    def __init__(self, maps_in: int, maps: int, width: int, num_outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.conv = Convolution(maps_in, maps, 1)
        self.fc1 = nn.Linear(16 * maps, width)
        self.fc2 = nn.Linear(width, num_outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)
        y: Tensor = self.fc2(self.dropout(F.relu(self.fc1(x))))
        return y


class Convolution(nn.Module):
    """A convolution that keeps the size of the picture, or halves it; batch normalisation; ReLU."""

    def __init__(self, maps_in: int, maps_out: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(maps_in, maps_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(maps_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)
