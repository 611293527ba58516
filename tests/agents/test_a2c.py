from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from contract import assert_equal_states, collect, gradients, train
from forked import spawn
from torch import Tensor

from trivium.agents import a2c
from trivium.agents.a2c import A2C, policy_gradient_loss
from trivium.agents.envs.environment import make
from trivium.agents.returns import gae
from trivium.learner import Run


def build(id: str = "CartPole-v1", *, seed: int = 0, num_envs: int = 4, run: Run | None = None, **keywords: Any) -> A2C:
    env = partial(make, id=id, num_envs=num_envs)
    return A2C(run=run or Run(seed=seed), env=env, **({"hidden": [16]} | keywords))


# losses and the update


def test_the_policy_s_loss_by_hand() -> None:
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = policy_gradient_loss(log_prob, torch.tensor([3.0, -1.0]))
    assert loss.tolist() == [3, -2]
    loss.mean().backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [-1.5, 0.5]


def test_it_is_a_learner_and_counts_every_step() -> None:
    names = {"loss", "policy_loss", "value_loss", "entropy", "grad_norm", "explained_variance", "lr"}
    contract.check_metrics(build, names | {"episode_return", "episode_length"})
    learner = build(num_envs=4, num_steps=7)
    train(learner, 3)
    assert learner.counters() == {"env_steps": 3 * 4 * 7}


def test_the_update_is_a_step_down_the_gradient_of_the_loss_written_out() -> None:
    """One update against the n-step returns by hand: 3 steps, an env whose episode is terminated after them."""
    keywords = {"num_envs": 1, "num_steps": 3, "gamma": 0.5, "value_coef": 0.25, "entropy_coef": 0.1}
    learner = build("Count-v0", max_grad_norm=math.inf, **keywords)
    net, seen = copy.deepcopy(learner.net), gradients(learner)
    noise = learner.actions.noise(3, 1, learner.act_rng.clone_state())
    learner.step()

    obs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    policy, value, _ = net(obs)
    log_prob = policy.logits_BS.log_softmax(1)
    action = policy.sample(noise.squeeze(1))
    target = torch.tensor([1 + 0.5 * (2 + 0.5 * 3), 2 + 0.5 * 3, 3.0])
    entropy = -(log_prob.exp() * log_prob).sum(1)
    chosen = log_prob[torch.arange(3), action]
    loss = -(chosen * (target - value).detach()) + 0.25 * (target - value) ** 2 - 0.1 * entropy
    loss.mean().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-6)


