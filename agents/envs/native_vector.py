"""The native envs as vector envs of gymnasium's API, for those who train with something else. Importing registers them:

    envs = gymnasium.make_vec("trivium.agents.envs.native_vector:trivium/CartPole-v1", num_envs=4096)
    envs = gymnasium.make_vec("trivium/CartPole-v1", num_envs=65536, device="cuda", tensors=True)

`gymnasium.make` makes gymnasium's own of these ids.

Shapes: N envs.
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from trivium.agents.envs.classic_control import ClassicControl
from trivium.agents.envs.registration import PIXELS


class NativeVectorEnv(gym.vector.VectorEnv):
    """A vector env that resets in the same step: `info["final_obs"]`, [N, ...], holds the last observations of the
    episodes that ended, where `info["_final_obs"]`, bool [N], says so.

    Args:
        id: one of `classic_control.TASKS`.
        num_envs: N.
        max_episode_steps: episodes are truncated after so many; None: as gymnasium's own.
        device: where the envs live, as torch names it.
        tensors: take and return tensors on that device, which nothing leaves; else NumPy arrays.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012  as in gymnasium

    def __init__(
        self,
        id: str,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        device: str = "cpu",
        tensors: bool = False,
    ) -> None:
        self._native = functools.partial(
            ClassicControl, id=id, num_envs=num_envs, device=torch.device(device), max_steps=max_episode_steps
        )
        self._envs = self._native(seed=int(np.random.default_rng().integers(2**31)))
        self._device = torch.device(device)
        self._tensors = tensors
        self.num_envs = num_envs
        self.single_observation_space = self._envs.observation_space
        self.single_action_space = self._envs.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode in every env. Of a list of seeds the first counts: all envs draw from one generator."""
        if seed is not None:
            self._envs = self._native(seed=seed if isinstance(seed, int) else seed[0])
        return self._out(self._envs.reset()), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        step = self._envs.step(torch.as_tensor(actions, device=self._device))
        ended = step.terminated | step.truncated
        info = {"final_obs": self._out(step.next_obs), "_final_obs": self._out(ended)}
        out = (step.obs, step.reward, step.terminated, step.truncated)
        obs, reward, terminated, truncated = map(self._out, out)
        return obs, reward, terminated, truncated, info

    def _out(self, tensor: Tensor) -> Any:
        return tensor if self._tensors else tensor.cpu().numpy()


class NativeEnv(gym.Env):
    """One native env, for what needs a single one, such as `trivium play`: of those that gymnasium has not itself.

    Args:
        id: one of `classic_control.TASKS` whose observations are pictures, [K, H, W]; the last one is shown.
        render_mode: `rgb_array` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012  as in gymnasium

    def __init__(self, id: str, render_mode: str | None = None) -> None:
        self._id = id
        self.render_mode = render_mode
        self._envs = self._begun(0)
        self.observation_space = self._envs.observation_space
        self.action_space = self._envs.action_space

    def _begun(self, seed: int) -> ClassicControl:
        return ClassicControl(id=self._id, num_envs=1, seed=seed, device=torch.device("cpu"))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._envs = self._begun(int(self.np_random.integers(2**31)))
        self._seen = self._envs.reset()[0].numpy()
        return self._seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        step = self._envs.step(torch.as_tensor(action).unsqueeze(0))
        self._seen = step.next_obs[0].numpy()
        return self._seen, step.reward.item(), bool(step.terminated), bool(step.truncated), {}

    def render(self) -> Any:
        return np.repeat(np.kron(self._seen[-1], np.ones((8, 8), np.uint8))[..., None], 3, 2)


Acrobot = functools.partial(NativeVectorEnv, "Acrobot-v1")
CartPole = functools.partial(NativeVectorEnv, "CartPole-v1")
MountainCar = functools.partial(NativeVectorEnv, "MountainCar-v0")
MountainCarContinuous = functools.partial(NativeVectorEnv, "MountainCarContinuous-v0")
Pendulum = functools.partial(NativeVectorEnv, "Pendulum-v1")
CartPolePixels = functools.partial(NativeVectorEnv, PIXELS)
SingleCartPolePixels = functools.partial(NativeEnv, PIXELS)
