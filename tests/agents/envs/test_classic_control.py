from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from trivium.agents.envs.classic_control import TASKS, ClassicControl, wrapped

CPU = torch.device("cpu")


def build(id: str, num_envs: int) -> ClassicControl:
    return ClassicControl(id=id, num_envs=num_envs, seed=0, device=CPU)


def balance(state: np.ndarray) -> int:
    x, x_dot, theta, theta_dot = state
    return int(theta + 0.3 * theta_dot + 0.02 * x + 0.05 * x_dot > 0)


# A policy that ends the task, and the tolerance of the next state, absolute and relative. Gymnasium computes in
# float64 in another order, and rounds MountainCarContinuous's state to float32 at each step.
TASK: dict[str, tuple[Callable[[np.ndarray], Any], float]] = {
    "CartPole-v1": (balance, 1e-14),
    "Acrobot-v1": (lambda state: int(state[3] > 0) * 2, 1e-12),
    "MountainCar-v0": (lambda state: int(state[1] > 0) * 2, 1e-15),
    "MountainCarContinuous-v0": (lambda state: np.array([0.8 if state[1] > 0 else -0.9], np.float32), 2e-7),
    "Pendulum-v1": (lambda state: np.array([2.0 if state[1] > 0 else -2.0], np.float32), 1e-14),
}


def rollouts(id: str, episodes: int) -> dict[str, np.ndarray]:
    """Transitions of whole episodes of gymnasium's env: in every third the policy above acts, in every third a random
    action a step, and else the policy or a random action by turns."""
    env, rng = gym.make(id), np.random.default_rng(0)
    inner: Any = env.unwrapped
    env.action_space.seed(0)
    rows = []
    for episode in range(episodes):
        env.reset(seed=episode)
        ended, t = False, 0
        while not ended:
            state = np.array(inner.state, np.float64)
            random = episode % 3 == 1 or (episode % 3 == 2 and rng.random() < 0.5)
            action = env.action_space.sample() if random else TASK[id][0](state)
            obs, reward, terminated, truncated, _ = env.step(action)
            rows.append((state, t, action, np.array(inner.state, np.float64), obs, reward, terminated, truncated))
            ended, t = terminated or truncated, t + 1
    names = ("state", "t", "action", "next_state", "next_obs", "reward", "terminated", "truncated")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


@pytest.mark.parametrize("id", TASK)
def test_steps_as_gymnasium(id: str) -> None:
    """Each transition of 30 whole episodes, from the same state with the same action."""
    expected = rollouts(id, 30)
    assert len(expected["t"]) > 1500
    assert expected["truncated"].any()
    assert expected["terminated"].any() or id == "Pendulum-v1"
    envs = build(id, len(expected["t"]))
    state, t = torch.tensor(expected["state"]), torch.tensor(expected["t"])
    envs.load_state_dict(envs.state_dict() | {"state": state, "steps": t})
    action = torch.tensor(expected["action"])

    tolerance = TASK[id][1]
    next_state = TASKS[id].dynamics(state, action)[0]
    np.testing.assert_allclose(next_state.numpy(), expected["next_state"], rtol=tolerance, atol=tolerance)
    step = envs.step(action)
    np.testing.assert_allclose(step.next_obs.numpy(), expected["next_obs"], rtol=2e-7, atol=max(tolerance, 1e-12))
    np.testing.assert_allclose(step.reward.numpy(), expected["reward"], rtol=2e-7, atol=1e-8)
    assert np.array_equal(step.terminated.numpy(), expected["terminated"])
    assert np.array_equal(step.truncated.numpy(), expected["truncated"])


