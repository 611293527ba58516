"""Which evaluation is the best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from trivium.training.budget import Budget
from trivium.training.monitor import Monitor

NAN, INF = math.nan, math.inf


def monitor(
    mode: str | None = None, evaluates: Iterable[str] | None = None, *, updates: int = 1, **changes: Any
) -> Monitor:
    config = {"metric": "eval/score", "mode": mode, "patience": None, "min_delta": 0.0} | changes
    return Monitor(config, Budget({"updates": updates, "target": None}, {}), evaluates)


def best_of(monitor: Monitor, scores: Iterable[float]) -> int | None:
    for step, score in enumerate(scores):
        monitor.judge({"eval/score": score}, step)
    return monitor.best_step


@pytest.mark.parametrize(
    ("mode", "stated", "best"),
    [(None, "max", 1), (None, "min", 2), ("min", "max", 2), ("max", None, 1), ("min", None, 2)],
)
def test_the_config_says_what_is_better_or_else_the_learner(mode: str | None, stated: str | None, best: int) -> None:
    assert best_of(monitor(mode, {"score": stated} if stated else ("score",)), [2.0, 3.0, 1.0]) == best


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("max", [NAN, INF, -INF], None),
        ("min", [NAN, INF, -INF], None),
        ("max", [NAN, 1.0, NAN], 1),
        ("max", [INF, 1.0, 2.0, INF], 2),
        ("min", [-INF, 1.0, 2.0, -INF], 1),
        ("min", [INF, 3.0], 1),
    ],
)
def test_no_value_that_is_not_a_number_is_the_best(mode: str, scores: list[float], best: int | None) -> None:
    assert best_of(monitor(mode), scores) == best


def test_evaluations_without_a_number_end_the_patience() -> None:
    impatient = monitor("max", patience=2)
    assert best_of(impatient, [1.0, NAN]) == 0
    assert impatient.satisfied() is None
    best_of(impatient, [INF])
    assert impatient.satisfied() == "no improvement of eval/score in 2 evaluations"


@pytest.mark.parametrize(("before", "after", "kept"), [("max", "max", 1), ("max", "min", None)])
def test_what_another_direction_found_counts_no_more(before: str, after: str, kept: int | None) -> None:
    first, second = monitor(before), monitor(None, {"score": after})
    best_of(first, [1.0, 2.0, 1.5])
    second.load_state_dict(first.state_dict())
    assert second.best_step == kept


@pytest.mark.parametrize(
    ("changed", "evaluations"),
    [
        ({}, 0),  # killed between its last checkpoint and its result: it ends as it did
        ({"updates": 9}, 2),  # a larger budget: all of its patience again
        ({"patience": 3}, 1),
        ({"patience": 3, "updates": 9}, 1),
        ({"patience": None}, None),
    ],
)
def test_a_run_that_its_patience_ended_goes_on_with_more(changed: dict[str, Any], evaluations: int | None) -> None:
    ended = monitor("max", patience=2)
    best_of(ended, [3.0, 1.0, 2.0])
    assert ended.satisfied()
    resumed = monitor("max", **{"patience": 2, **changed})
    resumed.load_state_dict(ended.state_dict())
    made = 0
    while not resumed.satisfied() and made < 10:
        resumed.judge({"eval/score": 0.0}, 10 + made)
        made += 1
    assert made == (10 if evaluations is None else evaluations)
    assert resumed.best_step == 0


def test_patience_that_is_left_is_not_renewed_by_another_budget() -> None:
    running = monitor("max", patience=3)
    best_of(running, [3.0, 1.0, 2.0])
    resumed = monitor("max", patience=3, updates=9)
    resumed.load_state_dict(running.state_dict())
    resumed.judge({"eval/score": 0.0}, 10)
    assert resumed.satisfied()
