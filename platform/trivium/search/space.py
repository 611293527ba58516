"""Search spaces: which values each key may have, parsed from text such as `loguniform(1e-5, 1e-2)`.

A sampled value is the text of an override, so a trial is exactly the run that `trivium train key=value` makes.
"""

from __future__ import annotations

import ast
import difflib
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

FORMS = {
    "choice": "choice(a, b, ...)",
    "uniform": "uniform(low, high)",
    "loguniform": "loguniform(low, high)",
    "integers": "integers(low, high)",
    "logintegers": "logintegers(low, high)",
}
CONDITION = "EXPRESSION if KEY == VALUE, or EXPRESSION if KEY in (VALUE, ...)"


@dataclass(frozen=True)
class Condition:
    """When a key is searched: only while another one, a choice, has one of some values.

    Attributes:
        key: the other key.
        values: of the other key, as they are typed in an override.
    """

    key: str
    values: tuple[str, ...]

    def met(self, values: Mapping[str, str]) -> bool:
        """Whether the settings so far are such; not where the other key is not searched itself."""
        return values.get(self.key) in self.values


@dataclass(frozen=True)
class Choice:
    """One of several values, all equally likely.

    Attributes:
        values: as they are typed in an override.
        when: see `Condition`; None: always searched.
    """

    values: tuple[str, ...]
    when: Condition | None = None

    def edges(self) -> tuple[str, ...]:
        """The values whose validity decides that of all."""
        return self.values

    def holds(self, text: str) -> bool:
        """Whether a value is one of them."""
        return text in self.values

    def sample(self, generator: random.Random) -> str:
        return generator.choice(self.values)

    def grid(self, points: int) -> tuple[str, ...]:
        return self.values


@dataclass(frozen=True)
class Interval:
    """Numbers in [low, high].

    Attributes:
        log: the logarithm is distributed uniformly, not the number; low > 0.
        whole: whole numbers only; both ends are included.
        when: see `Condition`; None: always searched.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    when: Condition | None = None

    def edges(self) -> tuple[str, ...]:
        """See `Choice.edges`."""
        return self.text(self.low), self.text(self.high)

    def holds(self, text: str) -> bool:
        """See `Choice.holds`."""
        try:
            value = float(text)
        except ValueError:
            return False
        return self.low <= value <= self.high and (value.is_integer() or not self.whole)

    def sample(self, generator: random.Random) -> str:
        return self.at(generator.random())

    def grid(self, points: int) -> tuple[str, ...]:
        """Values at equal distances (of the logarithm, if `log`), the ends included; duplicates once."""
        return tuple(dict.fromkeys(self.at(i / (points - 1)) for i in range(points)))

    def at(self, fraction: float) -> str:
        """The value at a fraction in [0, 1] of the interval. Whole numbers have equal shares of it."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            value = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
        else:
            value = low + fraction * (high - low)
        return self.text(min(max(value, self.low), self.high))

    def text(self, value: float) -> str:
        """A number as an override."""
        return str(round(value)) if self.whole else repr(float(value))


Dimension = Choice | Interval
Space = Mapping[str, Dimension]
Values = dict[str, str]


def is_expression(text: str) -> bool:
    """Whether a value of an override looks like a part of a space: a name with parentheses, perhaps with a condition,
    and no list."""
    return re.fullmatch(r"\s*\w+\s*\(.*\)\s*(if\s.*)?", text, re.DOTALL) is not None


def parse_all(expressions: Mapping[str, str], errors: list[str]) -> dict[str, Dimension]:
    """The space of all keys, each after those that decide whether it is searched.

    Args:
        expressions: by key, see `parse`.
        errors: to which what is wrong is added, a line each.
    """
    space: dict[str, Dimension] = {}
    for key, text in expressions.items():
        try:
            space[key] = parse(key, text)
        except ValueError as error:
            errors.append(str(error))
    for key, dimension in space.items():
        if dimension.when is not None:
            errors += _wrong_condition(f"{key}={expressions[key]}: ", dimension.when, space)
    ordered: dict[str, Dimension] = {}
    while len(ordered) < len(space):
        found = {k: d for k, d in space.items() if k not in ordered and (d.when is None or d.when.key in ordered)}
        if not found:
            left = [key for key in space if key not in ordered]
            if not errors:
                errors.append(f"{', '.join(left)}: each is searched only if another of them is")
            break
        ordered |= found
    return ordered


def _wrong_condition(wrong: str, when: Condition, space: Space) -> Iterator[str]:
    other = space.get(when.key)
    if not isinstance(other, Choice):
        yield f"{wrong}{when.key} is not among the searched choices, so it decides nothing"
    elif unknown := [value for value in when.values if value not in other.values]:
        yield f"{wrong}{when.key} is never {unknown[0]}; it is one of {', '.join(other.values)}"


