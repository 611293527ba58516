"""A trained agent as a function of one observation, with the memory of the episode in progress."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch

from trivium.agents.envs.gym_api import actions_to_numpy, one_by_one
from trivium.agents.observations import Layout
from trivium.learner import Run


class OnePolicy:
    """A `trivium.learner.Policy`.

    Args:
        run: for the device and the seed of sampled actions.
        acting: whose `in_evaluation` is an `evaluation.Act`.
        layout: of the observations.
        action_space: of one env.
        state_size: M, of the memory; 0 without.
    """

    def __init__(self, *, run: Run, acting: Any, layout: Layout, action_space: gym.Space, state_size: int) -> None:
        self._run, self._acting, self._layout = run, acting, layout
        self._space, self._state_size = action_space, state_size
        self._generator = run.generator("policy", device=run.device)
        self.reset()

    def reset(self) -> None:
        """A new episode begins: the memory is empty."""
        self._state_1M = torch.zeros(1, self._state_size, device=self._run.device)

    @torch.no_grad()
    def act(self, observation: Any, *, deterministic: bool = True) -> Any:
        """An action as the env takes it.

        Args:
            observation: as the env returns it; with masks of the valid actions, as the agent's observation space has
                it: a dict whose `action_mask` is the mask.
            deterministic: the best guess; otherwise sampled from the policy.

        Raises:
            UserCodeError: the observation is not of the observation space.
            ValueError: the agent has no policy to sample from.
        """
        if not deterministic and not hasattr(self._acting, "deterministic"):
            raise ValueError("deterministic=False: this agent always does what it thinks best")
        obs = torch.from_numpy(self._layout.pack(observation)).unsqueeze(0).to(self._run.device)
        before = getattr(self._acting, "deterministic", None)
        try:
            if before is not None:
                self._acting.deterministic = deterministic
            action_1, self._state_1M = self._acting.in_evaluation(obs, self._state_1M, self._generator)
        finally:
            if before is not None:
                self._acting.deterministic = before
        return one_by_one(self._space, actions_to_numpy(self._space, action_1))[0]
