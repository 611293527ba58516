"""When a run ends, and when something is due in it: asked after every update, so quick to answer."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Mapping
from typing import Any

from trivium.config.errors import ConfigError
from trivium.config.rules.metrics import no_metric
from trivium.config.rules.settings import TARGET


class Budget:
    """What ends a run: the first limit that is reached, or a metric that meets its target.

    Args:
        limits: the config's `budget`: numbers by unit, null for none, and `target`.
        counted: the units that the learner counts.

    Raises:
        ConfigError: a limit is in a unit that is not counted.
    """

    def __init__(self, limits: Mapping[str, Any], counted: Mapping[str, float]) -> None:
        self.target = limits["target"]
        self.limits = {unit: limit for unit, limit in limits.items() if unit != "target" and limit is not None}
        self._counted = [(unit, limit) for unit, limit in self.limits.items() if unit not in ("updates", "minutes")]
        self._updates = self.limits.get("updates", math.inf)
        self.minutes: float = self.limits.get("minutes", math.inf)
        unknown = sorted({unit for unit, _ in self._counted} - set(counted))
        if unknown:
            raise ConfigError([f"budget.{u}: this learner counts {', '.join(counted)} and updates" for u in unknown])

    def spent(self, counters: Mapping[str, float], updates: int, *, time_over: bool) -> str | None:
        """Which limit is reached, in words."""
        if updates >= self._updates:
            return _amount(self._updates, "updates")
        for unit, limit in self._counted:
            if counters[unit] >= limit:
                return _amount(limit, unit)
        return _amount(self.minutes, "minutes") if time_over else None

    def fraction(self, counters: Mapping[str, float], updates: int, elapsed_s: float) -> float:
        """How much is spent of the limit that is nearest, in [0, 1]."""
        done = {**counters, "updates": updates, "minutes": elapsed_s / 60}
        return min(1.0, max((done[unit] / limit for unit, limit in self.limits.items()), default=0.0))

    def met(self, values: Mapping[str, float]) -> bool:
        """Whether an evaluation meets the target."""
        parsed = TARGET.match(self.target or "")
        if not parsed:
            return False
        name, comparison, value = parsed.groups()
        compare = operator.ge if comparison == ">=" else operator.le
        return bool(compare(metric("budget.target", name, values), float(value)))


def _amount(limit: float, unit: str) -> str:
    """1 epoch, 1.5 epochs, 65536 env steps."""
    noun = unit.replace("_", " ")
    number = f"{limit:g}" if unit in ("epochs", "minutes") else str(limit)
    return f"{number} {noun.removesuffix('s') if limit == 1 else noun}"


class Cadence:
    """Something that is due every so many updates or seconds.

    Args:
        every_updates, every_s: null for never.
    """

    def __init__(self, *, every_updates: int | None, every_s: float | None) -> None:
        self._every_updates = every_updates
        self._every_s = math.inf if every_s is None else every_s
        self.restart()

    def restart(self) -> None:
        """It has just been done."""
        self._next_s = time.monotonic() + self._every_s

    def by_updates(self, updates: int) -> bool:
        return self._every_updates is not None and updates % self._every_updates == 0

    def by_clock(self, now: float) -> bool:
        return now >= self._next_s


def metric(key: str, name: str, values: Mapping[str, float]) -> float:
    """The value of a metric that a config key names.

    Raises:
        ConfigError: the learner does not report it.
    """
    if name not in values:
        raise ConfigError([no_metric(key, name, values)])
    return values[name]
