"""Pairs of an encoder and a decoder, the parts of autoencoders.

A coder is a module with two callables: `encoder`, float [B, C, H, W] -> float [B, encoded_dim], and `decoder`, float
[B, latent_dim] -> float [B, C, H, W]; what the numbers mean is the learner's affair. It is offered `input_shape`,
`latent_dim` and `encoded_dim`.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

from torch import nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, Widths


class Coder(Protocol):
    """What autoencoders need of a module, see above."""

    encoder: nn.Module
    decoder: nn.Module


class MLPCoder(nn.Module):
    """Multilayer perceptrons with SiLU, mirror images of each other.

    Args:
        input_shape: of one input, any.
        latent_dim: numbers that the decoder reads.
        encoded_dim: numbers that the encoder writes.
        hidden: widths of the encoder's hidden layers; the decoder's are the same in reverse order.

    Raises:
        ValueError: a width is not positive.
    """

    @checks_keywords
    def __init__(
        self, *, input_shape: Sequence[int], latent_dim: Count, encoded_dim: int, hidden: Widths = (256,)
    ) -> None:
        super().__init__()
        size = math.prod(input_shape)
        self.encoder = nn.Sequential(nn.Flatten(), *_layers([size, *hidden, encoded_dim]))
        self.decoder = nn.Sequential(
            *_layers([latent_dim, *reversed(hidden), size]), nn.Unflatten(1, tuple(input_shape))
        )


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.SiLU()]
    return layers[:-1]


class ConvCoder(nn.Module):
    """Convolutions of stride 2 with SiLU and a hidden linear layer, mirror images of each other.

    Args:
        input_shape: (C, H, W); H and W multiples of 2 ** len(channels).
        latent_dim: numbers that the decoder reads.
        encoded_dim: numbers that the encoder writes.
        channels: maps of the encoder's convolutions, each of which halves the picture.
        hidden: width of the linear layer between convolutions and code.

    Raises:
        ValueError: the pictures can't be halved so often; names the nearest sizes that can.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        latent_dim: Count,
        encoded_dim: int,
        channels: Widths = (32, 64),
        hidden: Widths = (256,),
    ) -> None:
        super().__init__()
        colours, height, width = image_shape(input_shape, 2 ** len(channels))
        small = (channels[-1], height >> len(channels), width >> len(channels))
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for before, after in itertools.pairwise([colours, *channels]):
            down += [nn.Conv2d(before, after, 4, 2, 1), nn.SiLU()]
            up = [nn.SiLU(), nn.ConvTranspose2d(after, before, 4, 2, 1), *up]
        size = math.prod(small)
        self.encoder = nn.Sequential(*down, nn.Flatten(), *_layers([size, *hidden, encoded_dim]))
        self.decoder = nn.Sequential(*_layers([latent_dim, *reversed(hidden), size]), nn.Unflatten(1, small), *up)


def image_shape(shape: Sequence[int], multiple: int) -> tuple[int, int, int]:
    """(C, H, W), if it is one of images whose sides are multiples of `multiple`.

    Raises:
        ValueError: it is not; names the nearest sizes that are.
    """
    if len(shape) != 3:
        raise ValueError(f"the network needs images [C, H, W]; the data has {list(shape)}")
    channels, *sides = shape
    if any(side % multiple for side in sides):
        near = sorted({max(1, side // multiple + more) * multiple for side in sides for more in (0, 1)})
        raise ValueError(
            f"images of {sides[0]} x {sides[1]} pixels: the network needs multiples of {multiple}, "
            f"such as {' or '.join(map(str, near))}"
        )
    return channels, sides[0], sides[1]
