"""Distances between sets of features: by hand, and against torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from trivium.quality.distances import frechet_distance, kernel_distance


def test_the_frechet_distance_of_gaussians_by_hand() -> None:
    # means 0 and (3, 4); variances (1, 4) and (4, 9) without covariance: 25 + (1 - 2)^2 + (2 - 3)^2
    base = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * (3 / 4) ** 0.5
    a, b = base * torch.tensor([1.0, 2.0]), base * torch.tensor([2.0, 3.0]) + torch.tensor([3.0, 4.0])
    assert frechet_distance(a, b) == pytest.approx(27)
    assert frechet_distance(b, a) == pytest.approx(27)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_covariances_without_full_rank_are_no_trouble() -> None:
    features = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 1) == pytest.approx(40, rel=1e-5)
    with pytest.raises(ValueError, match=r"\[5, 40\] and \[1, 40\]"):
        frechet_distance(features, features[:1])


def test_the_kernel_distance_by_hand() -> None:
    a, b = torch.zeros(2, 1), torch.ones(2, 1)
    assert kernel_distance(a, b) == pytest.approx(1 + 8 - 2)
    # k = (1 + xy)^3: within a 1; within b (1 + 2)^3 = 27; across 1
    assert kernel_distance(a, torch.tensor([[1.0], [2.0]])) == pytest.approx(1 + 27 - 2)


def test_the_kernel_distance_is_that_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1500, 7, generator=generator) for _ in range(2))
    for x, y in ((a, b), (a, b + 0.3)):
        assert kernel_distance(x, y) == pytest.approx(poly_mmd(x.double(), y.double()).item(), abs=1e-9)
    assert kernel_distance(a, b + 0.3) > 10 * abs(kernel_distance(a, b))


def test_distances_order_corruptions() -> None:
    generator = torch.Generator().manual_seed(0)
    real, other = (torch.randn(2000, 5, generator=generator) for _ in range(2))
    noise = torch.randn(2000, 5, generator=generator)
    for distance in (frechet_distance, kernel_distance):
        values = [distance(other + strength * noise, real) for strength in (0.0, 0.5, 1.0, 2.0)]
        assert values == sorted(values)
        assert values[1] > 3 * abs(values[0])
