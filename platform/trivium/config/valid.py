"""What is said of values for which no signature states a rule, and of what concerns several keys."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from trivium.config.rules.rule import Rule
from trivium.config.rules.settings import TARGET, rules_of_settings

__all__ = ["TARGET", "converted", "direction", "no_metric", "not_shared", "noun", "problem", "wrong_scalar"]


def converted(node: Any, rules: Mapping[str, Rule], path: str = "") -> Any:
    """A copy of a nested dict with each valid value in the type that its key's rule asks for: whole numbers such as 1e6
    are integers where only those are valid, 1 is 1.0 where a constructor expects a float, and `.inf`, a text on Hydra's
    command line, is a number where infinity is valid."""
    if path in rules:
        if not rules[path].accepts(node) or (type(node) is int and path in rules_of_settings()):
            return node  # `budget.epochs=3` is shown as it is typed
        return rules[path].converted(node)
    if isinstance(node, dict):
        return {k: converted(v, rules, f"{path}.{k}" if path else str(k)) for k, v in node.items()}
    return node


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


def problem(value: Any, default: Any) -> str | None:
    """What a value should be where no rule is stated: of the type of the default; None if it is."""
    if isinstance(value, float) and math.isnan(value):
        return f"{noun(default) if isinstance(default, int | float) else 'a number'}, not NaN"
    if value is None or default is None or type(value) is type(default):
        return None
    return None if isinstance(default, float) and type(value) is int else noun(default)


# ------------------------------------------------------------------------------------- what concerns several keys


def no_metric(key: str, name: str, known: Iterable[str]) -> str:
    """The error that a learner does not evaluate a metric that a config key names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{key}: this learner reports no {name}; {hint}valid: {', '.join(known)}"


def direction(evaluates: Iterable[str] | None, name: str | None) -> str | None:
    """Which values of a metric are better, `min` or `max`; None if its learner does not say.

    Args:
        evaluates: see `trivium.learner.Learner`.
        name: with `eval/` before it.
    """
    stated = evaluates.get(str(name).removeprefix("eval/")) if isinstance(evaluates, Mapping) else None
    return stated if stated in ("min", "max") else None


def not_shared(key: str, size: int, workers: int) -> str | None:
    """The error that a size of the whole run can't be divided among its workers, or None."""
    return f"{key}={size} must be a positive multiple of the {workers} workers" if size < 1 or size % workers else None
