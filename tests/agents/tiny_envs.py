"""Environments small enough to know the right answer; importing registers them, so `tiny_envs:<name>-v0` is an id."""

from __future__ import annotations

import random
from typing import Any

import gymnasium as gym
import numpy as np

Result = tuple[Any, float, bool, bool, dict[str, Any]]


def box(shape: tuple[int, ...] = (1,), bound: float = 10.0) -> gym.spaces.Box:
    return gym.spaces.Box(-bound, bound, shape, np.float32)


class Tiny(gym.Env):
    """One observation and one step, unless a subclass says otherwise."""

    observation_space: gym.Space = box()
    action_space: gym.Space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.x = self.begin()
        return self.x, {}

    def begin(self) -> Any:
        return np.zeros(1, np.float32)

    def sign(self) -> np.ndarray:
        return np.array([self.np_random.choice([-1.0, 1.0])], np.float32)


class Constant(Tiny):
    """Probe 1: nothing but a value to learn: V = 1."""

    action_space = gym.spaces.Discrete(1)

    def step(self, action: int) -> Result:
        return self.x, 1.0, True, False, {}


class Predict(Tiny):
    """Probe 2: the reward is the observation: V(x) = x."""

    action_space = gym.spaces.Discrete(1)

    def begin(self) -> np.ndarray:
        return self.sign()

    def step(self, action: int) -> Result:
        return self.x, float(self.x[0]), True, False, {}


class Delay(Tiny):
    """Probe 3: the reward comes a step later: V(1) = 1, V(0) = gamma."""

    action_space = gym.spaces.Discrete(1)

    def step(self, action: int) -> Result:
        ended = bool(self.x[0])
        self.x = np.ones(1, np.float32)
        return self.x, float(ended), ended, False, {}


class Choose(Tiny):
    """Probe 4: action 1 is better than action 0, whatever is seen."""

    def step(self, action: int) -> Result:
        return self.x, 1.0 if action == 1 else -1.0, True, False, {}


class Match(Tiny):
    """Probe 5: the better action depends on the observation."""

    def begin(self) -> np.ndarray:
        return self.sign()

    def step(self, action: int) -> Result:
        return self.x, 1.0 if (action == 1) == (self.x[0] > 0) else -1.0, True, False, {}


class Identity(Tiny):
    """Repeat what is seen: 1 of 4, 20 times. Spaces that do not start at 0."""

    observation_space = gym.spaces.Discrete(4, start=3)
    action_space = gym.spaces.Discrete(4, start=-2)

    def begin(self) -> int:
        self.steps = 0
        return int(self.np_random.integers(3, 7))

    def step(self, action: int) -> Result:
        assert self.action_space.contains(action)
        reward, self.steps = float(action + 5 == self.x), self.steps + 1
        self.x = int(self.np_random.integers(3, 7))
        return self.x, reward, False, self.steps == 20, {}


class Reach(Tiny):
    """Continuous: the action should be half the observation; refuses what lies outside its bounds."""

    action_space = box(bound=0.6)

    def begin(self) -> np.ndarray:
        return self.sign()

    def step(self, action: np.ndarray) -> Result:
        assert self.action_space.contains(action), action
        return self.x, -float((action[0] - self.x[0] / 2) ** 2), True, False, {}


class Forever(Tiny):
    """Reward 1 for ever; registered with a time limit of 8 steps."""

    def step(self, action: int) -> Result:
        return self.x, 1.0, False, False, {}


class Count(Tiny):
    """Observes (episode, step); ends after 3 steps: terminated in even episodes, truncated in odd ones, both in every
    third. The reward is 10 * episode + step."""

    observation_space = box((2,), 1000.0)
    seeds: list[int | None]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.seeds = [*getattr(self, "seeds", []), seed]
        return super().reset(seed=seed)

    def begin(self) -> np.ndarray:
        self.x = getattr(self, "x", np.zeros(2, np.float32))
        self.x[:] = len(self.seeds) - 1, 0  # in place: what it returned before changes, as with some simulators
        return self.x

    def step(self, action: int) -> Result:
        self.x[1] += 1
        episode, step = int(self.x[0]), int(self.x[1])
        ended = step == 3
        terminated = ended and (episode % 2 == 0 or episode % 3 == 0)
        return self.x, 10.0 * episode + step, terminated, ended and (episode % 2 == 1 or episode % 3 == 0), {}


class Lasts(Tiny):
    """Observes how many steps its episode lasts, 1 to 9."""

    def begin(self) -> np.ndarray:
        self.steps = 0
        return self.np_random.integers(1, 10, size=1).astype(np.float32)

    def step(self, action: int) -> Result:
        self.steps += 1
        return self.x, 1.0, self.steps == self.x[0], False, {}


class Drift(Tiny):
    """A random walk in 3 dimensions with continuous actions: stochastic dynamics, from its own np_random."""

    observation_space = box((3,), 1e6)
    action_space = box((2,), 1.0)

    def begin(self) -> np.ndarray:
        return self.np_random.normal(size=3).astype(np.float32)

    def step(self, action: np.ndarray) -> Result:
        self.x = self.x + self.np_random.normal(size=3).astype(np.float32)
        self.x[:2] += action
        return self.x, float(-np.abs(self.x).sum()), bool(np.abs(self.x).max() > 6), False, {}


class Wild(Tiny):
    """Not deterministic: draws from a generator that no seed reaches."""

    def step(self, action: int) -> Result:
        self.x = np.array([random.SystemRandom().random()], np.float32)
        return self.x, 1.0, False, False, {}


class Hidden(Wild):
    """Not deterministic, which shows in a reward in the past but not in the observation."""

    def step(self, action: int) -> Result:
        return self.x, random.SystemRandom().random(), False, False, {}


class Broken(Tiny):
    """NaN at the second step."""

    def step(self, action: int) -> Result:
        self.x = self.x + (np.nan if self.x[0] else 1)
        return self.x, 0.0, False, False, {}


class BrokenReward(Tiny):
    def step(self, action: int) -> Result:
        return self.x, float("nan"), False, False, {}


class Shapeless(Tiny):
    """A scalar where an array of one is promised."""

    def begin(self) -> float:
        return 0.5


for env in (
    Constant,
    Predict,
    Delay,
    Choose,
    Match,
    Identity,
    Reach,
    Count,
    Lasts,
    Drift,
    Wild,
    Hidden,
    Broken,
    BrokenReward,
    Shapeless,
):
    gym.register(f"{env.__name__}-v0", entry_point=env)
gym.register("Forever-v0", entry_point=Forever, max_episode_steps=8)
