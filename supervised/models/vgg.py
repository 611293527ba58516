"""VGG (Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition",
arXiv:1409.1556).

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne, Widths
from trivium.supervised.models.images import begin_as_he, image_shape
from trivium.supervised.models.weights import load_weights

Depth = Literal[6, 11, 13, 16, 19]

NUM_CONVS: dict[int, tuple[int, ...]] = {
    6: (1, 1, 2),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions of each stage, by depth; the paper's configurations A, B, D and E from 11 on."""


class VGG(nn.Sequential):
    """Stages of 3 x 3 convolutions, with pooling after each, and linear layers.

    float [B, C, H, W] -> float [B, num_outputs]. Weights have the names and shapes of torchvision's, with batch
    normalisation too, and the same weights compute the same numbers on images of 224 pixels or more.

    Small images need no other stem: pooling that would leave nothing is left out, and the linear layers see as many
    pixels as there are, at most 7 x 7. (torchvision's always see 7 x 7, copies of fewer.)

    Args:
        input_shape: (C, H, W).
        num_outputs: logits or regression targets per sample.
        depth: layers with weights. 6 is not the paper's: three stages, for thin networks on small images, whose name
            fits with one hidden layer.
        width: maps of the first stage; each other stage has twice as many, at most 8 x width.
        batch_norm: whether each convolution is followed by batch normalisation, which the paper did not have yet.
        hidden: widths of the linear layers but the last.
        dropout: the probability of zeroing one of their units while training.
        weights: a file of weights to begin with, see `trivium.supervised.models.weights.load_weights`.

    Raises:
        ValueError: `depth` is none of these, the input is no image, or the weights do not fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        depth: Depth = 16,
        width: Count = 64,
        batch_norm: bool = False,
        hidden: Widths = (4096, 4096),
        dropout: FractionBelowOne = 0.5,
        weights: str | None = None,
    ) -> None:
        maps_in, *size = image_shape(self, input_shape)
        features: list[nn.Module] = []
        for stage, num_convs in enumerate(NUM_CONVS[depth]):
            maps = width * min(2**stage, 8)
            for _ in range(num_convs):
                features.append(nn.Conv2d(maps_in, maps, 3, padding=1))
                features += [nn.BatchNorm2d(maps)] if batch_norm else []
                features.append(nn.ReLU(inplace=True))
                maps_in = maps
            if min(size) >= 2:
                features.append(nn.MaxPool2d(2))
                size = [pixels // 2 for pixels in size]
            else:
                features.append(nn.Identity())  # the layers after it keep their numbers
        size = [min(pixels, 7) for pixels in size]
        classifier: list[nn.Module] = []
        features_in = maps_in * size[0] * size[1]
        for features_out in hidden:
            classifier += [nn.Linear(features_in, features_out), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            features_in = features_out
        classifier.append(nn.Linear(features_in, num_outputs))
        super().__init__(
            OrderedDict(
                features=nn.Sequential(*features),
                avgpool=nn.AdaptiveAvgPool2d((size[0], size[1])),
                flatten=nn.Flatten(),
                classifier=nn.Sequential(*classifier),
            )
        )
        begin_as_he(self)
        load_weights(self, weights, heads=(f"classifier.{len(classifier) - 1}",))
