from __future__ import annotations

import pytest

from trivium.supervised.schedules import warmup_cosine


@pytest.mark.parametrize(
    ("samples", "rate"),
    [(1, 0.2), (5, 1.0), (10, 2.0), (15, 1 + 0.7071068), (20, 1.0), (25, 1 - 0.7071068), (30, 0.0), (99, 0.0)],
)
def test_warmup_and_cosine_by_hand(samples: int, rate: float) -> None:
    assert warmup_cosine(samples, peak=2.0, warmup_samples=10, decay_samples=30) == pytest.approx(rate)


def test_without_warmup_or_decay_the_rate_is_the_peak() -> None:
    assert [warmup_cosine(s, peak=0.3) for s in (0, 1, 10**9)] == [0.3] * 3
    assert warmup_cosine(3, peak=1.0, warmup_samples=4) == 0.75
    assert warmup_cosine(400, peak=1.0, warmup_samples=4) == 1.0
    assert warmup_cosine(50, peak=1.0, decay_samples=100) == pytest.approx(0.5)


@pytest.mark.parametrize(("warmup", "decay"), [(-1, None), (10, 10), (0, 0), (11, 10)])
def test_impossible_schedules_are_refused(warmup: int, decay: int | None) -> None:
    with pytest.raises(ValueError, match=f"warmup_samples={warmup} must be at least 0 and below decay_samples={decay}"):
        warmup_cosine(0, peak=1.0, warmup_samples=warmup, decay_samples=decay)
