"""AlexNet (Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997), the
one-tower version of the network that won ImageNet in 2012.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import FractionBelowOne, Widths
from trivium.supervised.models.images import begin_as_he, image_shape
from trivium.supervised.models.weights import load_weights

Stem = Literal["imagenet", "small"]

MIN_PIXELS = 63  # fewer leave nothing after the pooling of the stem `imagenet`


class AlexNet(nn.Sequential):
    """Five convolutions, of which the first ones are wide, with pooling, and three linear layers with dropout.

    float [B, C, H, W] -> float [B, num_outputs]. Weights have the names and shapes of torchvision's, and the same
    weights compute the same numbers. As there, and unlike in 2012, there is no local response normalisation.

    Args:
        input_shape: (C, H, W).
        num_outputs: logits or regression targets per sample.
        channels: maps of the five convolutions.
        hidden: widths of the linear layers but the last.
        dropout: the probability of zeroing one of their inputs while training.
        batch_norm: whether each convolution is followed by batch normalisation, which was not known yet; it has then no
            bias.
        stem: `imagenet` begins with 11 x 11 pixels and a stride of 4, and the linear layers see 6 x 6; `small`, for 28
            to 64 pixels, begins with 5 x 5 and a stride of 2, does not pool after the last convolution, and they see
            4 x 4.
        weights: a file of weights to begin with, see `trivium.supervised.models.weights.load_weights`.

    Raises:
        ValueError: `stem` is none of these, there are not five `channels`, the input is no image or too small a one, or
            the weights do not fit.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: Widths = (64, 192, 384, 256, 256),
        hidden: Widths = (4096, 4096),
        dropout: FractionBelowOne = 0.5,
        batch_norm: bool = False,
        stem: Stem = "imagenet",
        weights: str | None = None,
    ) -> None:
        if len(channels) != 5:
            raise ValueError(f"channels={list(channels)} must be the maps of five convolutions")
        maps_in, height, width = image_shape(self, input_shape)
        small = stem == "small"
        if not small and min(height, width) < MIN_PIXELS:
            raise ValueError(
                f"stem=imagenet needs {MIN_PIXELS} pixels each way; the data has {height} x {width}: small"
            )
        kernels, pooled = ((5, 5, 3, 3, 3), (0, 1)) if small else ((11, 5, 3, 3, 3), (0, 1, 4))
        features: list[nn.Module] = []
        for i, (maps, kernel) in enumerate(zip(channels, kernels, strict=True)):
            stride = 1 if i else 2 if small else 4
            padding = 2 if i == 0 else kernel // 2
            features.append(nn.Conv2d(maps_in, maps, kernel, stride, padding, bias=not batch_norm))
            features += [nn.BatchNorm2d(maps)] if batch_norm else []
            features.append(nn.ReLU(inplace=True))
            if i in pooled:
                features.append(nn.MaxPool2d(3, 2, padding=1 if small else 0))
            maps_in = maps
        pixels = 4 if small else 6
        classifier: list[nn.Module] = []
        features_in = maps_in * pixels**2
        for features_out in hidden:
            classifier += [nn.Dropout(dropout), nn.Linear(features_in, features_out), nn.ReLU(inplace=True)]
            features_in = features_out
        classifier.append(nn.Linear(features_in, num_outputs))
        super().__init__(
            OrderedDict(
                features=nn.Sequential(*features),
                avgpool=nn.AdaptiveAvgPool2d(pixels),
                flatten=nn.Flatten(),
                classifier=nn.Sequential(*classifier),
            )
        )
        begin_as_he(self)
        load_weights(self, weights, heads=(f"classifier.{len(classifier) - 1}",))
