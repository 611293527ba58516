"""Gymnasium's classic control tasks for all envs at once, in torch, on any device.

What the tasks share stands once, in `ClassicControl`; a task is its equations of motion, what is observed of the state,
and a row of numbers. Equations and numbers are those of gymnasium 1.2; the names of quantities too.

Shapes: N envs, S numbers in the state, O in the observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from trivium.agents.envs.pixels import HEIGHT, WIDTH, observe_pictures
from trivium.agents.envs.protocol import Step
from trivium.agents.envs.registration import PIXELS
from trivium.saved import like

MAX_THETA = 12 * 2 * math.pi / 360  # of CartPole


def cartpole(state_N4: Tensor, action_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A pole on a cart that is pushed left (0) or right (1): an Euler step of 0.02 s (Barto, Sutton, Anderson 1983).

    Args:
        state_N4: float64 [N, 4]: x (m), dx/dt, theta (rad), dtheta/dt.
        action_N: int64 [N].

    Returns:
        The next state; the reward, 1; terminated: beyond 2.4 m or 12 degrees. As of all tasks: float64 [N, S],
        float [N], bool [N].
    """
    gravity, mass_pole, mass, length, force = 9.8, 0.1, 1.1, 0.5, 10.0  # the length is half the pole's
    _, x_dot_N, theta_N, theta_dot_N = state_N4.unbind(1)
    cos_N, sin_N = theta_N.cos(), theta_N.sin()
    push_N = action_N.double() * (2 * force / mass) - force / mass
    temp_N = torch.addcmul(push_N, theta_dot_N.square(), sin_N, value=mass_pole * length / mass)
    inertia_N = length * 4 / 3 - cos_N.square() * (length * mass_pole / mass)
    theta_acc_N = (gravity * sin_N - cos_N * temp_N) / inertia_N
    x_acc_N = torch.addcmul(temp_N, theta_acc_N, cos_N, value=-mass_pole * length / mass)
    next_N4 = torch.add(state_N4, torch.stack((x_dot_N, x_acc_N, theta_dot_N, theta_acc_N), 1), alpha=0.02)
    terminated_N = (next_N4[:, 0].abs() > 2.4) | (next_N4[:, 2].abs() > MAX_THETA)
    return next_N4, torch.ones_like(x_dot_N), terminated_N


