"""Learning rates, and other settings, as functions of how far the training is: the same for any batch size and any
number of workers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from trivium.saved import require_count

Shape = Literal["constant", "linear", "cosine", "one_cycle", "step", "plateau"]


def scheduled(
    position: float,
    *,
    peak: float,
    shape: Shape = "cosine",
    warmup: float = 0,
    decay: float | None = None,
    final_ratio: float = 0.0,
    num_steps: int = 3,
) -> float:
    """A linear rise to `peak` over `warmup`, then a fall to `final_ratio * peak`, reached at `decay`.

    Args:
        position: samples or env steps, those that this update learns from included: the first update of a warm-up
            moves, and the one that reaches `decay` has the final value.
        peak: the highest value.
        shape: of the fall: `cosine` is half a cosine (arXiv:1608.03983, without restarts), `linear` a straight line,
            `constant` no fall at all; `step` divides the value by 10 after each of `num_steps` equal parts but the
            last; `one_cycle` is `cosine` with a rise along half a cosine too, from peak / 10 (arXiv:1708.07120);
            `plateau` does not fall by itself, see `Plateau`.
        warmup: where the rise ends, >= 0.
        decay: where the fall ends, counted from the beginning, so that it may be the budget; None: no fall.
        final_ratio: of the peak, what is left at the end, in [0, 1].
        num_steps: the parts of `step`, >= 1.

    Returns:
        The value, in [0, peak].

    Raises:
        ValueError: `warmup` is negative or not below `decay`.

    Example:
        peak=1, warmup=10, decay=30, cosine -> 0.5 at 5, 1 at 10, 0.5 at 20, 0 at 30 and later.
    """
    if warmup < 0 or (decay is not None and warmup >= decay):
        raise ValueError(f"warmup={warmup} must be at least 0 and below decay={decay}")
    if position < warmup:
        share = position / warmup
        return peak * (0.1 + 0.9 * (1 - math.cos(math.pi * share)) / 2 if shape == "one_cycle" else share)
    if decay is None or shape in ("constant", "plateau"):
        return peak
    progress = min(1.0, (position - warmup) / (decay - warmup))
    if shape == "step":
        return peak * max(final_ratio, 10.0 ** -min(num_steps - 1, int(progress * num_steps)))
    left = 1 - progress if shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (final_ratio + (1 - final_ratio) * left)


class Plateau:
    """Divides a rate by 10 each time that a loss has not become smaller for a number of evaluations.

    Args:
        patience: evaluations without improvement, >= 1.
        final_ratio: the least share of the rate, in [0, 1].
    """

    def __init__(self, *, patience: int, final_ratio: float) -> None:
        self.patience, self.final_ratio = patience, final_ratio
        self.ratio, self.best, self.without_improvement = 1.0, math.inf, 0

    def judge(self, loss: float) -> None:
        """Take in an evaluation; NaN is no improvement."""
        if loss < self.best:
            self.best, self.without_improvement = loss, 0
            return
        self.without_improvement += 1
        if self.without_improvement >= self.patience:
            self.ratio, self.without_improvement = max(self.final_ratio, self.ratio / 10), 0

    def state_dict(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "best": self.best, "without_improvement": self.without_improvement}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ValueError: it holds something else.
        """
        numbers = [state[name] for name in ("ratio", "best")]
        if not all(isinstance(number, float) and not math.isnan(number) for number in numbers):
            raise ValueError(f"plateau holds {numbers}, which must be numbers")
        if not 0 <= state["ratio"] <= 1:
            raise ValueError(f"plateau.ratio is {state['ratio']}, which must lie in [0, 1]")
        self.ratio, self.best = numbers
        self.without_improvement = require_count(state["without_improvement"], "plateau.without_improvement")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Let the next step of an optimizer use this learning rate for all of its parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr
