"""The networks of the agents: orthogonally initialised MLPs, actor and critic.

Shapes: B batch, A actions (Discrete) or action dimensions (Box), D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.agents.policies import Categorical, Gaussian, Policy


def linear(num_inputs: int, num_outputs: int, *, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights scaled by `gain` and zero bias.

    Drawn from `generator` only: the weights of a seed do not depend on who used torch's global generator before.
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, num_inputs, num_outputs)
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(
    num_inputs: int, hidden: Sequence[int], num_outputs: int, *, out_gain: float, generator: torch.Generator
) -> nn.Sequential:
    """Tanh layers of the widths in `hidden` (gain sqrt 2), then a linear one (gain `out_gain`)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [linear(num_inputs, width, gain=math.sqrt(2), generator=generator), nn.Tanh()]
        num_inputs = width
    return nn.Sequential(*layers, linear(num_inputs, num_outputs, gain=out_gain, generator=generator))


class Features(nn.Module):
    """Observations as the envs give them, [B, ...], to float32 [B, D]. Without parameters.

    Args:
        observation_space: Box (flattened; uint8 divided by 255) or Discrete (one-hot).

    Raises:
        ValueError: another kind of space.
    """

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__()
        if isinstance(observation_space, gym.spaces.Discrete):
            self.size = int(observation_space.n)
        elif isinstance(observation_space, gym.spaces.Box):
            self.size = math.prod(observation_space.shape)
        else:
            raise ValueError(f"observation space {observation_space}: valid are Box and Discrete")
        self.one_hot = isinstance(observation_space, gym.spaces.Discrete)
        self.bytes = observation_space.dtype == np.uint8

    def forward(self, obs: Tensor) -> Tensor:
        if self.one_hot:
            return F.one_hot(obs, self.size).float()
        return (obs / 255 if self.bytes else obs).flatten(1)


class ActorCritic(nn.Module):
    """A policy and a value of the same observation, by two separate MLPs.

    Args:
        observation_space: see `Features`.
        action_space: Discrete (`Categorical`) or Box (`Gaussian`, log std a parameter that starts at 0).
        hidden: widths of the hidden layers, of each MLP.
        generator: on the CPU; all initial weights come from it.

    Raises:
        ValueError: another kind of space.
    """

    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        *,
        observation_space: gym.Space,
        action_space: gym.Space,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.features = Features(observation_space)
        self.action_shape = action_space.shape or ()

        if isinstance(action_space, gym.spaces.Discrete):
            num_outputs = int(action_space.n)
            self.log_std_A: nn.Parameter | None = None
        elif isinstance(action_space, gym.spaces.Box):
            num_outputs = math.prod(action_space.shape)
            self.log_std_A = nn.Parameter(torch.zeros(num_outputs))
            self.register_buffer("action_low", torch.tensor(action_space.low).float(), persistent=False)
            self.register_buffer("action_high", torch.tensor(action_space.high).float(), persistent=False)
        else:
            raise ValueError(f"action space {action_space}: valid are Discrete and Box")
        self.actor = mlp(self.features.size, hidden, num_outputs, out_gain=0.01, generator=generator)
        self.critic = mlp(self.features.size, hidden, 1, out_gain=1.0, generator=generator)

    def policy(self, obs: Tensor) -> Policy:
        """The policy alone, for acting."""
        return self._policy(self.features(obs))

    def value(self, obs: Tensor) -> Tensor:
        """The value alone, float32 [B]."""
        return self._value(self.features(obs))

    def forward(self, obs: Tensor) -> tuple[Policy, Tensor]:
        """Policy and value of observations [B, ...]; the value float32 [B]."""
        features_BD = self.features(obs)
        return self._policy(features_BD), self._value(features_BD)

    def to_env(self, action: Tensor) -> Tensor:
        """A sampled action as an env takes it: Box actions clipped to the bounds and in the space's shape."""
        if self.log_std_A is None:
            return action
        return action.reshape(-1, *self.action_shape).clamp(self.action_low, self.action_high)

    # .float(): under autocast the heads come out in half precision, too coarse for exp(log_prob - old_log_prob).

    def _policy(self, features_BD: Tensor) -> Policy:
        output_BA = self.actor(features_BD).float()
        return Categorical(output_BA) if self.log_std_A is None else Gaussian(output_BA, self.log_std_A)

    def _value(self, features_BD: Tensor) -> Tensor:
        value_B1: Tensor = self.critic(features_BD)
        return value_B1.float().squeeze(-1)
