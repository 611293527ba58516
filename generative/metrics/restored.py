"""How close restored images come to the true ones, and how sharp they are.

Shapes: N images, C channels, H W pixels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

SMALL = 22  # pixels of a side, below which the window of SSIM, 11 pixels wide, would leave no place for itself


def psnr(image_NCHW: Tensor, true_NCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, 10 log10(1 / mean squared error), in dB.

    It rewards the mean of all plausible images, which is blurred: a sharper image can score lower.

    Args:
        image_NCHW, true_NCHW: float32 in [0, 1], of one shape.

    Returns:
        float32 [N]; infinite for equal images.

    Raises:
        ValueError: the shapes differ.
    """
    _require_alike(image_NCHW, true_NCHW)
    ratio_N = [
        peak_signal_noise_ratio(image, true, data_range=1.0) for image, true in zip(image_NCHW, true_NCHW, strict=True)
    ]
    return torch.stack(ratio_N)


def ssim(image_NCHW: Tensor, true_NCHW: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004), <= 1, with a Gaussian window of 1.5 pixels standard
    deviation; of 0.5 where a side has fewer than `SMALL` pixels, whose values are not comparable with others.

    Args:
        image_NCHW, true_NCHW: see `psnr`.

    Returns:
        float32 [N]; 1 for equal images.

    Raises:
        ValueError: the shapes differ.
    """
    _require_alike(image_NCHW, true_NCHW)
    sigma = 1.5 if min(true_NCHW.shape[2:]) >= SMALL else 0.5
    value_N = structural_similarity_index_measure(image_NCHW, true_NCHW, sigma=sigma, data_range=1.0, reduction="none")
    return cast(Tensor, value_N).reshape(len(true_NCHW))


def steepness(image_NCHW: Tensor) -> Tensor:
    """How sharp images are: the mean absolute difference of neighbouring pixels, float32 [N]. A blurred image has less
    of it than the true one, a noisy or ringing one more."""
    image_NCHW = image_NCHW.float()
    across = (image_NCHW[..., 1:] - image_NCHW[..., :-1]).abs().flatten(1).mean(1)
    down = (image_NCHW[..., 1:, :] - image_NCHW[..., :-1, :]).abs().flatten(1).mean(1)
    return (across + down) / 2


def _require_alike(image_NCHW: Tensor, true_NCHW: Tensor) -> None:
    if image_NCHW.shape != true_NCHW.shape:
        raise ValueError(f"images {list(image_NCHW.shape)} and the true ones {list(true_NCHW.shape)} differ in shape")
