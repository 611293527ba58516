"""Observations and rewards brought to a scale that networks learn well from, by statistics gathered on the way.

Shapes: T time, N envs of this worker, B batch, D numbers, F those of an observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trivium.agents.networks.actor_critic import CLIP, Encoder
from trivium.agents.returns import running_sum
from trivium.agents.rollouts.collector import Rollout
from trivium.learner import Run
from trivium.saved import like, require_like


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
        x_BD: float [B, D]; B may differ among the workers, and be 0 once something was seen.

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


class Normaliser:
    """Observations to mean 0 and standard deviation 1; rewards divided by the standard deviation of the discounted sum
    of their episode so far, without a shift, which would change what is best. Both clipped to [-10, 10].

    The statistics are those of training alone, of all workers together. Observations are normalised in the encoder,
    by its buffers, which `observe` changes between a rollout's updates and the next rollout: the update sees what the
    policy saw when it acted. In the first rollout they are 0 and 1.

    Args:
        run: where this worker runs.
        encoder: whose `mean` and `scale` are kept up to date, if it has them.
        num_envs: N.
        rewards: whether to normalise them; if not, they pass unchanged.
        gamma: discount, in [0, 1].

    Raises:
        ValueError: observations are to be normalised, and have no part that is a Box of floats.
    """

    def __init__(self, *, run: Run, encoder: Encoder, num_envs: int, rewards: bool, gamma: float) -> None:
        if encoder.normalized and not encoder.num_floats:
            raise ValueError(
                "agent.normalize_observation=true, but no part of the observation is a Box of floats: "
                f"{', '.join(str(leaf.space) for leaf in encoder.layout.leaves)}"
            )
        self.run = run
        self.encoder = encoder
        self.rewards = rewards
        self.gamma = gamma
        zero = torch.zeros((), dtype=torch.float64, device=run.device)
        mean_F = torch.zeros(encoder.num_floats, dtype=torch.float64, device=run.device)
        self.obs_moments = Moments(zero, mean_F, torch.ones_like(mean_F))
        self.return_moments = Moments(zero, zero, zero)
        self.return_N = torch.zeros(num_envs, device=run.device)

    def reward(self, rollout: Rollout) -> Tensor:
        """float32 [T, N], a rollout's rewards scaled, after the statistics have taken in its transitions."""
        if not self.rewards:
            return rollout.reward
        sum_TN, self.return_N = running_sum(rollout.reward, rollout.ended, self.return_N, gamma=self.gamma)
        sum_B = sum_TN.flatten() if rollout.live is None else sum_TN[rollout.live]
        self.return_moments = merged(self.return_moments, sum_B, self.run)
        return (rollout.reward * (self.return_moments.var + 1e-8).rsqrt().float()).clamp_(-CLIP, CLIP)

    @torch.no_grad()
    def observe(self, rollout: Rollout) -> None:
        """Take the observations of a rollout's transitions into the statistics."""
        if self.encoder.normalized:
            obs = rollout.obs.flatten(0, 1) if rollout.live is None else rollout.obs[rollout.live]
            self.obs_moments = merged(self.obs_moments, self.encoder.floats(obs), self.run)
            self.encoder.mean.copy_(self.obs_moments.mean)
            self.encoder.scale.copy_((self.obs_moments.var + 1e-8).rsqrt())

    def state_dict(self) -> dict[str, Any]:
        return {
            "obs": self.obs_moments._asdict(),
            "return": self.return_moments._asdict(),
            "return_N": self.return_N,
        }

    def load_state_dict(self, state: Mapping[str, Any], begun_anew_N: Tensor) -> None:
        """`begun_anew_N`: see `Envs.load_state_dict`. The encoder's buffers are loaded with the network."""

        def moments(saved: Mapping[str, Tensor], now: Moments) -> Moments:
            require_like(saved, now._asdict(), "normaliser")
            return Moments(**{name: value.to(self.run.device) for name, value in saved.items()})

        self.obs_moments = moments(state["obs"], self.obs_moments)
        self.return_moments = moments(state["return"], self.return_moments)
        self.return_N = like(state["return_N"], self.return_N, "normaliser").masked_fill(begun_anew_N, 0.0)
