"""Steps of vector envs that only begin an episode are no transitions: they have no weight in anything, and a memory
forgets what was seen before them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from contract import assert_equal_states, train
from playing import mode
from torch import Tensor

from trivium.agents.a2c import A2C
from trivium.agents.dqn import DQN
from trivium.agents.envs.environment import make
from trivium.agents.ppo import PPO, Batch
from trivium.agents.reinforce import REINFORCE
from trivium.agents.rollouts.collector import InProgress, Rollout
from trivium.learner import Run

NORMALISED = {"normalize_observation": True, "normalize_reward": True, "entropy_coef": 0.1}
OF_PPO = {"num_steps": 16, "minibatch_size": 32, "num_epochs": 2, "memory_size": 8, **NORMALISED}
OF_DQN = {"learning_starts": 32, "train_every_env_steps": 32, "buffer_size": 96, "gradient_steps": 4, "batch_size": 16}
LEARNERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (PPO, OF_PPO),
    "ppo-value-clip": (PPO, {**OF_PPO, "value_clip": 0.1, "normalize_advantage": False}),
    "ppo-lstm": (PPO, {**OF_PPO, "memory": "lstm"}),
    "ppo-gru": (PPO, {**OF_PPO, "memory": "gru"}),
    "a2c": (A2C, {"num_steps": 16, "normalize_advantage": True, **NORMALISED}),
    "a2c-plain": (A2C, {"num_steps": 16, "entropy_coef": 0.1}),
    "reinforce": (REINFORCE, {}),
    "dqn": (DQN, {**OF_DQN, "n_step": 3}),
    "prioritized": (DQN, {**OF_DQN, "n_step": 3, "prioritized": True, "double": True}),
}


def build(name: str, id: str = "Lasts-v0", autoreset_mode: str = "next_step", num_envs: int = 4, **other: Any) -> Any:
    agent, keywords = LEARNERS[name]
    env = partial(make, id=id, num_envs=num_envs, vector="sync", **mode(autoreset_mode))
    return agent(run=Run(), env=env, **{"hidden": [16], **keywords, **other})


def disturb(learner: Any) -> list[Tensor]:
    """Put anything at all in the place of what is dead in the rollouts from now on, but the end that it is a copy of;
    the list of what is live."""
    collect, generator, seen = learner.collector.collect, torch.Generator().manual_seed(0), []

    def disturbed(*noise: Tensor) -> Rollout:
        rollout = collect(*noise)
        seen.append(rollout.live)

        def other(x: Tensor) -> Tensor:
            dead = ~rollout.live.view(*rollout.live.shape, *[1] * (x.ndim - 2))
            anything = 1 - x if x.dtype == torch.int64 else 300 * torch.randn(x.shape, generator=generator)
            return torch.where(dead, anything, x)

        obs, reward, next_obs = other(rollout.obs), other(rollout.reward), other(rollout.next_obs)
        return rollout._replace(obs=obs, reward=reward, next_obs=next_obs, kept=tuple(map(other, rollout.kept)))

    learner.collector.collect = disturbed
    return seen


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_dead_may_be_anything(name: str) -> None:
    """Metrics, weights, statistics and priorities are the same bits."""
    learners = [build(name), build(name)]
    live = disturb(learners[1])
    metrics = [train(learner, 4) for learner in learners]
    assert not all(each.all() for each in live)
    assert str(metrics[0]) == str(metrics[1])
    states = [learner.state_dict() for learner in learners]
    rows = [state.pop("replay", None) for state in states]
    assert_equal_states(*states)
    assert name not in ("dqn", "prioritized") or not torch.equal(rows[0]["rows"]["obs"], rows[1]["rows"]["obs"])


def stirred(learner: Any) -> None:
    """With larger weights, so that what is remembered shows in the policy and the value."""
    with torch.no_grad():
        learner.flat.theta.mul_(3)
        learner.net.actor[-1].weight.mul_(30)


@pytest.mark.parametrize("name", ["ppo", "ppo-value-clip", "ppo-lstm", "ppo-gru"])
def test_ppo_s_gradient_is_that_of_the_live_transitions_alone(name: str) -> None:
    """All episodes of `Count` last 3 steps: every fourth row is dead in all envs, and can be left out."""
    learner = build(name, "Counts-v0")
    stirred(learner)
    collector = learner.collector
    state, begins = collector.state_NM, collector.begins_N
    rollout = collector.collect(learner.actions.noise(16, 4, learner.act_rng))
    assert rollout.live is not None
    live_T = rollout.live.all(1)
    assert live_T.tolist() == [True, True, True, False] * 4
    zero = torch.zeros(4)
    batch, metrics, _ = learner._advantages(rollout, rollout.reward, state, begins, InProgress(zero, zero))
    memory = (state, batch.memory[1][live_T]) if batch.memory else ()
    alone = Batch(*(x[live_T] for x in batch[:6]), live=None, memory=memory)
    values = alone.value, alone.return_
    assert metrics["explained_variance"].item() == pytest.approx(
        (1 - (values[1] - values[0]).var() / values[1].var()).item(), abs=1e-5
    )
    learner.flat.theta.mul_(1.3)  # another policy than the one that acted
    results = []
    for each in (batch, alone):
        index = torch.arange(4 if learner.net.memory is not None else each.value.numel())
        results.append(learner.flat.gradient(learner._loss, each.take(index), torch.tensor(0.02)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)
    assert (results[0][1][4:] > 0.001).all(), "KL and clip fraction"


@pytest.mark.parametrize("name", ["a2c", "a2c-plain"])
def test_a2c_s_gradient_is_that_of_the_live_transitions_alone(name: str) -> None:
    learner = build(name, "Counts-v0")
    rollout = learner.collector.collect(learner.actions.noise(16, 4, learner.act_rng))
    live_T = rollout.live.all(1)
    alone = Rollout(*(x[live_T] for x in rollout[:5]), (rollout.kept[0][live_T],))
    whole, part = (learner.flat.gradient(learner._loss, each, each.reward) for each in (rollout, alone))
    torch.testing.assert_close(whole[0], part[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole[1], part[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("name", ["ppo", "ppo-gru", "a2c"])
def test_where_nothing_is_live_nothing_is_learnt(name: str, num_steps: int) -> None:
    """Episodes of one step: every second one is dead in all envs. A minibatch is one env's, or of one transition."""
    size = {} if name == "a2c" else {"minibatch_size": num_steps if name == "ppo-gru" else 1}
    learner = build(name, "Constant-v0", num_steps=num_steps, num_envs=2, **size)
    losses = [metrics["loss"] for metrics in train(learner, 4)]
    assert learner.flat.theta.isfinite().all()
    if num_steps == 1:
        assert losses[1] == losses[3] == 0
        assert losses[0] != 0
        assert learner.normaliser.obs_moments.number == 2 * 2


