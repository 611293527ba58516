"""Distances between two sets of features: 0 for samples of one distribution, apart from the noise of small sets.

Their values depend on the features and on the number of samples: compare only values of the same extractor and number,
and look at what real samples score against other real ones.

Shapes: N or M samples, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 1000  # of a kernel matrix that are in memory at once


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
    _require_features(a_ND, b_ND)
    a_ND, b_ND = a_ND.cpu().double(), b_ND.cpu().double()
    mean = (a_ND.mean(0) - b_ND.mean(0)).square().sum()
    cov_a, cov_b = a_ND.T.cov().view(a_ND.shape[1], -1), b_ND.T.cov().view(a_ND.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    root_trace = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    return max(0.0, float(mean + cov_a.trace() + cov_b.trace() - 2 * root_trace))


def kernel_distance(a_ND: Tensor, b_MD: Tensor) -> float:
    """The squared maximum mean discrepancy with the kernel k(x, y) = (x . y / D + 1)^3 (arXiv:1801.01401), in float64:

        mean of k(a_i, a_j) over i != j + mean of k(b_i, b_j) over i != j - 2 mean of k(a_i, b_j).

    Unlike the Frechet distance it has no bias at any number of samples. The paper averages it over small subsets, which
    has the same expectation and more noise.

    Args:
        a_ND, b_MD: float, at least two rows each.

    Returns:
        About 0 for samples of one distribution: it can be slightly negative.

    Raises:
        ValueError: fewer than two rows, or different D.

    Example:
        a = [[0], [0]], b = [[1], [1]] -> 1 + 8 - 2 = 7.
    """
    _require_features(a_ND, b_MD)
    a_ND, b_MD = a_ND.cpu().double(), b_MD.cpu().double()
    n, m = len(a_ND), len(b_MD)
    own_a = (_kernel_sum(a_ND, a_ND) - _kernel_of_rows(a_ND).sum()) / (n * (n - 1))
    own_b = (_kernel_sum(b_MD, b_MD) - _kernel_of_rows(b_MD).sum()) / (m * (m - 1))
    return float(own_a + own_b - 2 * _kernel_sum(a_ND, b_MD) / (n * m))


def _kernel_sum(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """The sum of k over all pairs."""
    width = a_ND.shape[1]
    return torch.stack([(part_ND @ b_MD.T / width + 1).pow(3).sum() for part_ND in a_ND.split(ROWS)]).sum()


def _kernel_of_rows(a_ND: Tensor) -> Tensor:
    """k of each row with itself, float64 [N]."""
    return (a_ND.square().sum(1) / a_ND.shape[1] + 1).pow(3)


def _require_features(a_ND: Tensor, b_MD: Tensor) -> None:
    if a_ND.ndim != 2 or b_MD.ndim != 2 or a_ND.shape[1] != b_MD.shape[1] or min(len(a_ND), len(b_MD)) < 2:
        raise ValueError(f"features of shapes {list(a_ND.shape)} and {list(b_MD.shape)} must be [N >= 2, D] with one D")
