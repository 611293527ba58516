"""What a learner states of its metrics: their names, and which values are better."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from trivium.config.problems import Kind, Problem


def no_metric(key: str, name: str, known: Iterable[str]) -> Problem:
    """The problem that a learner does not evaluate a metric that a config key names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return Problem(Kind.METRIC, key, name, tuple(known), tuple(near))


def direction(evaluates: Iterable[str] | None, name: str | None) -> str | None:
    """Which values of a metric are better, `min` or `max`; None if its learner does not state it.

    Args:
        evaluates: see `trivium.learner.Learner`.
        name: with `eval/` before it.
    """
    stated = evaluates.get(str(name).removeprefix("eval/")) if isinstance(evaluates, Mapping) else None
    return stated if stated in ("min", "max") else None