# a memory


def states(learner: PPO) -> dict[tuple[int, ...], Tensor]:
    """Of rollouts of `Count`, where actions change nothing: by env, episode and step the state after it."""
    seen = {}
    for _ in range(3):
        rollout = learner.collector.collect(learner.actions.noise(16, 4, learner.act_rng))
        live = torch.ones_like(rollout.ended) if rollout.live is None else rollout.live
        for t, n in live.nonzero().tolist():
            seen[n, *rollout.obs[t, n].int().tolist()] = rollout.kept[2][t, n]
    return seen


@pytest.mark.parametrize("name", ["ppo-lstm", "ppo-gru"])
def test_a_memory_has_the_states_that_it_has_where_no_step_is_dead(name: str) -> None:
    learners = [build(name, "Counts-v0", each) for each in ("next_step", "same_step")]
    for learner in learners:
        stirred(learner)
    got, expected = map(states, learners)
    assert len(got) == 4 * 3 * 12
    for key, state in got.items():
        torch.testing.assert_close(state, expected[key])
    episode, *_ = [key[1] for key in got]
    assert (got[0, episode, 0] - got[0, episode, 1]).abs().max() > 1e-3, "it remembers"


@pytest.mark.parametrize("name", ["ppo-lstm", "ppo-gru"])
def test_the_first_minibatch_finds_the_policy_that_acted(name: str) -> None:
    """From the stored state, across the ends of episodes and of rollouts: the KL is 0."""
    learner = build(name, num_epochs=1, minibatch_size=64, normalize_observation=False)
    stirred(learner)
    for metrics in train(learner, 5):
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["clip_fraction"] == 0


@pytest.mark.parametrize("name", LEARNERS)
def test_it_resumes_with_new_episodes_and_the_same_bits_each_time(name: str, saved: Callable[[Any], Any]) -> None:
    first = build(name)
    train(first, 3)
    state = saved(first.state_dict())
    resumed = [build(name), build(name)]
    train(resumed[1], 1)  # whatever it was before is forgotten
    metrics = []
    for learner in resumed:
        learner.load_state_dict(state)
        assert learner.collector.begins_N.all()
        assert not learner.collector.state_NM.any()
        assert not learner.collector.in_progress.return_N.any()
        metrics.append(train(learner, 3))
    assert str(metrics[0]) == str(metrics[1])
    assert_equal_states(saved(resumed[0].state_dict()), saved(resumed[1].state_dict()))
