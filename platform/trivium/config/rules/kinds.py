"""Kinds of values, to annotate keywords with: `gamma: Fraction = 0.99`.

A kind is a builtin type and what narrows it, a `Range` or a `Form`. The config check reads annotations from the source,
see `trivium.config.rules.annotations`; `checks_keywords` checks the same for Python callers. Where no kind fits,
`Annotated[float, Range(ge=-20, le=2)]` and `Literal["lstm", "gru"]` are written in the signature.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number in an interval; never NaN, and infinite only where a closed bound is.

    Args:
        ge, gt: it is at least, or greater than, this.
        le, lt: it is at most, or less than, this.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def holds(self, value: float) -> bool:
        if math.isnan(value) or (math.isinf(value) and value not in (self.ge, self.le)):
            return False
        above = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        return above and (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)

    def words(self) -> str:
        """`> 0 and <= 1`; empty where every finite number is valid."""
        signs = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        bounds = [f"{sign} {bound:,}" for sign, bound in signs if bound is not None and math.isfinite(bound)]
        infinite = ["(.inf too)"] if math.inf in (self.ge, self.le) else []
        return " ".join(filter(None, [" and ".join(bounds), *infinite]))


@dataclass(frozen=True)
class Form:
    """A text that a pattern matches as a whole.

    Args:
        pattern: a regular expression.
        words: what it matches, as in "must be a name of letters and digits".
    """

    pattern: str
    words: str

    def holds(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None


Positive = Annotated[float, Range(gt=0)]
NotNegative = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]
PositiveFraction = Annotated[float, Range(gt=0, le=1)]
FractionBelowOne = Annotated[float, Range(ge=0, lt=1)]
BetweenZeroAndOne = Annotated[float, Range(gt=0, lt=1)]
PositiveOrInfinite = Annotated[float, Range(gt=0, le=math.inf)]
LearningRate = Annotated[float, Range(gt=0, le=1_000_000)]  # far beyond any use, and float32 holds it

Count = Annotated[int, Range(ge=1)]
CountOrZero = Annotated[int, Range(ge=0)]
Seed = Annotated[int, Range(ge=0, le=2**32 - 1)]  # NumPy's
Widths = Sequence[Count]
