"""The metrics of the updates since the last row, kept as tensors: nothing waits for the device until they are due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
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
        self._fetched: tuple[list[str], np.ndarray] | None = None
        self.append = self._updates.append  # called after every update

    def means(self) -> dict[str, float]:
        """The mean of each metric over the window and the workers, without NaN; the window is empty afterwards."""
        if not self._updates:
            return {}
        names, values = self._fetch()
        self._clear()
        known = ~np.isnan(values)
        sums, counts = self._sum(np.stack([np.where(known, values, 0.0).sum(0), known.sum(0)])).tolist()
        return {n: s / c for n, s, c in zip(names, sums, counts, strict=True) if c}

    def non_finite_loss(self) -> tuple[int, str] | None:
        """The first NaN or Inf in a metric whose name holds `loss`: how many updates ago (0: the last one), and what it
        is. All workers are told when one has found one."""
        if not self._updates:
            return None
        names, values = self._fetch()
        losses = [i for i, name in enumerate(names) if "loss" in name]
        finite = np.isfinite(values[:, losses])
        if not self._sum(np.array([not finite.all()], dtype=np.float64))[0]:
            return None
        if finite.all():
            return 0, "the loss of another worker is not finite"
        row, column = np.argwhere(~finite)[0].tolist()
        value = values[row, losses[column]]
        return len(values) - 1 - row, f"train/{names[losses[column]]} is {value}"

    def _fetch(self) -> tuple[list[str], np.ndarray]:
        """The metrics' names and float64 [updates, metrics]: the one wait for the device, for all who ask."""
        if self._fetched is None or len(self._fetched[1]) != len(self._updates):
            names = list(self._updates[0])
            flat = torch.stack([value for metrics in self._updates for value in metrics.values()])
            self._fetched = names, flat.view(-1, len(names)).cpu().double().numpy()
        return self._fetched

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over the workers."""
        if self._run.world_size == 1:
            return values
        return self._run.sum(torch.from_numpy(values).to(self._run.device)).cpu().numpy()

    def _clear(self) -> None:
        self._updates.clear()
        self._fetched = None

    def state_dict(self) -> dict[str, Any]:
        names, values = self._fetch() if self._updates else ([], np.empty((0, 0)))
        return {"names": names, "values": torch.from_numpy(values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._clear()
        for row in state["values"].float().to(self._run.device):
            self._updates.append(dict(zip(state["names"], row, strict=True)))
