"""Every agent in every kind of env, killed by SIGKILL at random moments, ends with the bits of a run never killed."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
from killing import assert_same_bits, finish

pytestmark = pytest.mark.kill

SMALL = [
    "threads=1",
    "tracking.wandb=false",
    "log.every_updates=3",
    "evaluation.every_updates=7",
    "checkpoint.every_updates=2",
    "agent.eval_episodes=2",
    "agent.test_episodes=2",
    "agent.max_eval_steps=60",
    "env.num_envs=4",
    "monitor.metric=eval/return_mean",
    "monitor.mode=max",
]
ON_POLICY = ["agent.num_steps=32", "budget.updates=16"]
AGENTS = {
    "ppo": ["agent=ppo", *ON_POLICY, "agent.minibatch_size=64"],
    "ppo-memory": ["agent=ppo", *ON_POLICY, "agent.minibatch_size=64", "agent.memory=gru"],
    "a2c": ["agent=a2c", *ON_POLICY],
    "reinforce": ["agent=reinforce", "budget.updates=10", "agent.max_steps=200"],
    "dqn": ["agent=dqn", "budget.updates=24", "agent.learning_starts=64", "agent.train_every_env_steps=32"],
    "rainbow": [
        "agent=dqn",
        "budget.updates=24",
        "agent.learning_starts=64",
        "agent.train_every_env_steps=32",
        "agent.buffer_size=256",
        *(f"agent.{part}=true" for part in ("double", "dueling", "prioritized", "noisy", "categorical")),
        "agent.n_step=3",
        "agent.v_min=0",
        "agent.v_max=100",
    ],
}
NORMALISED = ["agent.normalize_observation=true", "agent.normalize_reward=true"]
ENVS = {
    "native": ["env.id=CartPole-v1"],
    "one-by-one": ["env.id=CartPole-v1", "env.native=false"],
    "sync": ["env.id=CartPole-v1", "env.vector=sync"],
    "async": ["env.id=CartPole-v1", "env.vector=async"],
    "lunarlander": ["env.id=LunarLander-v3"],
    "masks": ["env.id=Taxi-v3"],
    "continuous": ["env.id=Pendulum-v1"],
}
QUICK = [("reinforce", "one-by-one"), ("rainbow", "sync")]  # PPO in a native env is in tests/platform/training
ALL = [
    (agent, env)
    for agent in AGENTS
    for env in ENVS
    if not (env == "continuous" and agent in ("dqn", "rainbow")) and not (env == "lunarlander" and "rain" in agent)
]


def cases() -> list[object]:
    slow = [pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK]
    return [pytest.param(*case) for case in QUICK] + slow


@pytest.mark.parametrize(("agent", "env"), cases())
def test_killed_at_random_moments(agent: str, env: str, tmp_path: Path) -> None:
    overrides = ["env=gymnasium", *AGENTS[agent], *ENVS[env], *SMALL, f"name={agent}"]
    if agent.startswith(("ppo", "a2c")) and env != "masks":
        overrides += NORMALISED
    whole, folder, moments, kills = tmp_path / "whole", tmp_path / "killed", random.Random(agent + env), 0
    assert finish(overrides, whole) == 0
    training_s = json.loads((whole / "result.json").read_text())["elapsed_s"]
    if env == "one-by-one":  # in a rollout for certain
        at = ("trivium.agents.envs.gym_envs", "GymEnvs.step", 181)
        assert finish(overrides, folder, kill_at=at) == -signal.SIGKILL
    for _ in range(8):
        moment = 0.01 + moments.uniform(0, 0.6) * training_s
        code = finish(overrides, folder, kill_at=("trivium.training.loop", "Loop.train", moment))
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if code == 0 or kills == 2:
            break
    assert kills
    assert finish(overrides, folder) == 0
    assert_same_bits(folder, whole)
