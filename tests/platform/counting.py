"""A learner whose every value can be computed by hand, for tests of what surrounds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trivium.config.errors import Config
from trivium.learner import Picture, Run


def config(**changes: dict[str, Any]) -> Config:
    plain: Config = {
        "name": "counting",
        "threads": "auto",
        "budget": dict.fromkeys(["epochs", "samples", "env_steps", "updates", "minutes", "target"]),
        "log": {"every_updates": 4, "every_s": None},
        "evaluation": {"every_updates": None, "every_s": None},
        "checkpoint": {"every_updates": None, "every_s": None, "keep": 2},
        "monitor": {"metric": None, "mode": "max", "patience": None, "min_delta": 0.0},
    }
    return {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in plain.items()
    }


class Counting:
    """Step n adds 10 samples and reports loss = 1 / n; evaluates to score = n. Uses the global RNG, as dropout does.

    Args:
        nan_at: the step whose loss is NaN.
        scores: what the first evaluations say instead of n.
    """

    state: ClassVar = ("steps", "noise")
    derived: ClassVar = ("evaluations",)

    def __init__(self, *, run: Run, nan_at: int | None = None, scores: tuple[float, ...] = ()) -> None:
        self.run, self.nan_at, self.scores = run, nan_at, scores
        self.steps = 0
        self.evaluations = 0
        self.noise = torch.zeros(())
        self.on_step = self.on_evaluation = lambda: None

    def step(self) -> dict[str, Tensor]:
        self.steps += 1
        self.noise = torch.rand(())
        self.on_step()
        loss = torch.tensor(float("nan") if self.steps == self.nan_at else 1 / self.steps)
        episode = torch.tensor(float(self.steps) if self.steps % 2 == 0 else float("nan"))
        return {"loss": loss, "noise": self.noise, "episode_return": episode}

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        torch.rand(3), np.random.rand(3)
        self.evaluations += 1
        self.on_evaluation()
        scores = dict(enumerate(self.scores, start=1))
        return {"score": scores.get(self.evaluations, float(self.steps)), "loss": 1.0}

    def figures(self) -> dict[str, Picture]:
        return {"square": np.full((4, 4, 3), self.steps % 256, np.uint8)}

    def counters(self) -> dict[str, float]:
        return {"samples": 10 * self.steps, "epochs": self.steps / 4}

    def load_weights(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