def seen_cartpole(state_N6: Tensor, action_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`cartpole`, whose state, float64 [N, 6], ends with where cart and pole were a step ago: x and theta."""
    next_N4, reward_N, terminated_N = cartpole(state_N6[:, :4], action_N)
    return torch.cat((next_N4, state_N6[:, 0:3:2]), 1), reward_N, terminated_N


def acrobot(state_N4: Tensor, action_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two links, a torque of action - 1 at the joint between them: a Runge-Kutta step of 0.2 s of the equations in
    Sutton and Barto's book. Links of 1 m, 1 kg and 1 kg m^2, their centres of mass in the middle, are put in.

    Args:
        state_N4: float64 [N, 4]: theta1 (rad, 0 hangs down), theta2 (relative to the first link), their velocities.
        action_N: int64 [N], 0 to 2.

    Returns:
        See `cartpole`; reward -1, or 0 at the step that ends with the free end 1 m above the base: terminated.
    """
    torque_N = action_N.double() - 1

    def slope(state_N4: Tensor) -> Tensor:
        theta1_N, theta2_N, dtheta1_N, dtheta2_N = state_N4.unbind(1)
        half_cos_N, half_sin_N = theta2_N.cos() / 2, theta2_N.sin() / 2
        d1_N = 2 * half_cos_N + 3.5
        d2_N = half_cos_N + 1.25
        phi2_N = 4.9 * (theta1_N + theta2_N).sin()
        coriolis_N = dtheta2_N * (dtheta2_N + 2 * dtheta1_N) * half_sin_N
        phi1_N = torch.add(phi2_N, theta1_N.sin(), alpha=14.7) - coriolis_N
        ratio_N = d2_N / d1_N
        force_N = torque_N + ratio_N * phi1_N - dtheta1_N.square() * half_sin_N - phi2_N
        ddtheta2_N = force_N / (1.25 - d2_N * ratio_N)
        ddtheta1_N = -(ratio_N * ddtheta2_N + phi1_N / d1_N)
        return torch.stack((dtheta1_N, dtheta2_N, ddtheta1_N, ddtheta2_N), 1)

    k1_N4 = slope(state_N4)
    k2_N4 = slope(torch.add(state_N4, k1_N4, alpha=0.1))
    k3_N4 = slope(torch.add(state_N4, k2_N4, alpha=0.1))
    k4_N4 = slope(torch.add(state_N4, k3_N4, alpha=0.2))
    slopes_N4 = torch.add(k1_N4 + k4_N4, k2_N4 + k3_N4, alpha=2)
    next_N4 = torch.add(state_N4, slopes_N4, alpha=0.2 / 6)
    theta1_N, theta2_N = wrapped(next_N4[:, :2]).unbind(1)
    dtheta1_N = next_N4[:, 2].clamp(-4 * math.pi, 4 * math.pi)
    dtheta2_N = next_N4[:, 3].clamp(-9 * math.pi, 9 * math.pi)
    terminated_N = theta1_N.cos() + (theta1_N + theta2_N).cos() < -1
    next_N4 = torch.stack((theta1_N, theta2_N, dtheta1_N, dtheta2_N), 1)
    return next_N4, terminated_N.float() - 1, terminated_N


def mountain_car(state_N2: Tensor, action_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A car too weak to climb its hill at once (Moore 1990), driven left (0), not (1), or right (2).

    Args:
        state_N2: float64 [N, 2]: position, and velocity per step.
        action_N: int64 [N].

    Returns:
        See `cartpole`; reward -1; terminated at the goal, position 0.5.
    """
    next_N2 = _drive(state_N2, (action_N.double() - 1) * 0.001)
    terminated_N = (next_N2[:, 0] >= 0.5) & (next_N2[:, 1] >= 0)
    return next_N2, -torch.ones_like(next_N2[:, 0]), terminated_N


def mountain_car_continuous(state_N2: Tensor, action_N1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`mountain_car` with a force in [-1, 1]; gymnasium rounds the state to float32 at each step, this does not.

    Args:
        state_N2: see `mountain_car`.
        action_N1: float [N, 1].

    Returns:
        See `cartpole`; reward -0.1 force^2, and 100 at the goal, position 0.45: terminated.
    """
    force_N = action_N1.squeeze(1)
    next_N2 = _drive(state_N2, force_N.clamp(-1, 1) * 0.0015)
    terminated_N = (next_N2[:, 0] >= 0.45) & (next_N2[:, 1] >= 0)
    return next_N2, 100 * terminated_N - 0.1 * force_N.square(), terminated_N


def _drive(state_N2: Tensor, force_N: Tensor) -> Tensor:
    position_N, velocity_N = state_N2.unbind(1)
    velocity_N = (velocity_N + force_N - 0.0025 * (3 * position_N).cos()).clamp(-0.07, 0.07)
    position_N = (position_N + velocity_N).clamp(-1.2, 0.6)
    velocity_N = velocity_N.masked_fill((position_N == -1.2) & (velocity_N < 0), 0)  # the wall on the left
    return torch.stack((position_N, velocity_N), 1)


def pendulum(state_N2: Tensor, action_N1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A pendulum of 1 kg and 1 m to be swung up and held by a torque in [-2, 2] N m: an Euler step of 0.05 s.

    Args:
        state_N2: float64 [N, 2]: theta (rad, 0 is up, not wrapped), and its velocity.
        action_N1: float [N, 1].

    Returns:
        See `cartpole`; reward -(theta^2 + 0.1 velocity^2 + 0.001 torque^2); never terminated.
    """
    theta_N, velocity_N = state_N2.unbind(1)
    torque_N = action_N1.squeeze(1).clamp(-2, 2)
    cost_N = wrapped(theta_N).square() + 0.1 * velocity_N.square() + 0.001 * torque_N.square()
    acceleration_N = 15 * theta_N.sin() + 3 * torque_N
    velocity_N = torch.add(velocity_N, acceleration_N, alpha=0.05).clamp(-8, 8)
    next_N2 = torch.stack((torch.add(theta_N, velocity_N, alpha=0.05), velocity_N), 1)
    return next_N2, -cost_N, torch.zeros_like(theta_N, dtype=torch.bool)


def wrapped(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi), rad."""
    return (angle + math.pi).remainder(2 * math.pi) - math.pi


def _observe_state(state_NS: Tensor) -> Tensor:
    return state_NS.float()


def _observe_acrobot(state_N4: Tensor) -> Tensor:
    theta_N2, velocity_N2 = state_N4.split(2, 1)
    cos_sin_N22 = torch.stack((theta_N2.cos(), theta_N2.sin()), 2)
    return torch.cat((cos_sin_N22.flatten(1), velocity_N2), 1).float()


def _observe_pendulum(state_N2: Tensor) -> Tensor:
    theta_N, velocity_N = state_N2.unbind(1)
    return torch.stack((theta_N.cos(), theta_N.sin(), velocity_N), 1).float()


class Task(NamedTuple):
    """One row of `TASKS`.

    Args:
        dynamics: from state and action to the next state, the reward and whether the task is over; see `cartpole`.
        observe: from the state float64 [N, S] to the observation float32 [N, O].
        obs_high: upper bounds of the observation space, O numbers.
        first_low, first_high: an episode begins uniformly between these states, S numbers each.
        max_steps: episodes are truncated after so many.
        obs_low: lower bounds; none: the negative of the upper ones.
        num_actions: of a Discrete action space; 0 for a Box.
        max_action: the Box is [-max_action, max_action].
        image: what is observed is uint8 of this shape, a picture; none: numbers.
    """

    dynamics: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    observe: Callable[[Tensor], Tensor]
    obs_high: tuple[float, ...]
    first_low: tuple[float, ...]
    first_high: tuple[float, ...]
    max_steps: int
    obs_low: tuple[float, ...] = ()
    num_actions: int = 0
    max_action: float = 0.0
    image: tuple[int, ...] = ()


TASKS = {
    "CartPole-v1": Task(
        dynamics=cartpole,
        observe=_observe_state,
        obs_high=(4.8, math.inf, 2 * MAX_THETA, math.inf),
        first_low=(-0.05,) * 4,
        first_high=(0.05,) * 4,
        max_steps=500,
        num_actions=2,
    ),
    "Acrobot-v1": Task(
        dynamics=acrobot,
        observe=_observe_acrobot,
        obs_high=(1.0, 1.0, 1.0, 1.0, 4 * math.pi, 9 * math.pi),
        first_low=(-0.1,) * 4,
        first_high=(0.1,) * 4,
        max_steps=500,
        num_actions=3,
    ),
    "MountainCar-v0": Task(
        dynamics=mountain_car,
        observe=_observe_state,
        obs_low=(-1.2, -0.07),
        obs_high=(0.6, 0.07),
        first_low=(-0.6, 0.0),
        first_high=(-0.4, 0.0),
        max_steps=200,
        num_actions=3,
    ),
    "MountainCarContinuous-v0": Task(
        dynamics=mountain_car_continuous,
        observe=_observe_state,
        obs_low=(-1.2, -0.07),
        obs_high=(0.6, 0.07),
        first_low=(-0.6, 0.0),
        first_high=(-0.4, 0.0),
        max_steps=999,
        max_action=1.0,
    ),
    PIXELS: Task(
        dynamics=seen_cartpole,
        observe=observe_pictures,
        obs_high=(),
        image=(2, HEIGHT, WIDTH),
        first_low=(-0.05, -0.05, -0.05, -0.05, 0.0, 0.0),
        first_high=(0.05, 0.05, 0.05, 0.05, 0.0, 0.0),
        max_steps=500,
        num_actions=2,
    ),
    "Pendulum-v1": Task(
        dynamics=pendulum,
        observe=_observe_pendulum,
        obs_high=(1.0, 1.0, 8.0),
        first_low=(-math.pi, -1.0),
        first_high=(math.pi, 1.0),
        max_steps=200,
        max_action=2.0,
    ),
}


class ClassicControl:
    """`PureEnvs` of one of the `TASKS`.

    The state is float64 and observations are float32, as in gymnasium. All envs draw their first states from one
    generator: a draw for each env at each step, needed or not, so that no step waits for the device.

    Args:
        id: one of `TASKS`.
        num_envs: N, at least 1.
        seed: of the generator, taken at the first reset.
        device: where all tensors live.
        max_steps: episodes are truncated after so many; None: as the task says.
    """

    def __init__(
        self, *, id: str, num_envs: int, seed: int, device: torch.device, max_steps: int | None = None
    ) -> None:
        task = TASKS[id]
        if max_steps is not None:
            task = task._replace(max_steps=max_steps)
        high = np.array(task.obs_high, dtype=np.float32)
        low = np.array(task.obs_low, dtype=np.float32) if task.obs_low else -high
        self.num_envs = num_envs
        self.observation_space: gym.Space = gym.spaces.Box(low, high)
        if task.image:
            self.observation_space = gym.spaces.Box(0, 255, task.image, np.uint8)
        self.action_space: gym.Space = gym.spaces.Box(-task.max_action, task.max_action, (1,))
        if task.num_actions:
            self.action_space = gym.spaces.Discrete(task.num_actions)
        self._task = task
        self._seed = seed
        self._generator = torch.Generator(device).manual_seed(seed)
        self._first_low_S = torch.tensor(task.first_low, dtype=torch.float64, device=device)
        self._first_range_S = torch.tensor(task.first_high, dtype=torch.float64, device=device) - self._first_low_S
        state_NS = torch.zeros(num_envs, len(task.first_low), dtype=torch.float64, device=device)
        self.state: tuple[Tensor, ...] = (state_NS, torch.zeros(num_envs, dtype=torch.int64, device=device))

    @property
    def obs(self) -> Tensor:
        return self._task.observe(self.state[0])

    def reset(self, *, reseed: bool = False) -> Tensor:
        if reseed:
            self._generator.manual_seed(self._seed)
        self.state = (self.draw(1)[0], torch.zeros_like(self.state[1]))
        return self.obs

    def step(self, action: Tensor) -> Step:
        self.state, step = self.transition(self.state, action, self.draw(1)[0])
        return step

    def draw(self, num_steps: int) -> Tensor:
        """float64 [T, N, S], states that an episode may begin with."""
        shape, device = (num_steps, *self.state[0].shape), self.state[0].device
        uniform_TNS = torch.rand(shape, dtype=torch.float64, generator=self._generator, device=device)
        return torch.addcmul(self._first_low_S, uniform_TNS, self._first_range_S)

    def transition(self, state: tuple[Tensor, ...], action: Tensor, draw: Tensor) -> tuple[tuple[Tensor, ...], Step]:
        """See `PureEnvs`; the state is float64 [N, S], and int64 [N], the steps since the episode began."""
        state_NS, steps_N = state
        last_NS, reward_N, terminated_N = self._task.dynamics(state_NS, action)
        steps_N = steps_N + 1
        truncated_N = steps_N >= self._task.max_steps
        ended_N = terminated_N | truncated_N
        state_NS = torch.where(ended_N.unsqueeze(1), draw, last_NS)
        step = Step(
            self._task.observe(state_NS), reward_N.float(), terminated_N, truncated_N, self._task.observe(last_NS)
        )
        return (state_NS, steps_N.masked_fill(ended_N, 0)), step

    def state_dict(self) -> dict[str, Any]:
        state_NS, steps_N = self.state
        return {"state": state_NS, "steps": steps_N, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        state_NS, steps_N = self.state
        number = state["steps"].numel() if isinstance(state["steps"], Tensor) else None
        if number not in (None, self.num_envs):
            raise ValueError(f"saved with {number} envs on this worker, now there are {self.num_envs}")
        saved = like(state["state"], state_NS, "envs.state"), like(state["steps"], steps_N, "envs.steps")
        if not ((saved[1] >= 0) & (saved[1] < self._task.max_steps)).all():
            raise ValueError(f"envs.steps: an episode has from 0 to {self._task.max_steps} steps")
        self.state = saved
        self._generator.set_state(state["generator"].cpu())
        return torch.zeros_like(steps_N, dtype=torch.bool)
