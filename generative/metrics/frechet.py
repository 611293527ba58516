"""How good generated images are, measured without a download.

Shapes: N images, D features, C channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def frechet_distance(a_ND: Tensor, b_ND: Tensor) -> float:
    """The squared Fréchet distance of the Gaussians that have the mean and covariance of two sets of features:

        |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)).

    The trace of the root comes from the eigenvalues of the symmetric cov_a^(1/2) cov_b cov_a^(1/2), clipped at 0,
    in float64: float32 gives nonsense for covariances without full rank.

    Args:
        a_ND, b_ND: float, at least two rows each; with fewer than some 10 D rows the distance is biased upwards.

    Returns:
        >= 0; 0 for equal means and covariances.

    Raises:
        ValueError: fewer than two rows, or different D.
    """
    if a_ND.ndim != 2 or b_ND.ndim != 2 or a_ND.shape[1] != b_ND.shape[1] or min(len(a_ND), len(b_ND)) < 2:
        raise ValueError(f"features of shapes {list(a_ND.shape)} and {list(b_ND.shape)} must be [N >= 2, D] with one D")
    a_ND, b_ND = a_ND.cpu().double(), b_ND.cpu().double()
    mean = (a_ND.mean(0) - b_ND.mean(0)).square().sum()
    cov_a, cov_b = a_ND.T.cov().view(a_ND.shape[1], -1), b_ND.T.cov().view(a_ND.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    root_trace = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    return max(0.0, float(mean + cov_a.trace() + cov_b.trace() - 2 * root_trace))


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
