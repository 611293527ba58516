"""What a value must be where no signature states a rule: of the type of its default."""

from __future__ import annotations

import math
from typing import Any


def noun(default: Any) -> str:
    """What a value of the same type as `default` is called."""
    nouns = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a group of keys",
    }
    return nouns.get(type(default), f"a {type(default).__name__}")


def wrong_scalar(value: Any, default: Any) -> str | None:
    """What a value for a user's own constructor should be: a number stays one, a text stays one; None if it does."""
    numbers, scalars = (int, float), (bool, int, float, str)
    if not isinstance(value, scalars) or not isinstance(default, scalars):
        return None
    alike = type(value) is type(default) or (type(value) in numbers and type(default) in numbers)
    return None if alike else noun(default)


def wrong_type(value: Any, default: Any) -> str | None:
    """What a value should be where no rule is stated: of the type of the default; None if it is."""
    if isinstance(value, float) and math.isnan(value):
        return f"{noun(default) if isinstance(default, int | float) else 'a number'}, not NaN"
    if value is None or default is None or type(value) is type(default):
        return None
    return None if isinstance(default, float) and type(value) is int else noun(default)
