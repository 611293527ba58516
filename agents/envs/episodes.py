"""Which episodes an evaluation's envs play: so many, each with a seed of its own, whoever plays it.

Shapes: N envs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from trivium.agents.envs.protocol import Envs

NONE = -1  # the number of no episode


class EpisodicEnvs(Envs, Protocol):
    """`Envs` that play a list of episodes: `reset(reseed=True)` begins with the first ones, and an env whose episode
    ends begins the next that no env has begun. What an env without one does is of no account.

    Attributes:
        playing_N: int64 [N], the number of the episode that each env plays now, in [0, episodes), `NONE` where none is
            left; None: they play on without end, as in training.
    """

    playing_N: np.ndarray | None

    def skip(self, which_N: np.ndarray) -> Tensor:
        """Leave the episodes of some envs, bool [N], as if they had ended; returns `obs`."""
        ...


class Episodes:
    """The list of episodes that is left, and who plays what.

    Args:
        seeds: one an episode.
        num_envs: N.

    Attributes:
        playing_N: see `EpisodicEnvs`.
    """

    def __init__(self, seeds: Sequence[int], num_envs: int) -> None:
        self.seeds = list(seeds)
        self.playing_N = np.full(num_envs, NONE)
        self._next = 0

    def restart(self) -> None:
        """None has been begun."""
        self._next = 0
        self.playing_N = np.full_like(self.playing_N, NONE)

    def first(self) -> list[int]:
        """Restart, and begin with the first ones in all envs; their seeds."""
        self.restart()
        return [seed for seed in self.begin(np.ones(len(self.playing_N), dtype=bool)) if seed is not None]

    @property
    def left(self) -> bool:
        """Whether there are episodes that no env has begun."""
        return self._next < len(self.seeds)

    def end(self, which_N: np.ndarray) -> None:
        """The episodes of these envs have ended."""
        self.playing_N = np.where(which_N, NONE, self.playing_N)

    def begin(self, which_N: np.ndarray) -> list[int | None]:
        """The next episodes, for these envs in their order.

        Returns:
            For each of them a seed, any if there is no episode left; None for all others.
        """
        self.end(which_N)
        seeds: list[int | None] = [None] * len(which_N)
        for i in np.flatnonzero(which_N):
            seeds[i] = self.seeds[-1]
            if self.left:
                self.playing_N[i], seeds[i] = self._next, self.seeds[self._next]
                self._next += 1
        return seeds