def test_a_truncated_step_bootstraps_from_the_episode_s_own_last_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, seen = build("Count-v0", num_envs=1, num_steps=6), []
    monkeypatch.setattr(a2c, "gae", lambda *args, **keywords: (seen.append(args), gae(*args, **keywords))[1])
    net = copy.deepcopy(learner.net)
    learner.step()
    reward, value, next_value, terminated, ended = seen[0]
    acted_on = torch.tensor([[0.0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])
    torch.testing.assert_close(value.flatten(), net(acted_on)[1].detach())
    assert reward.flatten().tolist() == [1, 2, 3, 11, 12, 13]
    assert terminated.flatten().tolist() == [False, False, True, False, False, False]
    assert ended.flatten().tolist() == [False, False, True, False, False, True]
    led_to = torch.tensor([[0.0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [1, 3]])
    torch.testing.assert_close(next_value.flatten(), net(led_to)[1].detach())


def test_episode_metrics_are_those_of_whole_episodes() -> None:
    learner = build("Count-v0", num_envs=2, num_steps=4, normalize_reward=True)
    metrics = train(learner, 3)
    assert [m["episode_return"] for m in metrics] == [6, 36, (66 + 96) / 2]
    assert [m["episode_length"] for m in metrics] == [3, 3, 3]
    assert math.isnan(train(build("Count-v0", num_steps=2), 1)[0]["episode_return"])


def test_gradients_are_clipped_by_their_global_norm() -> None:
    learner = build(max_grad_norm=0.01)
    seen = gradients(learner)
    assert learner.step()["grad_norm"] > 0.01
    assert seen[0].norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_lr_reaches_its_end(optimizer: str) -> None:
    learner = build(optimizer=optimizer, lr=0.1, lr_anneal_env_steps=40, num_steps=5)
    assert [m["lr"] for m in train(learner, 2)] == pytest.approx([0.1, 0.05])
    before = copy.deepcopy(learner.net.state_dict())
    assert learner.step()["lr"].item() == 0
    assert_equal_states(learner.net.state_dict(), before)


def test_normalised_advantages_and_log_std() -> None:
    learner = build("Reach-v0", num_envs=32, num_steps=1, normalize_advantage=True, log_std=-1.0)
    assert learner.net.log_std_A is not None
    assert learner.net.log_std_A.tolist() == [-1]
    rollout = collect(learner)
    learner.collector.collect = lambda *noise: rollout  # type: ignore[method-assign]
    with torch.no_grad():
        policy, value, _ = learner.net(rollout.obs.flatten(0, 1))
        log_prob, _ = policy.log_prob_and_entropy(rollout.kept[0].flatten(0, 1))
    advantage = rollout.reward.flatten() - value
    advantage = (advantage - advantage.mean()) / advantage.std()
    assert learner.step()["policy_loss"].item() == pytest.approx(-(log_prob * advantage).mean().item(), abs=1e-6)


def test_it_learns_from_what_its_policy_saw() -> None:
    contract.check_learns_from_what_its_policy_saw(partial(build, "Pendulum-v1", normalize_observation=True))


def test_what_is_wrong_is_named() -> None:
    for keywords, message in (
        ({"gamma": 1.5}, r"gamma=1.5: must be a number >= 0 and <= 1"),
        ({"optimizer": "sgd"}, "optimizer=sgd: must be one of rmsprop, adam"),
        ({"id": "Identity-v0", "normalize_observation": True}, "no part of the observation is a Box of floats"),
        ({"id": "Words-v0"}, "env.id='Words-v0': the observation space Text"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**keywords)  # type: ignore[arg-type]


def test_the_yaml_mirrors_the_constructor() -> None:
    contract.check_yaml("agent/a2c", A2C)


# what it learns


def probe(id: str, updates: int, **keywords: Any) -> A2C:
    settings = {"num_envs": 16, "num_steps": 4, "lr": 1e-2, "gamma": 0.5}
    learner = build(id, **(settings | keywords))
    train(learner, updates)
    return learner


def values(learner: A2C, *obs: float) -> Tensor:
    with torch.no_grad():
        return learner.net(torch.tensor(obs).unsqueeze(1))[1]


def test_probe_1_a_constant_value() -> None:
    torch.testing.assert_close(values(probe("Constant-v0", 80), 0.0), torch.tensor([1.0]), rtol=0, atol=0.1)


def test_probe_2_a_value_of_the_observation() -> None:
    torch.testing.assert_close(values(probe("Predict-v0", 80), -1.0, 1.0), torch.tensor([-1.0, 1.0]), rtol=0, atol=0.1)


def test_probe_3_a_discounted_value() -> None:
    torch.testing.assert_close(values(probe("Delay-v0", 80), 0.0, 1.0), torch.tensor([0.5, 1.0]), rtol=0, atol=0.1)


def test_probe_4_a_better_action() -> None:
    learner = probe("Choose-v0", 80)
    assert learner.evaluate()["return_mean"] == 1
    assert learner.net(torch.zeros(1, 1))[0].logits_BS.softmax(-1)[0, 1] > 0.9


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_probe_5_an_action_that_depends_on_the_observation(optimizer: str) -> None:
    learner = probe("Match-v0", 100, optimizer=optimizer)
    assert learner.evaluate(final=True)["return_mean"] == 1
    torch.testing.assert_close(values(learner, -1.0, 1.0), torch.tensor([1.0, 1.0]), rtol=0, atol=0.2)


@pytest.mark.parametrize("normalize", [False, True])
def test_continuous_actions(normalize: bool) -> None:
    learner = probe("Reach-v0", 200, lr=3e-3, log_std=-2.5, normalize_observation=normalize, normalize_reward=normalize)
    assert learner.evaluate(final=True)["return_mean"] > -0.01


def test_a_time_limit_is_not_an_end() -> None:
    """Reward 1 for ever is worth 1 / (1 - gamma) = 5, though every episode is cut after 8 steps."""
    learner = probe("Forever-v0", 200, gamma=0.8)
    assert values(learner, 0.0).item() == pytest.approx(5, abs=0.5)


# resuming, determinism, evaluation


@pytest.mark.parametrize(
    ("id", "keywords"),
    [
        ("CartPole-v1", {"lr_anneal_env_steps": 300}),
        ("Pendulum-v1", {"normalize_observation": True, "normalize_reward": True, "optimizer": "adam"}),
        ("Drift-v0", {"normalize_observation": True, "normalize_advantage": True}),
        ("Identity-v0", {"normalize_reward": True}),
    ],
)
def test_resumes_bit_for_bit(saved: Callable[[Any], Any], id: str, keywords: dict[str, Any]) -> None:
    contract.check_resumes(partial(build, id, **keywords), saved)


@pytest.mark.parametrize("id", ["CartPole-v1", "Reach-v0"])
def test_equal_seeds_give_equal_weights(id: str) -> None:
    contract.check_seeds(partial(build, id))


@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluation_touches_nothing_and_repeats_itself(saved: Callable[[Any], Any], deterministic: bool) -> None:
    keywords = {"eval_deterministic": deterministic, "normalize_observation": True, "normalize_reward": True}
    contract.check_evaluation(partial(build, "Drift-v0", **keywords), saved)
    contract.check_normalised_evaluation(partial(build, "Pendulum-v1", **keywords))


def test_half_precision_trains() -> None:
    for metrics in train(build(run=Run(precision="bf16")), 2):
        assert math.isfinite(metrics["loss"])


def test_two_workers(tmp_path: Path) -> None:
    two = partial(build, "Pendulum-v1", normalize_observation=True, normalize_reward=True, eval_episodes=3)
    spawn(contract.work, (str(tmp_path), two), nprocs=2)
    first, second = contract.check_workers(tmp_path)
    assert first["whole"]["collector"]["env_steps"] == 2 * 4 * 5
    for statistics in ("obs", "return"):
        assert first["whole"]["normaliser"][statistics]["number"] == 40
        assert_equal_states(first["whole"]["normaliser"][statistics], second["whole"]["normaliser"][statistics])


def test_an_entropy_bonus_does_not_widen_a_squashed_gaussian_for_ever() -> None:
    contract.check_entropy_bonus(build, updates=60)
