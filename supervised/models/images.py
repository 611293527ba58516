"""What the networks for images share: how they read the shape of their input, and how their convolutions begin.

Shapes: C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def image_shape(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W).

    Args:
        model: whose input it is; named in the error.

    Raises:
        ValueError: the input is no image.
    """
    if len(input_shape) != 3:
        raise ValueError(f"{type(model).__name__} needs images [C, H, W]; the data has {list(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width


def begin_as_he(model: nn.Module) -> None:
    """Convolutions begin as in He et al. 2015 (arXiv:1502.01852): normal, with the variance 2 / (maps that a pixel goes
    into x pixels of the kernel), biases 0."""
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
