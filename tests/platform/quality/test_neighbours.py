from __future__ import annotations

import pytest
import torch

from trivium.quality import neighbours
from trivium.quality.neighbours import nearest, nearest_ratio, overlap


def normal(number: int, seed: int, width: int = 4) -> torch.Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


def test_overlap_by_hand() -> None:
    real, fake = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[0.5], [0.6], [30.0]])
    assert overlap(fake, real, k=1) == pytest.approx((2 / 3, 2 / 3, 4 / 3, 2 / 3))
    with pytest.raises(ValueError, match=r"\[3, 1\] must be \[N > 3, D\]"):
        overlap(fake, real, k=3)


def test_a_tight_cluster_is_precise_and_misses_the_rest() -> None:
    real = normal(600, 0)
    found = overlap(0.05 * normal(600, 1), real)
    assert found.precision > 0.8
    assert found.recall < 0.3
    assert found.coverage < 0.3
    spread = overlap(5 * normal(600, 1), real)
    assert spread.precision < 0.2
    same = overlap(normal(600, 2), real)
    assert min(same.precision, same.recall, same.coverage) > 0.85
    assert same.density == pytest.approx(1, abs=0.15)


def test_the_parts_in_which_it_is_computed_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = normal(50, 0), normal(60, 1)
    whole, distance = overlap(fake, real), nearest(fake, [real])
    monkeypatch.setattr(neighbours, "ROWS", 7)
    assert overlap(fake, real) == pytest.approx(whole)
    torch.testing.assert_close(nearest(fake, real.split(9)), distance)


def test_copies_are_nearer_to_the_training_set_than_held_out_samples() -> None:
    train, held_out = normal(500, 0), normal(100, 1)
    far = nearest(held_out, [train])
    assert nearest(torch.tensor([[0.0, 3.0]]), [torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 9.0]])]).item() == 5
    assert nearest_ratio(nearest(train[:100], [train]), far) == pytest.approx(0, abs=1e-3)
    assert nearest_ratio(nearest(normal(100, 2), [train]), far) == pytest.approx(1, abs=0.15)
