"""What is said of values for which no signature states a rule."""

from __future__ import annotations

from typing import Any

import pytest

from trivium.config import valid


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        (1, 2, None),
        (1, 2.0, None),
        (1.5, 2, "an integer"),
        (True, 2, "an integer"),
        (True, 2.0, "a number"),
        ("x", 2.0, "a number"),
        (3, "x", "a text"),
        (3, [1], "a list"),
        ("yes", True, "true or false"),
        (None, 3, None),
        (3, None, None),
    ],
)
def test_without_a_rule_the_default_gives_the_type(value: Any, default: Any, expected: str | None) -> None:
    assert valid.problem(value, default) == expected


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [(1.5, 2, None), ([3], 2, None), ({"a": 1}, 2, None), ("x", 2, "an integer"), (2, "x", "a text"), (2, None, None)],
)
def test_a_users_own_constructor_is_told_only_numbers_from_texts(
    value: Any, default: Any, expected: str | None
) -> None:
    assert valid.wrong_scalar(value, default) == expected


def test_sizes_are_shared_by_the_workers() -> None:
    assert valid.not_shared("env.num_envs", 6, 3) is None
    assert valid.not_shared("env.num_envs", 7, 3) == "env.num_envs=7 must be a positive multiple of the 3 workers"
    assert valid.not_shared("env.num_envs", 0, 1)
