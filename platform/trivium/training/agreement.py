"""How several workers decide alike on what only one of them can know: the time, and whether a signal came."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from trivium.learner import Run

EVERY_S = 0.5  # how long a signal may wait for the workers to talk, while updates take as long as they did


class Agreement:
    """Rank 0 tells the others, who wait for each other then, so not after every update but about every `every_s`.

    After how many updates they talk again is part of what rank 0 tells, from how long the last ones took: all count
    alike, without looking at clocks of their own. One worker agrees with itself after every update.

    Args:
        run: for the collective.
        every_s: seconds between two talks.
    """

    def __init__(self, run: Run, *, every_s: float = EVERY_S) -> None:
        self._run = run
        self._every_s = every_s
        self.restart(0)

    def restart(self, updates: int) -> None:
        """Training starts or goes on after so many updates: all talk after the next one."""
        self._pause = 1
        self._talked_after, self._talked_at = updates, time.monotonic()

    def due(self, updates: int) -> bool:
        """Whether all workers talk now: the same answer on each."""
        return self._run.world_size == 1 or updates >= self._talked_after + self._pause

    def reach(self, decided: Sequence[int], updates: int) -> list[int]:
        """What rank 0 has decided, small integers; every rank calls it when it is due."""
        if self._run.world_size == 1:
            return list(decided)
        now = time.monotonic()
        pause = next_pause(now - self._talked_at, updates - self._talked_after, self._pause, every_s=self._every_s)
        told = torch.tensor([*decided, pause], dtype=torch.float32, device=self._run.device)
        if self._run.rank > 0:
            told.zero_()
        *agreed, self._pause = (int(number) for number in self._run.sum(told).tolist())
        self._talked_after, self._talked_at = updates, now
        return agreed


def next_pause(passed_s: float, updates: int, pause: int, *, every_s: float) -> int:
    """How many updates take `every_s`, at least 1.

    Args:
        passed_s: how long the last `updates` took, with all that came between them.
        pause: the last answer; the next is at most twice that, for one quick update says little of the others.

    Example:
        100 updates in 1 s, every_s=0.5 -> 50; after a pause of 10 -> 20; 1 update in 3 s -> 1.
    """
    return max(1, min(2 * pause, int(every_s * updates / max(passed_s, 1e-9))))
