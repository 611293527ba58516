from __future__ import annotations

import pytest
import torch

from trivium.generative.metrics.frechet import coarse_features, frechet_distance


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


def test_coarse_features_are_means_of_patches() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert coarse_features(image, size=2).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert coarse_features(torch.zeros(2, 3, 5, 5)).shape == (2, 75)
