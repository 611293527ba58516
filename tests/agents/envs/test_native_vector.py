from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from trivium.agents.envs import native_vector  # noqa: F401  registers the ids
from trivium.agents.envs.classic_control import TASKS
from trivium.agents.envs.environment import make
from trivium.learner import Run


def make_vec(id: str, **settings: Any) -> gym.vector.VectorEnv:
    return gym.make_vec(f"trivium/{id}", **settings)


@pytest.mark.parametrize("id", [id for id in TASKS if not id.startswith("trivium/")])
def test_it_is_what_gymnasium_makes_of_the_same_id(id: str) -> None:
    envs, own = make_vec(id, num_envs=3), gym.make_vec(id, num_envs=3, vectorization_mode="sync")
    for name in ("single_observation_space", "single_action_space", "observation_space", "action_space", "num_envs"):
        assert getattr(envs, name) == getattr(own, name), name
    obs, info = envs.reset(seed=1)
    assert obs in envs.observation_space
    assert info == {}
    envs.action_space.seed(0)
    for _ in range(30):
        obs, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert obs in envs.observation_space
        assert (reward.shape, reward.dtype, terminated.dtype, truncated.dtype) == ((3,), np.float32, bool, bool)
    assert type(gym.make(f"trivium/{id}").unwrapped) is type(gym.make(id).unwrapped)


def test_seeds_last_observations_and_the_limit() -> None:
    envs = make_vec("Pendulum-v1", num_envs=2, max_episode_steps=3)
    first, _ = envs.reset(seed=[5, 6])
    assert np.array_equal(envs.reset(seed=5)[0], first)
    assert not np.array_equal(envs.reset()[0], first)
    for t in range(1, 7):
        obs, _, _, truncated, info = envs.step(np.zeros((2, 1), np.float32))
        assert truncated.tolist() == info["_final_obs"].tolist() == [t % 3 == 0] * 2
        assert np.array_equal(info["final_obs"], obs) == (t % 3 != 0)


def test_tensors() -> None:
    envs = make_vec("CartPole-v1", num_envs=2, tensors=True, device="cpu")
    obs, _ = envs.reset(seed=0)
    obs, reward, terminated, _, info = envs.step(torch.tensor([0, 1]))
    assert all(isinstance(each, torch.Tensor) for each in (obs, reward, terminated, info["final_obs"]))


def test_an_agent_sees_the_same_transitions_by_either_way() -> None:
    ids = ["CartPole-v1", "trivium/CartPole-v1"]
    keywords: list[dict[str, Any]] = [{}, {"vector": "own"}]
    native, own = (
        make(id=id, num_envs=3, run=Run(seed=0), stream="train", **each) for id, each in zip(ids, keywords, strict=True)
    )
    native.reset()
    own.reset()
    native.load_state_dict(own.vector._envs.state_dict())  # type: ignore[attr-defined]
    for t in range(40):
        action = torch.tensor([t % 2, 1, 0])
        a, b = native.step(action), own.step(action)
        assert b.live is None
        assert all(torch.equal(x, y) for x, y in zip(a[:5], b[:5], strict=True))
