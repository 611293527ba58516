"""CartPole-v1 for all envs at once, in torch, on any device.

Shapes: N envs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from trivium.agents.envs import Step

GRAVITY = 9.8
MASS_POLE = 0.1
MASS_TOTAL = 1.1
LENGTH = 0.5  # half the pole's
MASS_LENGTH = MASS_POLE * LENGTH
FORCE = 10.0
TAU = 0.02  # seconds a step
MAX_X = 2.4
MAX_THETA = 12 * 2 * math.pi / 360
MAX_STEPS = 500


def dynamics(state_N4: Tensor, action_N: Tensor) -> Tensor:
    """One Euler step of the cart and its pole, as in gymnasium's `CartPoleEnv` (Barto, Sutton, Anderson 1983).

    Args:
        state_N4: float64 [N, 4]: x (m), dx/dt, theta (rad), dtheta/dt.
        action_N: int64 [N], 0 pushes to the left, 1 to the right.

    Returns:
        float64 [N, 4], the next state. For the same state and action equal to gymnasium's to 1e-14: both compute in
        float64, in another order of operations.
    """
    _, x_dot_N, theta_N, theta_dot_N = state_N4.unbind(1)
    cos_N, sin_N = theta_N.cos(), theta_N.sin()
    push_N = action_N.double() * (2 * FORCE / MASS_TOTAL) - FORCE / MASS_TOTAL
    temp_N = torch.addcmul(push_N, theta_dot_N.square(), sin_N, value=MASS_LENGTH / MASS_TOTAL)
    inertia_N = LENGTH * 4 / 3 - cos_N.square() * (LENGTH * MASS_POLE / MASS_TOTAL)
    theta_acc_N = (GRAVITY * sin_N - cos_N * temp_N) / inertia_N
    x_acc_N = torch.addcmul(temp_N, theta_acc_N, cos_N, value=-MASS_LENGTH / MASS_TOTAL)
    return torch.add(state_N4, torch.stack((x_dot_N, x_acc_N, theta_dot_N, theta_acc_N), 1), alpha=TAU)


class CartPole:
    """`Envs` of gymnasium's CartPole-v1: reward 1 a step, terminated beyond 2.4 m or 12 degrees, truncated after 500
    steps.

    The state is float64 and observations are float32, as in gymnasium. All envs draw their initial states from one
    generator: a draw for each env at each step, needed or not, so that no step waits for the device.

    Args:
        num_envs: N, at least 1.
        seed: of the generator, taken at the first reset.
        device: where all tensors live.
    """

    def __init__(self, *, num_envs: int, seed: int, device: torch.device) -> None:
        high = np.array([2 * MAX_X, np.inf, 2 * MAX_THETA, np.inf], dtype=np.float32)
        self.num_envs = num_envs
        self.observation_space: gym.Space = gym.spaces.Box(-high, high)
        self.action_space: gym.Space = gym.spaces.Discrete(2)
        self._seed = seed
        self._generator = torch.Generator(device).manual_seed(seed)
        self._state_N4 = torch.zeros(num_envs, 4, dtype=torch.float64, device=device)
        self._steps_N = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._reward_N = torch.ones(num_envs, device=device)

    @property
    def obs(self) -> Tensor:
        return self._state_N4.float()

    def reset(self, *, reseed: bool = False) -> Tensor:
        if reseed:
            self._generator.manual_seed(self._seed)
        self._state_N4 = self._initial_states()
        self._steps_N = torch.zeros_like(self._steps_N)
        return self.obs

    def step(self, action: Tensor) -> Step:
        state_N4 = dynamics(self._state_N4, action)
        steps_N = self._steps_N + 1
        terminated_N = (state_N4[:, 0].abs() > MAX_X) | (state_N4[:, 2].abs() > MAX_THETA)
        truncated_N = steps_N >= MAX_STEPS
        ended_N = terminated_N | truncated_N
        self._state_N4 = torch.where(ended_N.unsqueeze(1), self._initial_states(), state_N4)
        self._steps_N = steps_N.masked_fill_(ended_N, 0)
        return Step(self.obs, self._reward_N, terminated_N, truncated_N, state_N4.float())

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._state_N4, "steps": self._steps_N, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        if state["state"].shape != self._state_N4.shape:
            raise ValueError(f"saved with {len(state['state'])} envs on this worker, now there are {self.num_envs}")
        device = self._state_N4.device
        self._state_N4 = state["state"].to(device)
        self._steps_N = state["steps"].to(device)
        self._generator.set_state(state["generator"].cpu())
        return torch.zeros_like(self._steps_N, dtype=torch.bool)

    def _initial_states(self) -> Tensor:
        return torch.empty_like(self._state_N4).uniform_(-0.05, 0.05, generator=self._generator)
