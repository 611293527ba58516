"""The rules of a signature for Python callers: the same as for the command line, in the same words."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from trivium.config.rules.rule import Rule, rule_of_type

P = ParamSpec("P")
R = TypeVar("R")


def checks_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function, or a class's `__init__`: its keywords are checked by their annotations at each call.

    Keywords are converted to the annotated type: 1 is 1.0 where a float is expected.

    Raises (when the function is called):
        ValueError: keywords that their annotations do not allow, a line for each.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **keywords: P.kwargs) -> R:
        stated = rules()
        lines = [str(stated[n].problem(n, v)) for n, v in keywords.items() if n in stated and not stated[n].accepts(v)]
        if lines:
            raise ValueError("\n".join(lines))
        return function(*args, **{n: stated[n].converted(v) if n in stated else v for n, v in keywords.items()})  # type: ignore[arg-type]

    @functools.cache
    def rules() -> Mapping[str, Rule]:  # read when they are first needed: importing a module costs nothing
        return rules_of(function)

    return checked


def rules_of(function: Callable[..., Any]) -> dict[str, Rule]:
    """The rules that the annotations of a function's parameters state, by keyword."""
    found, written_in = {}, inspect.unwrap(function).__globals__
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = parameter.annotation
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, written_in)  # the module's own text
            except Exception:  # it uses names that only type checkers import
                continue
        rule = rule_of_type(annotation)
        if rule is not None:
            found[name] = dataclasses.replace(rule, optional=rule.optional or parameter.default is None)
    return found
