"""How far a run is: updates, steps, seconds, and the share of its budget."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from trivium.learner import Learner
from trivium.training.budget import Budget


@dataclass
class Position:
    """Of one worker's run; read by what decides and by what records.

    Args:
        learner: counts samples or env steps.
        budget: what the run may spend.
        updates: how many were made, over all resumes.
        elapsed_before_s: seconds of training before this process, or before `restart`.
    """

    learner: Learner
    budget: Budget
    updates: int = 0
    elapsed_before_s: float = 0.0
    _started: float = field(default_factory=lambda: time.monotonic())

    def restart(self, elapsed_s: float | None = None) -> None:
        """The training goes on now, after `elapsed_s` seconds of it; None: after those that were known."""
        self.elapsed_before_s = self.elapsed_before_s if elapsed_s is None else elapsed_s
        self._started = time.monotonic()

    @property
    def axis(self) -> str:
        """What the steps are: `samples` or `env_steps`."""
        return next(iter(self.learner.counters()))

    @property
    def step(self) -> int:
        """The step axis: samples or env steps, over all workers."""
        return int(next(iter(self.learner.counters().values())))

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all resumes."""
        return self.elapsed_before_s + time.monotonic() - self._started

    @property
    def fraction(self) -> float:
        """How much of the budget is spent, in [0, 1]."""
        return self.budget.fraction(self.learner.counters(), self.updates, self.elapsed_s)

    @property
    def time_over_at(self) -> float:
        """When `budget.minutes` is spent, on the clock of `time.monotonic`."""
        return self._started + 60 * self.budget.minutes - self.elapsed_before_s

    def spent(self, *, time_over: bool) -> str | None:
        """Which limit of the budget is reached, in words."""
        return self.budget.spent(self.learner.counters(), self.updates, time_over=time_over)
