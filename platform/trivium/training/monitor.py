"""What evaluations say of a run: which one was the best, whether it still gets better, whether it is good enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from trivium.config.rules.metrics import direction
from trivium.training.budget import Budget, metric


class Monitor:
    """Follows one metric of the evaluations, and the budget's target.

    Args:
        config: the config's `monitor`: metric (null: none is followed), mode (null: as the learner states), patience,
            min_delta.
        budget: knows the target.
        evaluates: what the learner states of its metrics, see `trivium.learner.Learner`.
    """

    def __init__(self, config: Mapping[str, Any], budget: Budget, evaluates: Iterable[str] | None = None) -> None:
        self._config = config
        self._mode = config["mode"] or direction(evaluates, config["metric"])
        self._budget = budget
        self._best: float | None = None
        self._without_improvement = 0
        self._target_met = False
        self.best_step: int | None = None  # the step of the best evaluation so far

    def judge(self, values: Mapping[str, float], step: int) -> bool:
        """Take in an evaluation; whether none so far was better.

        Args:
            values: by name, with `eval/` before it. NaN and infinity are never the best.
            step: where it was made.

        Raises:
            ConfigError: the metric or the target's is not among the values.
        """
        self._target_met = self._budget.met(values)
        if self._config["metric"] is None:
            return False
        value = metric("monitor.metric", self._config["metric"], values)
        assert self._mode is not None, "a run of which nobody says what is better does not begin"
        sign = 1.0 if self._mode == "max" else -1.0
        improved = self._best is None or sign * (value - self._best) > self._config["min_delta"]
        if not math.isfinite(value) or not (improved or value == self._best):
            self._without_improvement += 1
            return False
        # Of equals the later is the best, for it has learned for longer; patience is not impressed.
        self._best, self.best_step = value, step
        self._without_improvement = 0 if improved else self._without_improvement + 1
        return True

    def satisfied(self) -> str | None:
        """Why the last evaluation ends the run, if it does, in words."""
        if self._target_met:
            return f"target {self._budget.target} reached"
        if self._out_of_patience():
            patience = self._config["patience"]
            return f"no improvement of {self._config['metric']} in {patience} evaluation{'s' * (patience != 1)}"
        return None

    def _out_of_patience(self) -> bool:
        patience = self._config["patience"]
        return patience is not None and self._without_improvement >= patience

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self._best,
            "best_step": self.best_step,
            "without_improvement": self._without_improvement,
            "target_met": self._target_met,
            "judged_by": self._judged_by(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`. A resumed run may be judged by another measure: what the former one found then no
        longer counts. One that its patience ended has all of it again with another budget."""
        now, before = self._judged_by(), state["judged_by"]
        if now["monitor"] == before["monitor"]:
            self._best, self.best_step = state["best"], state["best_step"]
            self._without_improvement = state["without_improvement"]
        if self._out_of_patience() and now["budget"] != before.get("budget"):
            self._without_improvement = 0
        self._target_met = state["target_met"] and now["target"] == before["target"]

    def _judged_by(self) -> dict[str, Any]:
        monitor = [self._config["metric"], self._mode]
        return {"monitor": monitor, "target": self._budget.target, "budget": dict(self._budget.limits)}
