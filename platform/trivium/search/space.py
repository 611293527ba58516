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
from dataclasses import dataclass
from itertools import product
from typing import Any

FORMS = {
    "choice": "choice(a, b, ...)",
    "uniform": "uniform(low, high)",
    "loguniform": "loguniform(low, high)",
    "integers": "integers(low, high)",
    "logintegers": "logintegers(low, high)",
}


@dataclass(frozen=True)
class Choice:
    """One of several values, all equally likely.

    Attributes:
        values: as they are typed in an override.
    """

    values: tuple[str, ...]

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
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

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
    """Whether a value of an override looks like a part of a space: a name with parentheses, and no list."""
    return re.fullmatch(r"\s*\w+\s*\(.*\)\s*", text, re.DOTALL) is not None


def parse(key: str, text: str) -> Dimension:
    """The dimension that an expression describes.

    Raises:
        ValueError: one line that names the key, the expression and what is valid.
    """
    wrong = f"{key}={text}: "
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"{wrong}is not an expression of a search space; valid: {', '.join(FORMS.values())}"
        ) from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        raise ValueError(f"{wrong}is not an expression of a search space; valid: {', '.join(FORMS.values())}")
    name = call.func.id
    if name not in FORMS:
        near = difflib.get_close_matches(name, FORMS, 1)
        hint = f"; did you mean {FORMS[near[0]]}?" if near else f"; valid: {', '.join(FORMS.values())}"
        raise ValueError(f"{wrong}there is no {name}(){hint}")
    parts = [str(ast.get_source_segment(text.strip(), node)) for node in call.args]
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


def samples(space: Space, number: int, seed: int) -> list[Values]:
    """`number` independent draws. Equal seeds give equal draws; a larger `number` continues a smaller one's."""
    generator = random.Random(seed)
    return [{key: dimension.sample(generator) for key, dimension in space.items()} for _ in range(number)]


def grid(space: Space, points: int) -> list[Values]:
    """All combinations, the last key varying fastest; of each interval `points` values at equal distances."""
    values = [dimension.grid(points) for dimension in space.values()]
    return [dict(zip(space, combination, strict=True)) for combination in product(*values)]


def probes(space: Space) -> Iterator[Values]:
    """The settings whose validity is checked before a search starts: each edge of each dimension, the others at their
    first."""
    first = {key: dimension.edges()[0] for key, dimension in space.items()}
    yield first
    for key, dimension in space.items():
        for value in dimension.edges()[1:]:
            yield {**first, key: value}


def holds(space: Space, values: Mapping[str, str]) -> bool:
    """Whether values are settings of this space: all of its keys, and none outside its range."""
    return set(values) == set(space) and all(dimension.holds(values[key]) for key, dimension in space.items())


def as_numbers(space: Space, values: Values) -> dict[str, Any]:
    """Values as what a sampler models: numbers for intervals, text for choices."""
    return {
        key: values[key]
        if isinstance(dimension, Choice)
        else int(values[key])
        if dimension.whole
        else float(values[key])
        for key, dimension in space.items()
    }
