from __future__ import annotations

import torch

from trivium.generative.metrics.coarse import coarse_features


def test_coarse_features_are_means_of_patches() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert coarse_features(image, size=2).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert coarse_features(torch.zeros(2, 3, 5, 5)).shape == (2, 75)