def parse(key: str, text: str) -> Dimension:
    """The dimension that an expression describes, such as `uniform(0, 1)` or `choice(a, b) if model == mlp`.

    Raises:
        ValueError: one line that names the key, the expression and what is valid.
    """
    condition = re.fullmatch(r"(.*\))\s*if\s(.*)", text, re.DOTALL)
    if condition is None:
        return _unconditional(key, text, text)
    wrong = f"{key}={text}: "
    asked = re.fullmatch(r"\s*([\w.]+)\s*(?:==\s*(\S.*?)|in\s*\((.+)\))\s*", condition[2], re.DOTALL)
    if asked is None:
        raise ValueError(f"{wrong}the condition must be of the form {CONDITION}")
    values = (asked[2],) if asked[2] else tuple(_arguments(f"f({asked[3]})", wrong)[1])
    return replace(_unconditional(key, condition[1], text), when=Condition(asked[1], values))


def _arguments(text: str, wrong: str) -> tuple[str, list[str]]:
    """The name of a call and the texts of its arguments."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        raise ValueError(f"{wrong}is not an expression of a search space; valid: {', '.join(FORMS.values())}")
    return call.func.id, [str(ast.get_source_segment(text.strip(), node)) for node in call.args]


def _unconditional(key: str, expression: str, text: str) -> Dimension:
    wrong = f"{key}={text}: "
    name, parts = _arguments(expression, wrong)
    if name not in FORMS:
        near = difflib.get_close_matches(name, FORMS, 1)
        hint = f"; did you mean {FORMS[near[0]]}?" if near else f"; valid: {', '.join(FORMS.values())}"
        raise ValueError(f"{wrong}there is no {name}(){hint}")
    if name == "choice":
        if not parts:
            raise ValueError(f"{wrong}there is nothing to choose from; valid: {FORMS[name]}")
        if len(set(parts)) < len(parts):
            raise ValueError(f"{wrong}the same value is given twice")
        return Choice(tuple(parts))
    if len(parts) != 2:
        raise ValueError(f"{wrong}needs two numbers; valid: {FORMS[name]}")
    low, high = (_number(part, wrong) for part in parts)
    whole, log = "integers" in name, name.startswith("log")
    if whole and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"{wrong}needs whole numbers; valid: {FORMS[name]}")
    if not low < high:
        raise ValueError(f"{wrong}{parts[0]} must be below {parts[1]}")
    if log and low <= 0:
        raise ValueError(f"{wrong}a logarithmic range must begin above 0")
    return Interval(low, high, log, whole)


def _number(text: str, wrong: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{wrong}{text} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{wrong}{text} is not finite")
    return value


def searched(space: Space, key: str, values: Mapping[str, str]) -> bool:
    """Whether a key has a value beside those of the keys before it."""
    when = space[key].when
    return when is None or when.met(values)


def _of_searched(space: Space, values: Mapping[str, str]) -> Values:
    """Those of values that are searched beside the others."""
    kept: Values = {}
    for key in space:
        if searched(space, key, kept):
            kept[key] = values[key]
    return kept


def samples(space: Space, number: int, seed: int) -> list[Values]:
    """`number` independent draws. Equal seeds give equal draws; a larger `number` continues a smaller one's."""
    generator = random.Random(seed)
    drawn = [{key: dimension.sample(generator) for key, dimension in space.items()} for _ in range(number)]
    return [_of_searched(space, values) for values in drawn]


def grid(space: Space, points: int) -> list[Values]:
    """All combinations, the last key varying fastest; of each interval `points` values at equal distances."""
    values = [dimension.grid(points) for dimension in space.values()]
    every = (_of_searched(space, dict(zip(space, combination, strict=True))) for combination in product(*values))
    return list({tuple(kept.items()): kept for kept in every}.values())


def probes(space: Space) -> Iterator[Values]:
    """The settings whose validity is checked before a search starts: each edge of each dimension, the others at their
    first, or at what a condition asks for."""
    first = {key: dimension.edges()[0] for key, dimension in space.items()}
    for index, (key, dimension) in enumerate(space.items()):
        needed: Values = {}
        asked = dimension.when
        while asked is not None:
            needed[asked.key] = asked.values[0]
            asked = space[asked.key].when
        edges = dimension.edges()
        for value in edges if index == 0 or dimension.when is not None else edges[1:]:
            yield _of_searched(space, {**first, **needed, key: value})


def holds(space: Space, values: Mapping[str, str]) -> bool:
    """Whether values are settings of this space: all of its keys that are searched, and none outside its range."""
    kept = {key: values[key] for key in space if key in values}
    return (
        set(values) == set(kept)
        and all((key in kept) == searched(space, key, kept) for key in space)
        and all(space[key].holds(value) for key, value in kept.items())
    )


def as_numbers(space: Space, values: Values) -> dict[str, Any]:
    """Values as what a sampler models: numbers for intervals, text for choices."""
    numbers: dict[str, Any] = {}
    for key, value in values.items():
        dimension = space[key]
        whole = isinstance(dimension, Interval) and dimension.whole
        numbers[key] = value if isinstance(dimension, Choice) else int(value) if whole else float(value)
    return numbers


def as_texts(space: Space, numbers: Mapping[str, Any]) -> Values:
    """What `as_numbers` returned, as overrides again."""
    return {
        key: value if isinstance(dimension := space[key], Choice) else dimension.text(value)
        for key, value in numbers.items()
    }
