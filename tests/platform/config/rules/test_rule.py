"""Which values a rule accepts, what they are converted to, and what is said of others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from trivium.config.problems import Kind
from trivium.config.rules import kinds
from trivium.config.rules.kinds import Count, Form, Fraction, LearningRate, PositiveOrInfinite, Seed, Widths
from trivium.config.rules.rule import Rule, rule_of_type


def rule(kind: Any) -> Rule:
    found = rule_of_type(kind)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (float, [1, 0.5, -3, np.float32(2), np.int64(3)], [None, "a", True, [1], math.inf, math.nan]),
        (int, [1, 3.0, np.int64(3)], [1.5, None, "1", False, math.inf, math.nan]),
        (bool, [True, False], [1, 0, "true", None]),
        (str | None, ["a", "", None], [1, True]),
        (Literal[18, 34], [18, 34], [19, "18", 18.5, True, None]),
        (Literal["auto", 0, 1], ["auto", 0, 1], [2, True, "0"]),
        (Literal["a"] | int, ["a", 3], ["b", 1.5]),
        (Fraction, [0, 1, 0.99], [-0.01, 1.01, math.nan]),
        (kinds.FractionBelowOne, [0, 0.999], [1, -0.1]),
        (kinds.BetweenZeroAndOne, [0.1], [0, 1]),
        (kinds.PositiveFraction, [1, 0.1], [0, 1.1]),
        (kinds.NotNegative, [0, 1e300], [-1e-300, math.inf]),
        (PositiveOrInfinite, [0.5, math.inf, ".inf"], [0, -math.inf, math.nan, None, "-.inf", "inf"]),
        (LearningRate, [1e-3, 1, 1e6], [0, -1e-3, "1e-3", None, True, 1.1e6, 3.5e38, ".inf"]),
        (Count, [1, 1e6], [0, -1, 1.5]),
        (Seed, [0, 2**32 - 1], [-1, 2**32]),
        (Widths, [[], [1, 2], (64, 1e2)], [3, [0], [1.5], "64", None, ["64"]]),
        (Sequence[Any], [[], ["a", 1]], ["ab", 1, None]),
        (Mapping[str, Fraction], [{}, {"a": 1}], [{"a": 2}, 3, [1]]),
        (Annotated[str, Form("a+", "some a")], ["a", "aa"], ["", "ab", 1]),
    ],
)
def test_values(kind: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not rule(kind).accepts(value)] == []
    assert [value for value in bad if rule(kind).accepts(value)] == []


@pytest.mark.parametrize(
    ("kind", "value", "converted"),
    [
        (float, 1, 1.0),
        (int, 1e6, 1_000_000),
        (float | None, None, None),
        (PositiveOrInfinite, ".inf", math.inf),
        (Literal["auto"] | float, "auto", "auto"),
        (Literal["auto"] | float, 3, 3.0),
        (int | float, 3, 3),
        (Widths, [64.0, 32], [64, 32]),
        (Widths, (64.0,), (64,)),
        (Mapping[str, float], {"a": 1}, {"a": 1.0}),
        (bool, True, True),
        (str, "1", "1"),
    ],
)
def test_conversion(kind: Any, value: Any, converted: Any) -> None:
    assert repr(rule(kind).converted(value)) == repr(converted)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "an integer"),
        (Count | None, "an integer >= 1 or null"),
        (LearningRate, "a number > 0 and <= 1,000,000"),
        (PositiveOrInfinite, "a number > 0 (.inf too)"),
        (Literal["a", "b"] | None, "one of a, b, null"),
        (Literal["auto"] | bool, "one of true, false, auto"),
        (Literal["auto"] | Count, "one of auto, an integer >= 1"),
        (bool, "true or false"),
        (Widths, "a list of integers >= 1, such as [64,64]"),
        (Sequence[Any], "a list"),
        (Mapping[str, Fraction], "a group of keys, each value a number >= 0 and <= 1"),
        (Annotated[str, Form("a+", "some a")], "some a"),
    ],
)
def test_words(kind: Any, words: str) -> None:
    assert rule(kind).words() == words


def test_the_nearest_named_value_is_offered() -> None:
    named = rule(Literal["PPO", "SAC", True])
    problem = named.problem("a.b", "sack", file="a.yaml")
    assert (problem.kind, problem.key, problem.value, problem.file) == (Kind.VALUE, "a.b", "sack", "a.yaml")
    assert (problem.valid, problem.nearest) == ("one of PPO, SAC, true", ("SAC",))
    assert named.nearest("tru") == "true"
    assert named.nearest("xyz") is None
