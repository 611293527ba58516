"""What every agent must learn in every kind of action space that it serves: to repeat what it sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from trivium.agents.a2c import A2C
from trivium.agents.dqn import DQN
from trivium.agents.envs.environment import make
from trivium.agents.ppo import PPO
from trivium.agents.reinforce import REINFORCE
from trivium.learner import Run

Agent = Callable[..., Any]

# The keywords, the number of envs and of updates, with which each learns.
AGENTS: dict[Agent, tuple[dict[str, Any], int, int]] = {
    PPO: ({"num_steps": 16, "minibatch_size": 64, "num_epochs": 4}, 8, 40),
    A2C: ({"num_steps": 5}, 16, 100),
    REINFORCE: ({}, 16, 40),
    DQN: (
        {
            "batch_size": 32,
            "learning_starts": 64,
            "buffer_size": 1000,
            "target_update_every_env_steps": 32,
            "epsilon_anneal_env_steps": 300,
        },
        8,
        60,
    ),
}
SPACES = {"Discrete": 20.0, "MultiDiscrete": 20.0, "MultiBinary": 20.0, "Box": -0.6}
APPLIES = [(agent, space) for agent in AGENTS for space in SPACES if agent is not DQN or space == "Discrete"]


def learnt(agent: Agent, id: str, **keywords: Any) -> dict[str, float]:
    settings, num_envs, updates = AGENTS[agent]
    env = partial(make, id=id, num_envs=num_envs)
    learner = agent(run=Run(), env=env, lr=1e-2, gamma=0.0, hidden=[32], **settings, **keywords)
    for _ in range(updates):
        learner.step()
    result: dict[str, float] = learner.evaluate(final=True)
    return result


@pytest.mark.parametrize(("agent", "space"), APPLIES, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_identity(agent: Agent, space: str) -> None:
    keywords = {"log_std": -1.0} if space == "Box" else {}
    assert learnt(agent, f"Echo{space}-v0", **keywords)["return_mean"] >= SPACES[space]


@pytest.mark.parametrize("keywords", [{"std": "state"}, {"squash": True}, {"std": "state", "squash": True}], ids=str)
def test_identity_with_other_gaussians(keywords: dict[str, Any]) -> None:
    assert learnt(PPO, "EchoBox-v0", log_std=-1.0, **keywords)["return_mean"] >= SPACES["Box"]


@pytest.mark.parametrize(
    ("agent", "source"),
    [*((agent, "info") for agent in AGENTS), (A2C, "method"), (A2C, "key")],  # agents do not know where masks come from
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_masked_identity(agent: Agent, source: str) -> None:
    """The env refuses invalid actions: not one may be tried, in training or evaluation."""
    assert learnt(agent, f"Masked-{source}-v0")["return_min"] == 10


def test_dqn_refuses_what_it_cannot_serve() -> None:
    for space in ("MultiDiscrete", "MultiBinary", "Box"):
        with pytest.raises(ValueError, match=f"DQN needs an env with Discrete actions.*{space}"):
            learnt(DQN, f"Echo{space}-v0")
