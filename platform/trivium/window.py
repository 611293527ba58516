"""The metrics of the updates since the last row, kept as tensors: nothing waits for the device until they are due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trivium.learner import Run


class Window:
    """What `Learner.step` returned, update after update.

    Args:
        run: for the device, and for the means over several workers.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._updates: list[dict[str, Tensor]] = []
        self.append = self._updates.append  # called after every update

    def means(self) -> dict[str, float]:
        """The mean of each metric over the window and the workers, without NaN; the window is empty afterwards."""
        if not self._updates:
            return {}
        names, values = self._stacked()
        self._updates.clear()
        known = ~values.isnan()
        sums = self._run.sum(torch.stack([values.nan_to_num(0.0).sum(0), known.sum(0)]).to(self._run.device)).cpu()
        return {n: (s / c).item() for n, s, c in zip(names, *sums, strict=True) if c > 0}

    def non_finite_loss(self) -> tuple[int, str] | None:
        """The first NaN or Inf in a metric whose name holds `loss`: how many updates ago (0: the last one), and what it
        is. All workers are told when one has found one."""
        if not self._updates:
            return None
        names, values = self._stacked()
        losses = [i for i, name in enumerate(names) if "loss" in name]
        finite = values[:, losses].isfinite()
        if not self._run.sum((~finite.all()).long().to(self._run.device)):
            return None
        if finite.all():
            return 0, "the loss of another worker is not finite"
        row, column = (~finite).nonzero()[0].tolist()
        value = values[row, losses[column]].item()
        return len(values) - 1 - row, f"train/{names[losses[column]]} is {value}"

    def _stacked(self) -> tuple[list[str], Tensor]:
        """The metrics' names and float64 [updates, metrics] on the CPU: the one wait for the device."""
        names = list(self._updates[0])
        flat = torch.stack([value for metrics in self._updates for value in metrics.values()])
        return names, flat.view(len(self._updates), len(names)).cpu().double()

    def state_dict(self) -> dict[str, Any]:
        names, values = self._stacked() if self._updates else ([], torch.empty(0, 0))
        return {"names": names, "values": values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates.clear()
        for row in state["values"].float().to(self._run.device):
            self._updates.append(dict(zip(state["names"], row, strict=True)))
