"""A rule: which values are valid, what they are called, and what a value is converted to."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

from trivium.config.problems import Kind, Problem, show
from trivium.config.rules.kinds import Form, Range

ANY = Range()
_PLURALS = {"an integer": "integers", "a number": "numbers", "a text": "texts"}


class Values(Protocol):
    """What a value may be; a rule has one or more."""

    def accepts(self, value: Any) -> bool: ...
    def converted(self, value: Any) -> Any:
        """A value that is accepted, in the type that the signature asks for."""

    def words(self) -> str:
        """What it is called, with an article."""


@dataclass(frozen=True)
class Number:
    """A number in an interval; a whole one is accepted where it is written as 1e6."""

    whole: bool = False
    range: Range = ANY

    def accepts(self, value: Any) -> bool:
        value = math.inf if value == ".inf" else value  # on Hydra's command line that is a text
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        if self.whole and not isinstance(value, Integral) and not float(value).is_integer():
            return False
        return self.range.holds(value)  # type: ignore[arg-type]  # a Real can be compared

    def converted(self, value: Any) -> Any:
        return int(value) if self.whole else float(str(value).lstrip(".")) if value == ".inf" else float(value)

    def words(self) -> str:
        return f"{'an integer' if self.whole else 'a number'} {self.range.words()}".strip()


@dataclass(frozen=True)
class Truth:
    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)

    def converted(self, value: Any) -> Any:
        return value

    def words(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Text:
    form: Form | None = None

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and (self.form is None or self.form.holds(value))

    def converted(self, value: Any) -> Any:
        return value

    def words(self) -> str:
        return self.form.words if self.form else "a text"


@dataclass(frozen=True)
class Items:
    """A list or tuple, each of whose items a rule allows; `rule` is None where the annotation states none."""

    rule: Rule | None = None

    def accepts(self, value: Any) -> bool:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            return False
        return self.rule is None or all(self.rule.accepts(item) for item in value)

    def converted(self, value: Any) -> Any:
        if self.rule is None or not isinstance(value, list | tuple):
            return value
        return type(value)(map(self.rule.converted, value))

    def words(self) -> str:
        if self.rule is None:
            return "a list"
        each = self.rule.words()
        for one, several in _PLURALS.items():
            if each.startswith(one):
                return f"a list of {several}{each[len(one) :]}" + (", such as [64,64]" if self.rule.accepts(64) else "")
        return f"a list, each item {each}"


@dataclass(frozen=True)
class Group:
    """A mapping, in YAML a group of keys; each value is one that a rule allows, if there is one."""

    rule: Rule | None = None

    def accepts(self, value: Any) -> bool:
        return isinstance(value, Mapping) and (self.rule is None or all(map(self.rule.accepts, value.values())))

    def converted(self, value: Any) -> Any:
        if self.rule is None or not isinstance(value, dict):
            return value
        return {key: self.rule.converted(item) for key, item in value.items()}

    def words(self) -> str:
        return "a group of keys" + (f", each value {self.rule.words()}" if self.rule else "")


SCALARS: dict[type, Values] = {float: Number(), int: Number(whole=True), bool: Truth(), str: Text()}


@dataclass(frozen=True)
class Rule:
    """What values a keyword may have.

    Attributes:
        choices: the values that are named, of `Literal`.
        kinds: what else is valid.
        optional: whether None is.
    """

    choices: tuple[Any, ...] = ()
    kinds: tuple[Values, ...] = ()
    optional: bool = False

    def accepts(self, value: Any) -> bool:
        return (value is None and self.optional) or self._chosen(value) or any(k.accepts(value) for k in self.kinds)

    def converted(self, value: Any) -> Any:
        """A value that is accepted, in the type that the signature asks for: 1 is 1.0 where a float is expected."""
        if value is None or self._chosen(value):
            return value
        return next((kind.converted(value) for kind in self.kinds if kind.accepts(value)), value)

    def words(self) -> str:
        """What a valid value is: `one of lstm, gru, null`, `a number > 0 or null`."""
        truth, null = Truth() in self.kinds, ["null"] if self.optional else []
        others = [kind.words() for kind in self.kinds if not (self.choices and kind == Truth())]
        if not self.choices:
            return " or ".join([*others, *null])
        named = [show(choice) for choice in ((True, False) if truth else ()) + self.choices]
        return "one of " + ", ".join([*named, *others, *null])

    def nearest(self, value: Any) -> str | None:
        """The named value that was probably meant."""
        names = {show(choice).lower(): show(choice) for choice in self.choices}
        near = difflib.get_close_matches(show(value).lower(), names, n=1)
        return names[near[0]] if near else None

    def problem(self, key: str, value: Any, *, file: str = "") -> Problem:
        """What is wrong with a value that is not accepted."""
        near = self.nearest(value)
        return Problem(Kind.VALUE, key, value, self.words(), (near,) if near else (), file)

    def _chosen(self, value: Any) -> bool:
        return any(value == choice and type(value) is type(choice) for choice in self.choices)


def rule_of_type(annotation: Any) -> Rule | None:
    """The rule that a type states; None if it states none, such as a class, a callable or `Any`."""
    if annotation in (None, type(None)):
        return Rule(optional=True)
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and annotation in SCALARS:
        return Rule(kinds=(SCALARS[annotation],))
    if origin is typing.Annotated:
        return _narrowed(annotation.__origin__, annotation.__metadata__)
    if origin is typing.Literal:
        return Rule(tuple(value for value in of if value is not None), optional=None in of)
    if origin in (typing.Union, types.UnionType):
        return _either(map(rule_of_type, of))
    if origin in (Sequence, list) or (origin is tuple and of[1:] == (...,)):
        return Rule(kinds=(Items(rule_of_type(of[0])),))
    if origin in (Mapping, dict):
        return Rule(kinds=(Group(rule_of_type(of[1])),))
    return None


def _narrowed(annotation: Any, by: Iterable[Any]) -> Rule | None:
    """The rule of `Annotated`: a number with a `Range`, a text with a `Form`, else that of the type."""
    rule = rule_of_type(annotation)
    for one in by:
        if isinstance(one, Range) and annotation in (int, float):
            rule = Rule(kinds=(Number(annotation is int, one),))
        elif isinstance(one, Form) and annotation is str:
            rule = Rule(kinds=(Text(one),))
    return rule


def _either(rules: Iterable[Rule | None]) -> Rule | None:
    """The rule of a union; none if a part states none, because that part may allow anything."""
    every = list(rules)
    if None in every:
        return None
    known = [rule for rule in every if rule is not None]
    return Rule(
        tuple(choice for rule in known for choice in rule.choices),
        tuple(kind for rule in known for kind in rule.kinds),
        any(rule.optional for rule in known),
    )