@pytest.mark.parametrize(
    ("id", "bound"),
    [
        ("CartPole-v1", [2.5, 1.0, 0.25, 1.0]),
        ("Acrobot-v1", [math.pi, math.pi, 4 * math.pi, 9 * math.pi]),
        ("MountainCar-v0", [0.6, 0.07]),
        ("MountainCarContinuous-v0", [0.6, 0.07]),
    ],
)
def test_ends_where_gymnasium_does(id: str, bound: list[float]) -> None:
    """From states all over the space: how close to its border a task ends, few episodes tell."""
    env, rng = gym.make(id), np.random.default_rng(0)
    inner: Any = env.unwrapped
    states = rng.uniform(-1, 1, (4000, len(bound))) * bound
    action = env.action_space.sample()
    expected = []
    env.reset()
    for state in states:
        inner.state, inner.steps_beyond_terminated = state, None
        _, reward, terminated, _, _ = inner.step(action)
        expected.append((inner.state, reward, terminated))
    next_state, reward, terminated = (np.array(column) for column in zip(*expected, strict=True))
    ours = TASKS[id].dynamics(torch.tensor(states), torch.tensor(action).expand(4000, *np.shape(action)))
    tolerance = TASK[id][1]
    np.testing.assert_allclose(ours[0].numpy(), next_state, rtol=tolerance, atol=10 * tolerance)
    np.testing.assert_allclose(ours[1].numpy(), reward, rtol=2e-7)
    assert np.array_equal(ours[2].numpy(), terminated)
    assert 10 < terminated.sum() < 3990


@pytest.mark.parametrize("id", TASK)
def test_spaces_and_first_states_are_those_of_gymnasium(id: str) -> None:
    reference = gym.make(id)
    envs = build(id, 2000)
    assert envs.observation_space == reference.observation_space
    assert envs.action_space == reference.action_space
    assert TASKS[id].max_steps == reference.spec.max_episode_steps  # type: ignore[union-attr]
    ours = envs.reset()
    assert ours.dtype == torch.float32
    theirs = torch.from_numpy(np.stack([reference.reset(seed=seed)[0] for seed in range(2000)]))
    torch.testing.assert_close(ours.amin(0), theirs.amin(0), rtol=0, atol=0.01)
    torch.testing.assert_close(ours.amax(0), theirs.amax(0), rtol=0, atol=0.01)
    error = theirs.std(0) / 2000**0.5
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 5 * error).all()


@pytest.mark.parametrize("id", TASK)
def test_an_ended_episode_is_followed_by_a_new_one_in_the_same_step(id: str) -> None:
    envs, generator = build(id, 16), torch.Generator().manual_seed(0)
    obs, t = envs.reset(), torch.zeros(16, dtype=torch.int64)
    ends = 0
    for _ in range(TASKS[id].max_steps + 5):
        if TASKS[id].num_actions:
            action = torch.randint(TASKS[id].num_actions, (16,), generator=generator)
        else:
            action = (2 * torch.rand(16, 1, generator=generator) - 1) * TASKS[id].max_action
        before, state = obs.clone(), envs.state_dict()["state"]
        step = envs.step(action)
        last_state, reward, terminated = TASKS[id].dynamics(state, action)
        t += 1
        ended = terminated | (t >= TASKS[id].max_steps)
        assert torch.equal(step.reward, reward.float())
        assert torch.equal(step.terminated | step.truncated, ended)
        assert torch.equal(step.next_obs, TASKS[id].observe(last_state)), "the episode's own last observation"
        assert torch.equal(step.obs[~ended], step.next_obs[~ended])
        first = envs.state_dict()["state"][ended]
        assert (first >= torch.tensor(TASKS[id].first_low)).all()
        assert (first <= torch.tensor(TASKS[id].first_high)).all()
        assert len(first.unique(dim=0)) == len(first)
        assert torch.equal(step.obs, envs.obs)
        assert torch.equal(obs, before), "what was returned is not written to"
        obs, ends = step.obs, ends + int(ended.sum())
        t[ended] = 0
    assert ends >= 16


def test_wrapped() -> None:
    angle: Tensor = torch.tensor([0.0, 1.0, -3.0, 4.0, 2 * math.pi + 1, -20 * math.pi - 1], dtype=torch.float64)
    expected = torch.tensor([0.0, 1.0, -3.0, 4 - 2 * math.pi, 1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(wrapped(angle), expected, rtol=0, atol=1e-14)
