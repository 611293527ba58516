"""What is said of values for which no signature states a rule."""

from __future__ import annotations

from typing import Any

import pytest

from trivium.config.rules.defaults import wrong_scalar, wrong_type


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
    assert wrong_type(value, default) == expected


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [(1.5, 2, None), ([3], 2, None), ({"a": 1}, 2, None), ("x", 2, "an integer"), (2, "x", "a text"), (2, None, None)],
)
def test_a_users_own_constructor_is_told_only_numbers_from_texts(
    value: Any, default: Any, expected: str | None
) -> None:
    assert wrong_scalar(value, default) == expected
