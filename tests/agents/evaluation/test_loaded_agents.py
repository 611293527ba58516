"""What `trivium.load` gives of an agent: a policy without envs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import trivium
from trivium.agents.evaluation.spaces import absent_env, from_json, to_json
from trivium.config.errors import ConfigError
from trivium.learner import Run

TINY = {"tracking.wandb": False, "threads": 1, "budget.env_steps": None, "budget.updates": 2}
PPO = {"agent.num_steps": 16, "agent.minibatch_size": 64, "env.num_envs": 4, "agent.test_episodes": 2}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (3,), np.float32),
        spaces.Box(0, 255, (4, 4, 1), np.uint8),
        spaces.Box(np.array([-1.0, 0.1], np.float32), np.array([1.0, np.inf], np.float32)),
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary((2, 2)),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2)))}),
    ],
)
def test_spaces_survive_json(space: gym.Space) -> None:
    assert from_json(json.loads(json.dumps(to_json(space), allow_nan=False))) == space


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        {"kind": "Graph"},
        {"kind": "Discrete", "n": -1, "start": 0},
        {"kind": "Box", "shape": [10**9], "dtype": "float32", "low": "0", "high": "1"},
        {"kind": "Box", "shape": [1], "dtype": "object", "low": "0", "high": "1"},
    ],
)
def test_what_a_stranger_wrote_is_no_space(content: Any) -> None:
    with pytest.raises(ValueError, match="no space"):
        from_json(content)
    with pytest.raises(ValueError, match="no space"):
        absent_env({"num_envs": 1, "observation": content, "action": content})
    with pytest.raises(ValueError, match="num_envs=0"):
        absent_env({"num_envs": 0, "observation": to_json(spaces.Discrete(2)), "action": to_json(spaces.Discrete(2))})


def test_absent_envs_take_no_step() -> None:
    both = {"observation": to_json(spaces.Box(0, 1, (3,))), "action": to_json(spaces.Discrete(2))}
    envs = absent_env({"num_envs": 5, **both})(run=Run(), stream="train")
    assert envs.reset().shape == (5, 3)
    with pytest.raises(RuntimeError, match="no envs"):
        envs.step(envs.obs)


@pytest.mark.parametrize(
    "typed",
    [
        {"experiment": "ppo_cartpole", **PPO, "agent.memory": "lstm", "agent.normalize_observation": True},
        {"experiment": "dqn_cartpole", "agent.test_episodes": 2},
    ],
    ids=["ppo with a memory and a normaliser", "dqn"],
)
def test_a_loaded_agent_acts_as_the_trained_one(
    typed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trivium.train(typed, TINY, dir=tmp_path / "run", quiet=True)
    monkeypatch.setattr("trivium.agents.envs.environment.make", lambda **_: pytest.fail("an env was made"))
    monkeypatch.setattr(gym, "make", lambda *_, **__: pytest.fail("an env was made"))
    model = trivium.load(tmp_path / "run", checkpoint=run.checkpoint)
    assert model.abilities == ("act",)
    policy = run.learner.policy()  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    observations = [rng.normal(size=4).astype(np.float32) for _ in range(30)]
    actions = [model.act(one) for one in observations]
    assert actions == [policy.act(one) for one in observations]
    assert all(spaces.Discrete(2).contains(action) for action in actions)
    if "memory" in str(typed):
        state = model._policy._state_1M  # type: ignore[union-attr]
        assert state.abs().sum() > 0
        model.reset()
        assert model._policy._state_1M.abs().sum() == 0  # type: ignore[union-attr]
        assert len({model.act(observations[0], deterministic=False) for _ in range(50)}) == 2
    else:
        with pytest.raises(ValueError, match="always does what it thinks best"):
            model.act(observations[0], deterministic=False)
    with pytest.raises(TypeError, match="can't predict; it can act"):
        model.predict(np.zeros((1, 4)))


class Counting(gym.Env[np.ndarray, int]):
    observation_space = spaces.Box(0, 10, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.full(1, self.t, np.float32), float(action), self.t == 5, False, {}


def test_an_env_class_is_handed_over_and_asked_for_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trivium.train("experiment=ppo_cartpole", TINY, PPO, dir=folder, env=Counting, quiet=True)
    with pytest.raises(ConfigError, match="env: this run was given Counting"):
        trivium.resume(folder, {"budget.updates": 3}, quiet=True)
    resumed = trivium.resume(folder, {"budget.updates": 3}, env=Counting, quiet=True)
    assert resumed.updates == 3
    assert resumed.metrics["test/length_mean"] == 5
    assert trivium.load(folder).act(np.zeros(1, np.float32)) in (0, 1)
    assert "FromPython/Counting-v0" not in gym.registry
