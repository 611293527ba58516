from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import contract
import gymnasium as gym
import numpy as np
import pytest
import torch

from trivium.agents.envs.environment import make
from trivium.agents.networks.actor_critic import Encoder
from trivium.agents.networks.normalise import Moments, Normaliser, merged
from trivium.agents.ppo import PPO
from trivium.agents.rollouts.collector import Rollout
from trivium.learner import Run


def empty(*shape: int) -> Moments:
    zero = torch.zeros(shape, dtype=torch.float64)
    return Moments(torch.zeros((), dtype=torch.float64), zero, zero)


BOX = gym.spaces.Box(-1, 1, (2,))


def build(num_envs: int = 2, space: gym.Space = BOX, observations: bool = True, rewards: bool = True) -> Normaliser:
    encoder = Encoder(space, normalized=observations, generator=torch.Generator())
    return Normaliser(run=Run(), encoder=encoder, num_envs=num_envs, rewards=rewards, gamma=0.5)


def encoded(normaliser: Normaliser, obs_TN2: torch.Tensor) -> torch.Tensor:
    return normaliser.encoder(obs_TN2.flatten(0, 1)).view_as(obs_TN2)


def rollout(
    reward_TN: torch.Tensor, obs_TN2: torch.Tensor | None = None, live: torch.Tensor | None = None, ends: bool = True
) -> Rollout:
    obs = torch.zeros(*reward_TN.shape, 2) if obs_TN2 is None else obs_TN2
    ended = torch.full(reward_TN.shape, ends)
    return Rollout(obs, reward_TN, ended, ended, obs, (), live)


def observe(normaliser: Normaliser, obs_TN2: torch.Tensor) -> None:
    normaliser.observe(rollout(obs_TN2[..., 0], obs_TN2))


def test_merged_by_hand() -> None:
    first = merged(empty(1), torch.tensor([[0.0], [2.0]]), Run())
    assert (first.number.item(), first.mean.item(), first.var.item()) == (2, 1, 1)
    second = merged(first, torch.tensor([[4.0]]), Run())
    assert (second.number.item(), second.mean.item()) == (3, 2)
    assert second.var.item() == pytest.approx(8 / 3)


