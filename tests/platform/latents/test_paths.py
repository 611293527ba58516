from __future__ import annotations

import pytest
import torch

from trivium.latents.paths import along, between


def test_on_a_circle_by_hand() -> None:
    path = between(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 3)
    torch.testing.assert_close(path, torch.tensor([[[1.0, 0.0], [0.5**0.5, 0.5**0.5], [0.0, 1.0]]]))
    same = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(between(same, same, 4), same.expand(1, 4, 2))


def test_latents_on_the_way_are_as_long_as_the_ends() -> None:
    a, b = torch.randn(2, 5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    path = between(a, b, 7)
    assert path.shape == (5, 7, 1, 16, 16)
    torch.testing.assert_close(path[:, 0], a)
    torch.testing.assert_close(path[:, -1], b)
    length = path.flatten(2).norm(dim=2)
    assert ((length > 14.5) & (length < 17.5)).all()  # a straight line's middle has 11.3
    for wrong in ((a, b, 1), (a, b[:4], 3)):
        with pytest.raises(ValueError, match="steps="):
            between(*wrong)


def test_along_one_dimension_after_the_other() -> None:
    path = along(2, 3, reach=2.0)
    assert path.tolist() == [[[-2, 0], [0, 0], [2, 0]], [[0, -2], [0, 0], [0, 2]]]
    with pytest.raises(ValueError, match="steps=1"):
        along(2, 1)
