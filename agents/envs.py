"""Environments in batches, all behind one small protocol: native ones in torch, any gymnasium id.

No transition is ever dead: an env whose episode ends begins the next one within the same step, and the step returns
both the last observation of the one and the first of the other.

Shapes: N envs.
"""

from __future__ import annotations

import difflib
import json
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from trivium.learner import Run


class Step(NamedTuple):
    """One transition of each env.

    Args:
        obs: [N, ...], what to act on next; where the episode ended, the first observation of the next one.
        reward: float32 [N].
        terminated: bool [N], the MDP ended: the future is worth 0.
        truncated: bool [N], cut from outside (a time limit): the future is worth V(next_obs). May be True together
            with `terminated`, which then counts.
        next_obs: [N, ...], what this transition led to; where the episode ended, its last observation; elsewhere
            equal to `obs`.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    next_obs: Tensor


class Envs(Protocol):
    """N copies of an env, stepped together. Tensors live on one device and are not written to after they are returned.

    Observations of Box spaces are float32, or uint8 where the space is; of Discrete ones int64 in [0, n). Discrete
    actions are int64 [N] in [0, n), whatever the space's `start`; Box ones float [N, *shape], within the bounds.

    Attributes:
        num_envs: N.
        observation_space, action_space: of a single env.
        obs: the current observations, [N, ...]; valid after `reset` or `load_state_dict`.
    """

    num_envs: int
    observation_space: gym.Space
    action_space: gym.Space

    @property
    def obs(self) -> Tensor: ...

    def reset(self, *, reseed: bool = False) -> Tensor:
        """Begin a new episode in every env and return `obs`. The first call seeds the envs; later ones go on in
        their streams of randomness, or with `reseed` start them again: the same episodes for the same actions."""
        ...

    def step(self, action: Tensor) -> Step: ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, mid-episode too, as tensors, numbers and strings."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        """Take back a state of envs built alike; resume with the property `obs`.

        Returns:
            bool [N], True where an env could not be brought back to where it was and began a new episode instead.

        Raises:
            ValueError: saved with another number of envs.
        """
        ...


def make(*, id: str, num_envs: int, run: Run, stream: str, native: bool = True) -> Envs:
    """Build envs from their gymnasium id; the target of the config group `env`.

    Args:
        id: a registered id, or `module:id` to import the module that registers it.
        num_envs: of the whole run for the stream `train`, divided among the workers; else of this worker.
        run: gives the device and, with the worker's rank and `stream`, the seeds.
        stream: `train`, `eval` or `test`: each has episodes of its own.
        native: use Trivium's batched implementation where there is one (`classic_control.TASKS`).

    Raises:
        ValueError: the id is unknown or its package is missing, a space is not supported, or `num_envs` is not a
            positive multiple of the number of workers.
    """
    if stream == "train":
        num_envs = run.share(num_envs, "env.num_envs")
    from trivium.agents.classic_control import TASKS, ClassicControl  # imports this file

    if native and id in TASKS:
        seed = run.seed_for("env", stream, run.rank)
        return ClassicControl(id=id, num_envs=num_envs, seed=seed, device=run.device)
    # 31 bits: some simulators take no longer seeds
    seeds = [run.seed_for("env", stream, run.rank, i) % 2**31 for i in range(num_envs)]
    return GymEnvs(id=id, seeds=seeds, device=run.device)


class GymEnvs:
    """`Envs` of any gymnasium id, stepped one after another in this process.

    The state of an env is captured as data: that of its random generator when the episode began, and the actions
    since. `load_state_dict` plays them again, and compares a checksum of all observations and rewards; the time it
    takes is that of the episodes in progress. What it cannot see is randomness that has had no effect yet and comes
    neither from the env's `np_random` nor from its first seed.

    Args:
        id: see `make`.
        seeds: one an env, in [0, 2^31).
        device: where the tensors go.

    Raises:
        ValueError: see `make`; and in `reset` and `step`, when the env returns an observation of another shape than
            its space says, or a NaN.
    """

    def __init__(self, *, id: str, seeds: Sequence[int], device: torch.device) -> None:
        self._id = id
        self._device = device
        self._episodes = [_Episode(_make_one(id), id, seed) for seed in seeds]
        self._seeded = False
        self._obs: Tensor | None = None
        self.num_envs = len(seeds)
        self.observation_space: gym.Space = self._episodes[0].env.observation_space
        self.action_space: gym.Space = self._episodes[0].env.action_space
        if not isinstance(self.observation_space, gym.spaces.Box | gym.spaces.Discrete):
            raise ValueError(
                f"env.id={id!r} has the observation space {self.observation_space}: valid are Box, Discrete"
            )
        if not isinstance(self.action_space, gym.spaces.Box | gym.spaces.Discrete):
            raise ValueError(f"env.id={id!r} has the action space {self.action_space}: valid are Box, Discrete")

    @property
    def obs(self) -> Tensor:
        assert self._obs is not None, "reset first"
        return self._obs

    def reset(self, *, reseed: bool = False) -> Tensor:
        seed = reseed or not self._seeded
        self._seeded = True
        self._obs = self._to_device([episode.begin(seed=seed) for episode in self._episodes])
        return self._obs

    def step(self, action: Tensor) -> Step:
        obs: list[np.ndarray] = []
        next_obs: list[np.ndarray] = []
        rewards: list[float] = []
        terminations: list[bool] = []
        truncations: list[bool] = []
        for episode, one in zip(self._episodes, self._to_numpy(action), strict=True):
            last_obs, reward, terminated, truncated = episode.step(one)
            next_obs.append(last_obs)
            obs.append(episode.begin() if terminated or truncated else last_obs)
            rewards.append(reward)
            terminations.append(terminated)
            truncations.append(truncated)
        self._obs = self._to_device(obs)
        ended = any(terminations) or any(truncations)
        next_obs_N = self._to_device(next_obs) if ended else self._obs
        return Step(
            self._obs,
            torch.tensor(rewards, dtype=torch.float32, device=self._device),
            torch.tensor(terminations, device=self._device),
            torch.tensor(truncations, device=self._device),
            next_obs_N,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"seeded": self._seeded, "episodes": [episode.state_dict() for episode in self._episodes]}

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        saved = state["episodes"]
        if len(saved) != self.num_envs:
            raise ValueError(f"saved with {len(saved)} envs on this worker, now there are {self.num_envs}")
        self._seeded = state["seeded"]
        replayed = [episode.replay(one) for episode, one in zip(self._episodes, saved, strict=True)]
        lost = [obs is None for obs in replayed]
        if any(lost):
            warnings.warn(
                f"env.id={self._id!r} is not deterministic, the same seed and actions led elsewhere in {sum(lost)} of "
                f"{self.num_envs} envs: there the run resumes at an episode boundary and is no longer exact",
                RuntimeWarning,
                stacklevel=2,
            )
        self._obs = self._to_device(
            [episode.begin() if obs is None else obs for episode, obs in zip(self._episodes, replayed, strict=True)]
        )
        return torch.tensor(lost, device=self._device)

    def _to_device(self, obs: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(obs)).to(self._device)

    def _to_numpy(self, action: Tensor) -> Any:
        if isinstance(self.action_space, gym.spaces.Discrete):
            return (action + int(self.action_space.start)).tolist()
        # A copy: neither the env nor the log of actions may share memory with the caller.
        return action.cpu().numpy().astype(self.action_space.dtype)


class _Episode:
    """One env, and what playing its current episode again takes."""

    def __init__(self, env: gym.Env, id: str, seed: int) -> None:
        self.env = env
        self._id = id
        self._seed = seed
        self._rng = ""  # JSON, when the episode began; empty: with a reset by the seed
        self._actions: list[Any] = []
        self._checksum = 0

    def begin(self, *, seed: bool = False) -> np.ndarray:
        self._rng = "" if seed else json.dumps(self._bit_generator().state, default=np.ndarray.tolist)
        obs = self._check(self.env.reset(seed=self._seed if seed else None)[0])
        self._actions = []
        self._checksum = zlib.crc32(obs.tobytes())
        return obs

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool]:
        raw_obs, raw_reward, terminated, truncated, _ = self.env.step(action)
        obs, reward = self._check(raw_obs), float(raw_reward)
        if reward != reward:
            raise ValueError(f"env.id={self._id!r} returned the reward NaN")
        self._actions.append(action)
        self._checksum = zlib.crc32(obs.tobytes() + struct.pack("d", reward), self._checksum)
        return obs, reward, bool(terminated), bool(truncated)

    def state_dict(self) -> dict[str, Any]:
        actions = torch.from_numpy(np.array(self._actions))
        return {"seed": self._seed, "rng": self._rng, "actions": actions, "checksum": self._checksum}

    def replay(self, state: Mapping[str, Any]) -> np.ndarray | None:
        """The current observation of a saved episode; None if the env does not do again what it did."""
        self._seed = state["seed"]
        obs = self.begin(seed=True)  # also brings back what the env seeds beside its np_random
        if state["rng"]:
            self._bit_generator().state = json.loads(state["rng"])
            obs = self.begin()
        ended = False
        actions = state["actions"].numpy()
        for action in actions.tolist() if actions.ndim == 1 and actions.dtype == np.int64 else actions:
            if ended:
                return None
            obs, _, terminated, truncated = self.step(action)
            ended = terminated or truncated
        return None if ended or self._checksum != state["checksum"] else obs

    def _bit_generator(self) -> np.random.BitGenerator:
        return self.env.unwrapped.np_random.bit_generator

    def _check(self, raw: Any) -> np.ndarray:
        """A copy, for envs that write to what they returned, in the dtype that `Envs` states; or ValueError."""
        space = self.env.observation_space
        if isinstance(space, gym.spaces.Discrete):
            obs = np.array(raw, dtype=np.int64) - int(space.start)
        else:
            obs = np.array(raw, dtype=np.uint8 if space.dtype == np.uint8 else np.float32)
            if obs.dtype == np.float32 and np.isnan(obs).any():
                raise ValueError(f"env.id={self._id!r} returned an observation with NaN: {raw}")
        if obs.shape != space.shape:
            raise ValueError(
                f"env.id={self._id!r} returned an observation of shape {obs.shape}, its space says {space.shape}"
            )
        return obs


def _make_one(id: str) -> gym.Env:
    try:
        return gym.make(id, disable_env_checker=True)
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"env.id={id!r} needs a package that is not installed: {error}") from None
    except (gym.error.UnregisteredEnv, ModuleNotFoundError) as error:
        near = difflib.get_close_matches(id, gym.registry, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`module:id` imports your own module first"
        raise ValueError(f"env.id={id!r} is not a gymnasium id ({error}); {hint}") from None
