"""Features of images that need no trained network.

Shapes: N images, D features, C channels, H W pixels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def coarse_features(image_NCHW: Tensor, *, size: int = 7) -> Tensor:
    """Images averaged down to at most `size` x `size` pixels: features for a Fréchet distance that costs nothing.

    They tell collapse, missing kinds of images, wrong brightness and blotches, and nothing of details: a blurred copy
    of the data is perfect by them.

    Args:
        image_NCHW: float [N, C, H, W] in [0, 1].

    Returns:
        float [N, D], D = C * size * size at most.
    """
    height, width = (min(size, side) for side in image_NCHW.shape[2:])
    return F.adaptive_avg_pool2d(image_NCHW.float(), (height, width)).flatten(1)
