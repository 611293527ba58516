"""Each value by the rule of its key, and what is built by its constructor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from trivium.config import constructors, hints
from trivium.config.checks import env_ids
from trivium.config.library import BUILT, LEARNERS
from trivium.config.problems import Found, Kind, Problem
from trivium.config.rules.defaults import noun, wrong_scalar, wrong_type
from trivium.config.rules.rule import Rule
from trivium.config.tree import get

UNITS = ("samples", "epochs", "env_steps", "updates", "minutes")  # of a budget


def check_values(config: dict[str, Any], reference: dict[str, Any], where: Callable[[str], str], found: Found) -> None:
    """The type and the range of every value. A problem of the budget is not repeated for keys tied to it.

    Args:
        reference: the same keys with Trivium's own values, from which types are known.
        where: from a key to the file that sets it, "" for what was typed.
    """
    rules = constructors.rules_of(config)
    for problem in _wrong(config, reference, "", rules, own=True):
        group = get(reference, problem.key)
        if isinstance(group, dict) and group:
            near = hints.for_group(problem.key, problem.value, group, not_counted(config))
            problem = replace(problem, nearest=(near,) if near else ())
        found.add(replace(problem, file=where(problem.key)))
    if not found.none_in("budget"):
        found.forget(key for keys in config.get("tied_to_budget", {}).values() for key in keys)


def _wrong(value: Any, default: Any, path: str, rules: Mapping[str, Rule], *, own: bool) -> Iterator[Problem]:
    """Each wrong value. `own`: Trivium defines what the key means, not a user's constructor."""
    if (rule := rules.get(path)) is not None:
        if not rule.accepts(value):
            yield rule.problem(path, value)
        return
    if isinstance(default, dict) and default and not (value is None and path in BUILT):
        if not isinstance(value, dict):
            keys = ", ".join(key for key in default if not key.startswith("_"))
            yield Problem(Kind.VALUE, path, value, f"a group with the keys {keys}")
            return
    elif (
        isinstance(value, dict)
        and not isinstance(default, dict)
        and default is not None  # else a constructor may take a group
    ):
        yield Problem(Kind.VALUE, path, value, noun(default))
        return
    if isinstance(value, dict):
        own = str(value.get("_target_", "trivium.")).startswith(("trivium.", "torch.")) if "_target_" in value else own
        own = own and default != {}
        for key, item in value.items():
            below = default.get(key) if isinstance(default, dict) else None
            yield from _wrong(item, below, f"{path}.{key}" if path else str(key), rules, own=own)
        return
    expected = wrong_type(value, default) if own else wrong_scalar(value, default)
    if expected:
        yield Problem(Kind.VALUE, path, value, expected)


def not_counted(config: dict[str, Any]) -> tuple[str, ...]:
    """The units of the budget that are not the learner's: Trivium's own agents count env steps, its other learners
    samples and epochs; a user's may count anything."""
    chosen = [g for g in LEARNERS if config.get(g)]
    if len(chosen) != 1 or not str(get(config, f"{chosen[0]}._target_")).startswith("trivium."):
        return ()
    return ("samples", "epochs") if chosen[0] == "agent" else ("env_steps",)


def check_constructors(
    config: dict[str, Any], where: Callable[[str], str], found: Found, trusted: Collection[str]
) -> None:
    """The names to be built and their keywords, see `trivium.config.constructors`."""
    for problem in constructors.problems(config, trusted=trusted):
        found.add(replace(problem, file=where(problem.key)))


def check_env(config: dict[str, Any], found: Found, trusted: Collection[str]) -> None:
    """Whether Gymnasium knows the id given to Trivium's own env group; for `trusted` see `trivium.training.builder`."""
    env = config.get("env")
    if isinstance(env, dict) and str(env.get("_target_")).startswith("trivium.") and isinstance(env.get("id"), str):
        if env.get("vector") == "envpool":  # which has ids of its own
            return
        if problem := env_ids.problem(env["id"], trusted):
            found.add(problem)
