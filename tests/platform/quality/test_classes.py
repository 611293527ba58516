from __future__ import annotations

import math

import pytest
import torch

from trivium.quality.classes import agreement, divergence, shares


def test_by_hand() -> None:
    found = torch.tensor([0, 1, 1, 3])
    assert agreement(found, torch.tensor([0, 1, 2, 3])) == 0.75
    assert shares(found, 5).tolist() == [0.25, 0.5, 0, 0.25, 0]
    even, odd = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    assert divergence(even, odd) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert divergence(odd, odd) == 0
    assert divergence(torch.tensor([1.0, 0.0]), even) == pytest.approx(math.log(2))
    assert divergence(even, torch.tensor([1.0, 0.0])) == math.inf


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[4\] and labels \[4, 1\]"):
        agreement(torch.zeros(4), torch.zeros(4, 1))
