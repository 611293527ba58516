"""PPO with a memory, and with a memory, masks and several heads at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import contract
import gymnasium as gym
import pytest
import torch
from contract import collect, gradients, train
from torch import Tensor

from trivium.agents.envs.classic_control import ClassicControl
from trivium.agents.envs.environment import make
from trivium.agents.ppo import PPO, Batch
from trivium.learner import Run

MEMORIES = ["lstm", "gru"]


def build(
    id: str = "Lasts-v0", *, memory: Any = "lstm", seed: int = 0, num_envs: int = 4, vector: Any = None, **keywords: Any
) -> PPO:
    settings = {"num_steps": 16, "minibatch_size": 32, "num_epochs": 2, "hidden": [16], "memory_size": 8}
    env = partial(make, id=id, num_envs=num_envs, **(vector or {}))
    return PPO(run=Run(seed=seed), env=env, memory=memory, **(settings | keywords))


def stirred(learner: PPO, gain: float = 3.0) -> PPO:
    """With larger weights: what is remembered shows in the policy and the value."""
    with torch.no_grad():
        learner.flat.theta.mul_(gain)
        learner.net.actor[-1].weight.mul_(30)
    return learner


def rollout_and_batch(learner: PPO) -> tuple[Any, Batch, Tensor]:
    """A rollout, what its updates would be of, and the memory's state before it."""
    collector = learner.collector
    state, begins = collector.state_NM, collector.begins_N
    rollout = collect(learner)
    args = (rollout, rollout.reward, state, begins, collector.in_progress)
    return rollout, learner._advantages(*args)[0], state


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("id", ["Lasts-v0", "CartPole-v1", "Recall-v0"])
def test_the_first_minibatch_finds_the_policy_that_acted(id: str, memory: str) -> None:
    """The replay from the stored state gives the same log-probabilities, across the ends of episodes, and goes on from
    one rollout to the next; a replay from a memory of nothing does not."""
    learner = stirred(build(id, memory=memory, num_epochs=1, minibatch_size=64))
    for _ in range(2):
        metrics = {name: value.item() for name, value in learner.step().items()}
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["clip_fraction"] == 0
        assert metrics["policy_loss"] == pytest.approx(0, abs=1e-5)

    rollout, batch, state = rollout_and_batch(learner)
    assert rollout.ended[:-1].any() or id == "CartPole-v1"
    with torch.no_grad():
        for index in (torch.arange(4), torch.tensor([2, 0])):
            minibatch = batch.take(index)
            policy, value, _ = learner.net(minibatch.obs, *minibatch.memory)
            log_prob, _ = policy.log_prob_and_entropy(minibatch.action)
            torch.testing.assert_close(log_prob, minibatch.log_prob, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(value, minibatch.value, rtol=1e-5, atol=1e-5)
        minibatch = batch.take(torch.arange(4))
        begins = minibatch.memory[1]
        for wrong in ((torch.zeros_like(state) + 0.5, begins), (state, torch.ones_like(begins))):
            log_prob, _ = learner.net(minibatch.obs, *wrong)[0].log_prob_and_entropy(minibatch.action)
            assert (log_prob - minibatch.log_prob).abs().max() > 1e-3


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_state_is_0_where_an_episode_begins_and_carried_on_elsewhere(memory: str) -> None:
    learner = stirred(build(memory=memory))
    for _ in range(2):
        state = learner.collector.state_NM
        rollout = collect(learner)
        after = rollout.kept[2]
        for t in range(16):
            expected = learner.net(rollout.obs[t], state)[2].detach()
            torch.testing.assert_close(after[t], expected)
            state = torch.where(rollout.ended[t].unsqueeze(1), 0.0, after[t])
        assert torch.equal(learner.collector.state_NM, state)
        assert torch.equal(learner.collector.begins_N, rollout.ended[-1])


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_truncated_episode_bootstraps_from_the_memory_s_own_next_state(memory: str) -> None:
    """Of Count episode 0 is terminated after 3 steps, episode 1 truncated; with lam 0 an advantage is an error of one
    step."""
    settings = {"num_envs": 1, "num_steps": 6, "minibatch_size": 6, "gamma": 0.5, "gae_lambda": 0.0}
    learner = stirred(build("Count-v0", memory=memory, **settings), gain=1.5)
    _, batch, _ = rollout_and_batch(learner)
    errors = []
    for episode in (0, 1):
        state, values = torch.zeros(1, learner.net.state_size), []
        for step in range(4):  # an episode of its own, its last observation included
            with torch.no_grad():
                _, value, state = learner.net(torch.tensor([[float(episode), step]]), state)
            values.append(value.item())
        if episode == 0:
            values[3] = 0.0
        errors += [10.0 * episode + t + 1 + 0.5 * values[t + 1] - values[t] for t in range(3)]
    assert batch.advantage.flatten().tolist() == pytest.approx(errors, rel=1e-4)
    with torch.no_grad():
        _, forgetful, _ = learner.net(torch.tensor([[1.0, 3.0]]), torch.zeros(1, learner.net.state_size))
    assert abs(forgetful.item() - values[3]) > 1e-2, "what was remembered matters"


def test_the_gradient_goes_through_time_and_not_through_the_ends_of_episodes() -> None:
    learner = stirred(build(num_envs=1, num_steps=6, minibatch_size=6))
    begins = torch.tensor([1, 0, 0, 1, 0, 0], dtype=torch.bool).unsqueeze(1)
    x = torch.randn(6, 1, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    memory = learner.net.memory
    assert memory is not None
    for t, expected in ((2, [1, 1, 1, 0, 0, 0]), (5, [0, 0, 0, 1, 1, 1])):
        (gradient,) = torch.autograd.grad(memory.sequence(x, torch.ones(1, 16), begins)[t].sum(), x)
        assert (gradient.flatten() != 0).tolist() == [bool(e) for e in expected]


@pytest.mark.parametrize("memory", MEMORIES)
def test_it_resumes_bit_for_bit(saved: Callable[[Any], Any], memory: str) -> None:
    contract.check_resumes(partial(build, memory=memory), saved)
    contract.check_resumes(partial(build, "Recall-v0", memory=memory), saved)


def test_evaluation_remembers_and_touches_nothing(saved: Callable[[Any], Any]) -> None:
    contract.check_evaluation(build, saved)


def test_minibatches_are_whole_rollouts_of_some_envs() -> None:
    with pytest.raises(ValueError, match=r"agent.num_steps=16 must divide agent.minibatch_size = 8, for agent.memory="):
        build(minibatch_size=8)
    learner = build(minibatch_size=16, num_epochs=1)
    seen, taken, updates = gradients(learner), [], learner._compiled_updates
    learner._compiled_updates = lambda batch, index, *args: (taken.append(index), updates(batch, index, *args))[1]
    learner.step()
    assert len(seen) == 4
    assert torch.cat(taken).sort(0).values.tolist() == [[0], [1], [2], [3]]


# what it learns


RECALL = {"num_envs": 16, "num_steps": 12, "minibatch_size": 96, "num_epochs": 4, "lr": 1e-2, "gamma": 0.9}


def recall(updates: int, **keywords: Any) -> float:
    learner = build("Recall-v0", **(RECALL | {"memory_size": 16, "hidden": [32]} | keywords))
    best = 0.0
    for _ in range(updates // 25):
        train(learner, 25)
        best = max(best, learner.evaluate(final=True)["return_mean"])
        if best > 0.95:
            break
    return best


@pytest.mark.parametrize("memory", MEMORIES)
def test_masks_a_memory_and_several_heads_together(memory: str) -> None:
    """The env refuses invalid actions, needs the memory, and has two heads."""
    assert recall(125, memory=memory) > 0.95


def test_masks_a_memory_and_several_heads_where_steps_are_dead() -> None:
    vector = {"vector": "sync", "vector_settings": {"autoreset_mode": "next_step"}}
    assert recall(150, memory="gru", vector=vector) > 0.95


def test_what_needs_a_memory_is_not_learnt_without() -> None:
    assert recall(50, memory=None) < 0.65


def no_velocities(*, run: Run, stream: str, num_envs: int = 16) -> ClassicControl:
    """CartPole, of which only the positions are seen."""
    envs = ClassicControl(id="CartPole-v1", num_envs=num_envs, seed=run.seed_for("env", stream), device=run.device)
    space = envs.observation_space
    assert isinstance(space, gym.spaces.Box)
    envs.observation_space = gym.spaces.Box(space.low[[0, 2]], space.high[[0, 2]])
    envs._task = envs._task._replace(observe=lambda state: state[:, [0, 2]].float())
    return envs


def cartpole(updates: int, memory: Any) -> float:
    learner = PPO(
        run=Run(), env=no_velocities, num_steps=64, minibatch_size=256, lr=3e-3, gamma=0.98, gae_lambda=0.9,
        hidden=[32], memory=memory, memory_size=32, normalize_observation=True, normalize_reward=True,
    )  # fmt: skip
    best = 0.0
    for _ in range(updates // 5):
        train(learner, 5)
        best = max(best, learner.evaluate()["return_mean"])
        if best == 500:
            break
    return best


def test_cartpole_without_velocities_is_learnt_with_a_memory() -> None:
    assert cartpole(50, "gru") > 475


@pytest.mark.slow
def test_cartpole_without_velocities_is_learnt_with_an_lstm() -> None:
    assert cartpole(100, "lstm") > 475


def test_cartpole_without_velocities_is_not_learnt_without_a_memory() -> None:
    assert cartpole(50, None) < 200
