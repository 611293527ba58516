"""Observations and rewards brought to a scale that networks learn well from, by statistics gathered on the way.

Shapes: T time, N envs of this worker, B batch, D whatever shape one observation has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from trivium.learner import Run

CLIP = 10.0  # what is further than so many standard deviations from the mean is clipped


class Moments(NamedTuple):
    """Of all that was seen, by all workers: float64, for sums of millions.

    Args:
        number: 0-d, how many.
        mean, var: [D], the variance is that of the population.
    """

    number: Tensor
    mean: Tensor
    var: Tensor


def merged(moments: Moments, x_BD: Tensor, run: Run) -> Moments:
    """The moments after a batch on each worker, in one all-reduce (Chan, Golub, LeVeque 1979, around the old mean).

    With s1, s2 the sums of (x - mean) and (x - mean)^2 over the batches, and n the new number:
    mean' = mean + s1 / n,  n var' = number var + s2 - s1^2 / n

    Args:
        moments: of what was seen before; with number 0 anything finite.
        x_BD: float [B, D], B >= 1; it may differ among the workers.

    Returns:
        New tensors, equal on all workers.

    Example:
        number 2, mean 1, var 1 (of 0 and 2), and x = [4] -> number 3, mean 2, var 8/3.
    """
    old_number, mean, var = moments
    shift_BD = x_BD.double() - mean
    batch = torch.full_like(mean, len(x_BD))
    batch, s1, s2 = run.sum(torch.stack((batch, shift_BD.sum(0), shift_BD.square().sum(0)))).unbind()
    number = old_number + batch.flatten()[0]
    new_var = (old_number * var + s2 - s1.square() / number) / number
    return Moments(number, mean + s1 / number, new_var.clamp_min(0.0))


def discounted_sum(reward_TN: Tensor, ended_TN: Tensor, start_N: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    """The rewards since the episode began, older ones discounted more: not a return, but of a return's size.

    S_t = r_t + gamma * (1 - ended_{t-1}) * S_{t-1}

    Args, returns:
        As `returns.running_sum`, which is the case gamma = 1.
    """
    sums, sum_N = [], start_N
    for reward_N, ended_N in zip(reward_TN.unbind(), ended_TN.unbind(), strict=True):
        sum_N = reward_N + gamma * sum_N
        sums.append(sum_N)
        sum_N = sum_N.masked_fill(ended_N, 0.0)
    return torch.stack(sums), sum_N


class Normaliser:
    """Observations to mean 0 and standard deviation 1; rewards divided by the standard deviation of `discounted_sum`,
    without a shift, which would change what is best. Both clipped to [-10, 10].

    The statistics are those of training alone, of all workers together. Those of the observations change between
    rollouts only: the update sees what the policy saw when it acted. In the first rollout they are 0 and 1.

    Args:
        run: where this worker runs.
        observation_space: of one env.
        num_envs: N.
        observations, rewards: what to normalise; the rest passes unchanged, at no cost.
        gamma: discount, in [0, 1].

    Raises:
        ValueError: observations of a kind that has no mean (Discrete) or a scale already (uint8) are to be normalised.
    """

    def __init__(
        self, *, run: Run, observation_space: gym.Space, num_envs: int, observations: bool, rewards: bool, gamma: float
    ) -> None:
        if observations and (not isinstance(observation_space, gym.spaces.Box) or observation_space.dtype == np.uint8):
            raise ValueError(
                f"agent.normalize_observation=true with the observation space {observation_space}: valid are Box of "
                "floats"
            )
        self.run = run
        self.observations = observations
        self.rewards = rewards
        self.gamma = gamma
        zero = torch.zeros((), dtype=torch.float64, device=run.device)
        mean = torch.zeros(observation_space.shape or (), dtype=torch.float64, device=run.device)
        self.obs_moments = Moments(zero, mean, torch.ones_like(mean))
        self.return_moments = Moments(zero, zero, zero)
        self.return_N = torch.zeros(num_envs, device=run.device)
        self._refresh()

    def obs(self, obs: Tensor) -> Tensor:
        """Observations [..., D] normalised by the statistics so far; float32."""
        if not self.observations:
            return obs
        return ((obs - self._mean) * self._scale).clamp_(-CLIP, CLIP)

    def reward(self, reward_TN: Tensor, ended_TN: Tensor) -> Tensor:
        """float32 [T, N], a rollout's rewards scaled, after the statistics have taken it in; `ended` see `gae`."""
        if not self.rewards:
            return reward_TN
        sum_TN, self.return_N = discounted_sum(reward_TN, ended_TN, self.return_N, gamma=self.gamma)
        self.return_moments = merged(self.return_moments, sum_TN.flatten(), self.run)
        return (reward_TN * (self.return_moments.var + 1e-8).rsqrt().float()).clamp_(-CLIP, CLIP)

    def observe(self, obs_TND: Tensor) -> None:
        """Take a rollout's observations, as the envs gave them, into the statistics."""
        if self.observations:
            self.obs_moments = merged(self.obs_moments, obs_TND.flatten(0, 1), self.run)
            self._refresh()

    def _refresh(self) -> None:
        self._mean = self.obs_moments.mean.float()
        self._scale = (self.obs_moments.var + 1e-8).rsqrt().float()

    def state_dict(self) -> dict[str, Any]:
        return {
            "obs": self.obs_moments._asdict(),
            "return": self.return_moments._asdict(),
            "return_N": self.return_N,
        }

    def load_weights(self, state: Mapping[str, Any]) -> None:
        """What evaluation needs, as `Learner.load_weights`."""
        self.obs_moments = Moments(**{name: value.to(self.run.device) for name, value in state["obs"].items()})
        self._refresh()

    def load_state_dict(self, state: Mapping[str, Any], begun_anew_N: Tensor) -> None:
        """`begun_anew_N`: see `Envs.load_state_dict`."""
        self.load_weights(state)
        self.return_moments = Moments(**{name: value.to(self.run.device) for name, value in state["return"].items()})
        self.return_N = state["return_N"].to(self.run.device).masked_fill(begun_anew_N, 0.0)
