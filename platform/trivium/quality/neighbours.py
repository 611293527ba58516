"""Whether samples lie where real ones do, whether they are everywhere where those are, and whether they are copies.

All by distances between nearest neighbours, in features or in pixels.

Shapes: N generated samples, M real ones, D features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 500  # whose distances to all others are in memory at once


class Overlap(NamedTuple):
    """How two sets of samples overlap, see `overlap`."""

    precision: float
    recall: float
    density: float
    coverage: float


def overlap(fake_ND: Tensor, real_MD: Tensor, *, k: int = 5) -> Overlap:
    """Precision and recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797).

    The ball of a sample reaches to its k-th nearest neighbour in its own set, itself not counted.

        precision  the share of generated samples in the ball of a real one: quality
        recall     the share of real samples in the ball of a generated one: variety. One generated sample far from all
                   others has a large ball and raises it
        density    the mean number of real balls that a generated sample is in, divided by k; 1 for real samples, more
                   where samples crowd at modes. A real sample far from all others counts for less than in precision
        coverage   the share of real samples in whose ball there is a generated one: variety that outliers do not raise

    Args:
        fake_ND, real_MD: float, more than k rows each; of about the same number.
        k: which neighbour.

    Raises:
        ValueError: too few rows, or different D.

    Example:
        real = [[0], [1], [10]], fake = [[0.5], [0.6], [30]], k = 1: real balls have the radii 1, 1, 9, generated ones
        0.1, 0.1, 29.4 -> precision 2/3, recall 2/3 (both by the ball of the outlier 30), density 4/3, coverage 2/3.
    """
    if min(len(fake_ND), len(real_MD)) <= k or fake_ND.shape[1:] != real_MD.shape[1:] or fake_ND.ndim != 2:
        raise ValueError(
            f"features of shapes {list(fake_ND.shape)} and {list(real_MD.shape)} must be [N > {k}, D] with one D"
        )
    fake_ND, real_MD = fake_ND.cpu().double(), real_MD.cpu().double()
    radius_N, radius_M = _radii(fake_ND, k), _radii(real_MD, k)
    precise, crowd = 0, 0.0
    reached_M, covered_M = torch.zeros(2, len(real_MD), dtype=torch.bool)
    for part_ND, part_N in zip(fake_ND.split(ROWS), radius_N.split(ROWS), strict=True):
        distance_NM = torch.cdist(part_ND, real_MD)
        within_NM = distance_NM < radius_M
        precise += int(within_NM.any(1).sum())
        crowd += float(within_NM.sum())
        covered_M |= within_NM.any(0)
        reached_M |= (distance_NM < part_N[:, None]).any(0)
    n, m = len(fake_ND), len(real_MD)
    return Overlap(precise / n, int(reached_M.sum()) / m, crowd / (k * n), int(covered_M.sum()) / m)


def nearest(query_ND: Tensor, among: Iterable[Tensor]) -> Tensor:
    """The Euclidean distance of each row to the nearest row of another set, float32 [N]; infinite if that is empty.

    Args:
        query_ND: float [N, D].
        among: the other set in parts, float [M, D] each.
    """
    nearest_N = torch.full((len(query_ND),), torch.inf)
    for part_MD in among:
        distances = [torch.cdist(part_ND, part_MD.float()).amin(1) for part_ND in query_ND.float().split(ROWS)]
        nearest_N = torch.minimum(nearest_N, torch.cat(distances))
    return nearest_N


def nearest_ratio(fake_N: Tensor, held_out_N: Tensor) -> float:
    """The mean distance of generated samples to the nearest training sample as a share of that of held-out real ones:
    about 1 for a model that generates new samples, near 0 for one that copies the training's. Blurred samples are
    nearer to everything and score below 1 without being copies.

    Args:
        fake_N, held_out_N: float [N], of `nearest` among all training samples.
    """
    return float(fake_N.double().mean() / held_out_N.double().mean().clamp(min=1e-12))


def _radii(sample_ND: Tensor, k: int) -> Tensor:
    """The distance of each row to the k-th nearest other row, float64 [N]."""
    # The nearest of all is the row itself, or an equal one, at distance 0.
    parts = [torch.cdist(part, sample_ND).kthvalue(k + 1, dim=1).values for part in sample_ND.split(ROWS)]
    return torch.cat(parts)
