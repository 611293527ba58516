from __future__ import annotations

from typing import Any

import pytest

from trivium.schedules import scheduled


@pytest.mark.parametrize(
    ("samples", "rate"),
    [(1, 0.2), (5, 1.0), (10, 2.0), (15, 1 + 0.7071068), (20, 1.0), (25, 1 - 0.7071068), (30, 0.0), (99, 0.0)],
)
def test_warmup_and_cosine_by_hand(samples: int, rate: float) -> None:
    assert scheduled(samples, peak=2.0, warmup=10, decay=30) == pytest.approx(rate)


def test_without_warmup_or_decay_the_rate_is_the_peak() -> None:
    assert [scheduled(s, peak=0.3) for s in (0, 1, 10**9)] == [0.3] * 3
    assert scheduled(3, peak=1.0, warmup=4) == 0.75
    assert scheduled(400, peak=1.0, warmup=4) == 1.0
    assert scheduled(50, peak=1.0, decay=100) == pytest.approx(0.5)


@pytest.mark.parametrize(("warmup", "decay"), [(-1, None), (10, 10), (0, 0), (11, 10)])
def test_impossible_schedules_are_refused(warmup: int, decay: int | None) -> None:
    with pytest.raises(ValueError, match=f"warmup={warmup} must be at least 0 and below decay={decay}"):
        scheduled(0, peak=1.0, warmup=warmup, decay=decay)


@pytest.mark.parametrize(
    ("keywords", "values"),
    [
        ({"shape": "linear"}, [0.5, 1.0, 0.75, 0.5, 0.0, 0.0]),
        ({"shape": "linear", "final_ratio": 0.2}, [0.5, 1.0, 0.8, 0.6, 0.2, 0.2]),
        ({"shape": "cosine", "final_ratio": 0.5}, [0.5, 1.0, 0.9267767, 0.75, 0.5, 0.5]),
        ({"shape": "constant"}, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"shape": "step", "num_steps": 2}, [0.5, 1.0, 1.0, 0.1, 0.1, 0.1]),
        ({"shape": "one_cycle"}, [0.55, 1.0, 0.8535534, 0.5, 0.0, 0.0]),
    ],
)
def test_each_shape_by_hand(keywords: Any, values: list[float]) -> None:
    at = [scheduled(position, peak=1.0, warmup=10, decay=30, **keywords) for position in (5, 10, 15, 20, 30, 99)]
    assert at == pytest.approx(values)
