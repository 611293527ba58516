"""Spaces that are rare but allowed: every agent learns, evaluates and resumes in them, or refuses them in a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_envs
from contract import train
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from trivium.agents.a2c import A2C
from trivium.agents.dqn import DQN
from trivium.agents.envs.environment import make
from trivium.agents.ppo import PPO
from trivium.agents.reinforce import REINFORCE
from trivium.learner import Run

AGENTS: dict[Callable[..., Any], dict[str, Any]] = {
    PPO: {"num_steps": 4, "minibatch_size": 8, "normalize_observation": True},
    A2C: {"num_steps": 4},
    REINFORCE: {},
    DQN: {"batch_size": 4, "learning_starts": 8, "buffer_size": 16, "train_every_env_steps": 2},
}
SPACES = {
    "scalar": Box(-1, 1, (), np.float32),
    "scalar of float64": Box(-1, 1, (), np.float64),
    "scalar in a dict": Dict({"a": Box(-1, 1, (), np.float32), "b": Box(-1, 1, (2,), np.float32)}),
    "scalar in a tuple": Tuple([Box(-1, 1, (), np.float32), Discrete(2)]),
    "none in a dict": Dict({"a": Box(-1, 1, (0,), np.float32), "b": Box(-1, 1, (2,), np.float32)}),
    "bytes": Dict({"a": Box(0, 255, (), np.uint8), "b": Box(-1, 1, (1,), np.float32)}),
}


@pytest.fixture
def odd() -> Iterator[Callable[[gym.Space], str]]:
    """Makes an id of an env with this observation space."""

    def register(space: gym.Space) -> str:
        gym.register("Odd-v0", entry_point=partial(tiny_envs.Odd, space))
        return "Odd-v0"

    yield register
    gym.registry.pop("Odd-v0", None)


def build(agent: Callable[..., Any], id: str, **of_env: Any) -> Any:
    env = partial(make, id=id, num_envs=2, **of_env)
    return agent(run=Run(), env=env, hidden=[4], eval_episodes=2, **AGENTS[agent])


@pytest.mark.parametrize("vector", [None, "sync"])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.__name__)
def test_every_agent_learns_in_it(
    agent: Callable[..., Any], name: str, vector: Any, odd: Callable[..., str], saved: Any
) -> None:
    id = odd(SPACES[name])
    learner = build(agent, id, vector=vector)
    train(learner, 2)
    assert learner.evaluate()["return_mean"] == 3
    other = build(agent, id, vector=vector)
    other.load_state_dict(saved(learner.state_dict()))
    assert str(train(other, 1)) == str(train(learner, 1))


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.__name__)
def test_an_observation_of_no_numbers_is_refused_by_every_agent(
    agent: Callable[..., Any], odd: Callable[..., str]
) -> None:
    with pytest.raises(ValueError, match=r"the observation space .* holds no numbers"):
        build(agent, odd(Box(-1, 1, (0,), np.float32)))


def test_actions_of_no_numbers_are_refused() -> None:
    class Idle(tiny_envs.Tiny):
        action_space = Box(-1, 1, (0,), np.float32)

    gym.register("Idle-v0", entry_point=Idle)
    try:
        with pytest.raises(ValueError, match=r"^env.id='Idle-v0': the action space .* holds no numbers"):
            make(id="Idle-v0", num_envs=1, run=Run(), stream="train")
    finally:
        del gym.registry["Idle-v0"]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.__name__)
def test_every_agent_can_be_told_where_the_channels_are(agent: Callable[..., Any], odd: Callable[..., str]) -> None:
    id = odd(Box(0, 255, (9, 9, 9), np.uint8))
    with pytest.raises(ValueError, match=r"agent.channels=first"):
        build(agent, id)
    env = partial(make, id=id, num_envs=2)
    for channels in ("first", "last"):
        keywords = {**AGENTS[agent], "images": "impala", "channels": channels}
        keywords.pop("normalize_observation", None)
        learner = agent(run=Run(), env=env, hidden=[4], **keywords)
        assert learner.net.encoder.axes == {0: channels}
