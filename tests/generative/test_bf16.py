"""Every kind of model learns in bf16: losses are finite, and near those of float32."""

from __future__ import annotations

import pytest
from tiny_learners import LEARNERS, build

from trivium.data.digits import digits
from trivium.learner import Run


@pytest.mark.parametrize("name", LEARNERS)
def test_the_first_updates_are_near_those_in_float32(name: str) -> None:
    data, logs, scores = digits(), [], []
    for run in (Run(), Run(precision="bf16")):
        learner = build(name, data, run=run)
        logs.append([{key: float(value) for key, value in learner.step().items()} for _ in range(2)])
        scores.append(learner.evaluate())
        assert (
            all(p.dtype.itemsize == 4 for p in learner.__dict__.get("network", learner).parameters())
            if hasattr(learner, "network")
            else True
        )
    for exact, rough in zip(*logs, strict=True):
        for key, value in exact.items():
            assert rough[key] == pytest.approx(value, rel=0.15, abs=0.05, nan_ok=True), key
    assert scores[1] != scores[0]
    for key, value in scores[0].items():
        assert scores[1][key] == pytest.approx(value, rel=0.25, abs=0.1), key
