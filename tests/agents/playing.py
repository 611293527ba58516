"""Playing in envs, for tests of what makes and steps them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from trivium.agents.envs.protocol import Envs, Step


def act(envs: Envs, generator: torch.Generator) -> Tensor:
    if isinstance(envs.action_space, gym.spaces.Discrete):
        return torch.randint(int(envs.action_space.n), (envs.num_envs,), generator=generator)
    return torch.rand(envs.num_envs, *envs.action_space.shape, generator=generator) * 2 - 1


def assert_same(first: list[Step], second: list[Step]) -> None:
    for a, b in zip(first, second, strict=True):
        assert a.live is None
        assert b.live is None
        assert all(torch.equal(x, y) for x, y in zip(a[:5], b[:5], strict=True))


def play(envs: Envs, steps: int, generator: torch.Generator) -> list[Step]:
    return [envs.step(act(envs, generator)) for _ in range(steps)]


def mode(name: str) -> dict[str, Any]:
    return {"vector_settings": {"autoreset_mode": name}}