def test_merged_equals_the_moments_of_everything_far_from_0() -> None:
    x = 1e4 + torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    moments = empty(3)
    for batch in x.split(77):
        moments = merged(moments, batch, Run())
    torch.testing.assert_close(moments.mean, x.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(moments.var, x.double().var(0, correction=0), rtol=1e-7, atol=0)


def test_merged_takes_the_batches_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The all-reduce adds what the other worker would send."""
    here, there = torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0], [7.0], [9.0]])
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(Run, "sum", lambda self, x: (sent.append(x), x)[1])
    merged(empty(1), there, Run())
    monkeypatch.setattr(Run, "sum", lambda self, x: x + sent[0])
    both = merged(empty(1), here, Run())
    assert (both.number.item(), both.mean.item()) == (5, 5)
    assert both.var.item() == pytest.approx((16 + 9 + 1 + 4 + 16) / 5)


def test_observations_get_mean_0_and_deviation_1_from_the_next_rollout_on() -> None:
    normaliser = build()
    obs = torch.tensor([[1.0, -2.0], [3.0, 0.0]]).expand(50, 2, 2)
    assert torch.equal(encoded(normaliser, obs), obs)
    observe(normaliser, obs)
    torch.testing.assert_close(normaliser.encoder(obs[0]), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert normaliser.encoder(torch.tensor([[1e9, -1e9]])).tolist() == [[10, -10]]


def test_rewards_are_scaled_and_not_shifted() -> None:
    normaliser = build()
    reward = torch.tensor([[1.0, 3.0], [0.0, 5.0]])
    # the sums are the rewards: variance ((1.25)^2 + .75^2 + 2.25^2 + 2.75^2) / 4
    std = torch.tensor([1.0, 3.0, 0.0, 5.0]).std(correction=0)
    torch.testing.assert_close(normaliser.reward(rollout(reward)), reward / std)
    assert normaliser.reward(rollout(torch.full((1, 2), 1e9))).max() <= 10


def test_statistics_are_of_what_is_live() -> None:
    live = torch.tensor([[True, True], [True, False]])
    normaliser = build()
    reward = torch.tensor([[1.0, 3.0], [0.0, 500.0]])
    obs = torch.tensor([[[1.0, -2.0], [3.0, 0.0]], [[2.0, -1.0], [99.0, 99.0]]])
    std = torch.tensor([1.0, 3.0, 0.0]).std(correction=0)
    torch.testing.assert_close(normaliser.reward(rollout(reward, obs, live))[live], (reward / std)[live])
    normaliser.observe(rollout(reward, obs, live))
    assert normaliser.obs_moments.number == normaliser.return_moments.number == 3
    assert normaliser.obs_moments.mean.tolist() == [2, -1]
    before = normaliser.state_dict()
    nothing = torch.zeros_like(live)
    normaliser.observe(rollout(reward, obs, nothing))
    normaliser.reward(rollout(reward, obs, nothing))
    contract.assert_equal_states(normaliser.state_dict(), before)


def test_what_is_off_passes_unchanged() -> None:
    normaliser = build(observations=False, rewards=False)
    x = torch.full((1, 2, 2), 99.0)
    observe(normaliser, x)
    assert torch.equal(encoded(normaliser, x), x)
    assert normaliser.reward(rollout(x[..., 0])).max() == 99


def test_state(saved: Callable[[Any], Any]) -> None:
    first, generator = build(), torch.Generator().manual_seed(0)

    def go_on(normaliser: Normaliser, x: torch.Tensor) -> torch.Tensor:
        reward = normaliser.reward(rollout(x[..., 0], ends=False))
        observe(normaliser, x)
        return torch.cat((encoded(normaliser, x).flatten(), reward.flatten()))

    go_on(first, torch.randn(4, 2, 2, generator=generator))
    state, net = saved(first.state_dict()), saved(first.encoder.state_dict())
    x = torch.randn(4, 2, 2, generator=generator)
    weights, second, anew = build(num_envs=5), build(), build()
    for other in (weights, second, anew):
        other.encoder.load_state_dict(net)
    assert torch.equal(encoded(weights, x), encoded(first, x)), "in evaluation, by the network alone"
    second.load_state_dict(state, torch.zeros(2, dtype=torch.bool))
    anew.load_state_dict(state, torch.tensor([True, False]))
    assert (anew.return_N == 0).tolist() == [True, False]
    assert torch.equal(go_on(second, x), go_on(first, x))


def test_spaces_without_a_mean_are_refused() -> None:
    for space in (gym.spaces.Discrete(3), gym.spaces.Box(0, 255, (4,), np.uint8)):
        with pytest.raises(ValueError, match=r"normalize_observation=true.*no part .* is a Box of floats: \w+\("):
            build(space=space)
        build(space=space, observations=False)


def ppo(id: str = "Pendulum-v1", *, seed: int = 0, num_epochs: int = 2, **keywords: Any) -> PPO:
    settings = {"num_steps": 16, "minibatch_size": 64, "normalize_observation": True, "normalize_reward": True}
    env = partial(make, id=id, num_envs=4)
    return PPO(run=Run(seed=seed), env=env, num_epochs=num_epochs, hidden=[16], **(settings | keywords))


def test_ppo_keeps_its_promises(saved: Callable[[Any], Any]) -> None:
    contract.check_resumes(ppo, saved)
    contract.check_evaluation(partial(ppo, "Drift-v0"), saved)
    contract.check_normalised_evaluation(ppo)


def test_ppo_learns_from_what_its_policy_saw() -> None:
    contract.check_learns_from_what_its_policy_saw(ppo)
    learner = ppo(num_epochs=1)
    for metrics in contract.train(learner, 3):
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert learner.normaliser.obs_moments.number == 3 * 64
    seen = contract.features(learner)
    learner.step()
    obs = seen[16]
    assert obs.abs().max() < 10
    assert obs.std(0).tolist() == pytest.approx([1.0] * 3, abs=0.5), "the velocity's own deviation is far from 1"
