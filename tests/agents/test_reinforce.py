from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from contract import assert_equal_states, gradients, train
from forked import spawn
from torch import Tensor

from trivium.agents.envs.environment import make
from trivium.agents.reinforce import REINFORCE, first_episodes, returns_to_go
from trivium.agents.rollouts.collector import BLOCK, Rollout
from trivium.learner import Run


def build(
    id: str = "CartPole-v1", *, seed: int = 0, num_envs: int = 4, run: Run | None = None, **keywords: Any
) -> REINFORCE:
    env = partial(make, id=id, num_envs=num_envs)
    return REINFORCE(run=run or Run(seed=seed), env=env, **({"hidden": [16]} | keywords))


def by_name(learner: REINFORCE, gradient_P: Tensor) -> dict[str, Tensor]:
    """The parts of a gradient that belong to the parameters."""
    named = [(name, p) for name, p in learner.net.named_parameters() if p.requires_grad]
    parts = gradient_P.split([p.numel() for _, p in named])
    return {name: part.view_as(p) for (name, p), part in zip(named, parts, strict=True)}


def losses(learner: REINFORCE) -> list[tuple[Rollout, Tensor, Tensor, Tensor]]:
    """The list to which every update from now on adds what its loss is of: rollout, returns, advantages, weights."""
    seen, loss = [], learner._loss
    learner._loss = lambda theta, *args: (seen.append(args), loss(theta, *args))[1]  # type: ignore[method-assign]
    return seen


# returns and episodes


@pytest.mark.parametrize(("bootstrap", "expected"), [(0.0, [1.5, 1, 1]), (4.0, [2.5, 3, 1])])
def test_returns_to_go_by_hand(bootstrap: float, expected: list[float]) -> None:
    reward, ended = torch.ones(3, 1), torch.tensor([[False], [True], [False]])
    values = torch.tensor([[9.0], [bootstrap], [9.0]])
    assert returns_to_go(reward, values, ended, gamma=0.5).flatten().tolist() == expected


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_returns_to_go_equal_the_definition(gamma: float) -> None:
    """In float64, over random ends of episodes."""
    generator = torch.Generator().manual_seed(0)
    reward, bootstrap = torch.randn(2, 50, 6, generator=generator)
    ended = torch.rand(50, 6, generator=generator) < 0.15
    result = returns_to_go(reward, bootstrap, ended, gamma=gamma)
    following = torch.zeros(6, dtype=torch.float64)
    for t in reversed(range(50)):
        following = reward[t].double() + gamma * torch.where(ended[t], bootstrap[t].double(), following)
        torch.testing.assert_close(result[t].double(), following, rtol=1e-5, atol=1e-5)


def test_first_episodes_by_hand() -> None:
    ended = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.bool)
    expected = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
    assert torch.equal(first_episodes(ended), expected)


def test_an_update_is_one_whole_episode_of_each_env() -> None:
    settings = {"baseline": False, "gamma": 1.0, "normalize_advantage": False}
    learner, env_steps = build("Lasts-v0", num_envs=20, **settings), 0
    seen = losses(learner)
    for _ in range(2):
        metrics = learner.step()
        rollout, return_B, _, weight_B = seen.pop()
        steps = len(rollout.reward)
        returns, whole = return_B.view(steps, 20), (weight_B > 0).view(steps, 20)
        lengths = rollout.obs[0].flatten()  # an episode lasts as many steps as it observes
        assert torch.equal(whole.sum(0), lengths), "short or long, each counts, from its first step on"
        assert lengths.min() < lengths.max() <= steps < lengths.max() + BLOCK, "not much longer than the longest takes"
        torch.testing.assert_close(weight_B, whole.flatten() / whole.sum())
        remaining = lengths - torch.arange(steps).unsqueeze(1)
        assert torch.equal(returns * whole, remaining * whole)
        assert metrics["episode_length"] == metrics["episode_return"] == lengths.mean()
        env_steps += steps * 20
    assert learner.counters() == {"env_steps": env_steps}, "also those that are thrown away"


def test_an_episode_that_lasts_too_long_is_truncated_whatever_its_length() -> None:
    """Leaving it out would prefer the short ones, and where none ends nothing would be learnt."""
    learner = build("Lasts-v0", num_envs=20, max_steps=5, gamma=0.5)
    seen, before = losses(learner), copy.deepcopy(learner.net)
    metrics = learner.step()
    rollout, return_B, _, weight = seen[0]
    lengths = rollout.obs.view(5, 20)[0]
    with torch.no_grad():
        value_N = before(rollout.obs[0])[1]
    assert {float(length) for length in lengths} >= {3.0, 7.0}, "some are shorter, some longer"
    assert torch.equal((weight > 0).view(5, 20).sum(0), lengths.clamp(max=5))
    assert metrics["episode_length"] == lengths.clamp(max=5).mean()
    long = lengths > 5  # it observes its length only: the last observation is the first one
    torch.testing.assert_close(return_B.view(5, 20)[4, long], 1 + 0.5 * value_N[long])
    assert return_B.view(5, 20)[4, lengths == 5].tolist() == [1.0] * int((lengths == 5).sum())


@pytest.mark.parametrize("baseline", [True, False])
def test_where_no_episode_ends_it_learns_and_says_so_once(baseline: bool, caplog: pytest.LogCaptureFixture) -> None:
    learner = build("Endless-v0", num_envs=8, max_steps=4, gamma=0.5, lr=0.05, baseline=baseline)
    metrics = train(learner, 30)
    assert metrics[0]["episode_length"] == 4
    assert metrics[-1]["episode_return"] > 3.5, "of actions that are rewarded, four in an episode"
    (told,) = [record.getMessage() for record in caplog.records]
    assert "agent.max_steps=4: 8 of 8 episodes" in told
    assert learner.evaluation.max_steps == 100_000
    if baseline:
        assert values(learner, 0.0).item() == pytest.approx(2, abs=0.3), "1 / (1 - gamma), not that of four steps"


def first_returns(learner: REINFORCE) -> Tensor:
    """float32 [T, N], of the first update; 0 for steps that do not count."""
    seen = losses(learner)
    learner.step()
    rollout, return_B, _, weight_B = seen[0]
    return return_B.masked_fill(weight_B == 0, 0.0).view_as(rollout.reward)


def test_a_truncated_episode_bootstraps_with_a_baseline_only() -> None:
    # an episode of 8 steps with reward 1, truncated
    with_baseline, without = build("Forever-v0", gamma=0.5), build("Forever-v0", gamma=0.5, baseline=False)
    value = with_baseline.net(torch.zeros(1, 1))[1].item()
    for learner, expected in ((with_baseline, 1 + 0.5 * value), (without, 1.0)):
        assert first_returns(learner)[7].tolist() == pytest.approx([expected] * 4)
    lasts = build("Lasts-v0", gamma=0.5)
    with torch.no_grad():
        lasts.net.critic[-1].bias.fill_(100.0)
    assert first_returns(lasts).max() < 2, "a terminated one never does"


# the update


@pytest.mark.parametrize("baseline", [False, True])
def test_the_gradient_is_the_analytic_one_and_a_baseline_does_not_bias_it(baseline: bool) -> None:
    """A bandit with two arms, rewards +1 and -1, and one parameter vector of logits z. With p = softmax(z) the expected
    return is J = p1 - p0, and dJ/dz1 = -dJ/dz0 = p1 (1 - J) = 2 p0 p1."""
    learner = build(
        *("Choose-v0",), num_envs=4000, hidden=[], lr=1e-12, baseline=baseline, value_coef=0.0, max_grad_norm=math.inf,
        normalize_advantage=False,
    )  # fmt: skip
    head = learner.net.actor[0]
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.4, -0.4]))
        learner.net.critic[0].bias.fill_(0.7)  # any baseline, also a wrong one
    seen = gradients(learner)
    learner.step()
    p0, p1 = head.bias.detach().softmax(0).tolist()
    error = (1.7**2 if baseline else 1.0) ** 0.5 / 2 / 4000**0.5
    assert by_name(learner, seen[0])["actor.0.bias"].tolist() == pytest.approx(
        [2 * p0 * p1, -2 * p0 * p1], abs=4 * error
    )


def test_a_baseline_lowers_the_variance() -> None:
    """Here of the right value: with rewards 1 more, only the baseline makes the gradient a small one."""
    norms = []
    for value in (0.0, 1.0):
        learner = build("Constant-v0", num_envs=8, hidden=[], normalize_advantage=False)
        with torch.no_grad():
            learner.net.critic[0].bias.fill_(value)
        norms.append(abs(train(learner, 1)[0]["value_loss"]))
    assert norms == [1, 0]


def test_the_loss_by_hand() -> None:
    """Two envs with episodes of different length: the mean over the steps that count, and over them alone."""
    keywords = {"num_envs": 6, "gamma": 0.5, "value_coef": 0.25, "entropy_coef": 0.1, "normalize_advantage": False}
    learner = build("Lasts-v0", max_grad_norm=math.inf, **keywords)
    net, seen, used = copy.deepcopy(learner.net), gradients(learner), losses(learner)
    metrics = train(learner, 1)[0]
    rollout, returns, _, weight = used[0]
    obs, action, keep = rollout.obs.flatten(0, 1), rollout.kept[0].flatten(), weight > 0
    assert torch.equal(keep, first_episodes(rollout.ended).flatten())
    assert 0 < keep.sum() < len(keep)
    policy, value, _ = net(obs)
    log_prob = policy.logits_BS.log_softmax(1)[keep]
    value, target = value[keep], returns[keep]
    chosen = log_prob[torch.arange(len(log_prob)), action[keep]]
    entropy = -(log_prob.exp() * log_prob).sum(1)
    loss = (-chosen * (target - value).detach() + 0.25 * (target - value) ** 2 - 0.1 * entropy).mean()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-6)


def test_normalised_advantages_are_those_of_the_steps_that_count() -> None:
    learner = build("Lasts-v0", num_envs=10)
    seen = losses(learner)
    learner.step()
    _, _, advantage, weight = seen[0]
    assert (weight == 0).any()
    normalized = advantage[weight > 0]
    assert normalized.mean().item() == pytest.approx(0, abs=1e-5)
    assert normalized.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_it_is_a_learner() -> None:
    names = {"loss", "policy_loss", "entropy", "grad_norm", "lr", "episode_return", "episode_length"}
    contract.check_metrics(build, names | {"value_loss"})
    contract.check_metrics(partial(build, baseline=False), names)
    assert all(not parameter.requires_grad for parameter in build(baseline=False).net.critic.parameters())


def test_lr_reaches_its_end() -> None:
    learner = build("Forever-v0", lr=0.1, lr_anneal_env_steps=64)
    assert [m["lr"] for m in train(learner, 2)] == pytest.approx([0.1, 0.05])
    before = copy.deepcopy(learner.net.state_dict())
    assert learner.step()["lr"].item() == 0
    assert_equal_states(learner.net.state_dict(), before)


def test_what_is_wrong_is_named() -> None:
    for keywords, message in (
        ({"gamma": 1.5}, r"gamma=1.5: must be a number >= 0 and <= 1"),
        ({"max_steps": 0}, "max_steps=0: must be an integer >= 1"),
        ({"id": "Words-v0"}, "env.id='Words-v0': the observation space Text"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**keywords)  # type: ignore[arg-type]


def test_the_yaml_mirrors_the_constructor() -> None:
    contract.check_yaml("agent/reinforce", REINFORCE)


# what it learns


def probe(id: str, updates: int, **keywords: Any) -> REINFORCE:
    settings = {"num_envs": 32, "lr": 1e-2, "gamma": 0.5}
    learner = build(id, **(settings | keywords))
    train(learner, updates)
    return learner


def values(learner: REINFORCE, *obs: float) -> Tensor:
    with torch.no_grad():
        return learner.net(torch.tensor(obs).unsqueeze(1))[1]


def test_probe_1_a_constant_value() -> None:
    torch.testing.assert_close(values(probe("Constant-v0", 100), 0.0), torch.tensor([1.0]), rtol=0, atol=0.1)


def test_probe_2_a_value_of_the_observation() -> None:
    expected = torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(values(probe("Predict-v0", 100), -1.0, 1.0), expected, rtol=0, atol=0.1)


def test_probe_3_a_discounted_value() -> None:
    torch.testing.assert_close(values(probe("Delay-v0", 100), 0.0, 1.0), torch.tensor([0.5, 1.0]), rtol=0, atol=0.1)


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_probe_5_an_action_that_depends_on_the_observation(baseline: bool, normalize: bool) -> None:
    learner = probe("Match-v0", 100, baseline=baseline, normalize_advantage=normalize)
    assert learner.evaluate(final=True)["return_mean"] == 1


def test_continuous_actions() -> None:
    assert probe("Reach-v0", 100, log_std=-2.5).evaluate(final=True)["return_mean"] > -0.01


def test_a_time_limit_is_not_an_end() -> None:
    """Reward 1 for ever is worth 1 / (1 - gamma) = 2, though every episode is cut after 8 steps."""
    assert values(probe("Forever-v0", 100, num_envs=4), 0.0).item() == pytest.approx(2, abs=0.1)


# resuming, determinism, evaluation


@pytest.mark.parametrize(
    ("id", "keywords"),
    [
        ("CartPole-v1", {"lr_anneal_env_steps": 1000}),
        ("CartPole-v1", {"baseline": False}),
        ("Drift-v0", {}),
        ("Identity-v0", {"entropy_coef": 0.01}),
    ],
)
def test_resumes_bit_for_bit(saved: Callable[[Any], Any], id: str, keywords: dict[str, Any]) -> None:
    contract.check_resumes(partial(build, id, **keywords), saved)


@pytest.mark.parametrize("id", ["CartPole-v1", "Reach-v0"])
def test_equal_seeds_give_equal_weights(id: str) -> None:
    contract.check_seeds(partial(build, id))


@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluation_touches_nothing_and_repeats_itself(saved: Callable[[Any], Any], deterministic: bool) -> None:
    contract.check_evaluation(partial(build, "Drift-v0", eval_deterministic=deterministic), saved)


def test_half_precision_trains() -> None:
    for metrics in train(build(run=Run(precision="bf16")), 2):
        assert math.isfinite(metrics["loss"])


def test_two_workers_with_episodes_of_different_lengths(tmp_path: Path) -> None:
    """Without a baseline: some parameters get no gradient."""
    spawn(contract.work, (str(tmp_path), partial(build, baseline=False, eval_episodes=3)), nprocs=2)
    contract.check_workers(tmp_path)


def test_workers_together_have_the_gradient_of_one_with_all_their_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over all steps, however many each worker holds: here 3 and 5 episodes, in two threads."""
    whole = build("Lasts-v0", num_envs=8, max_grad_norm=math.inf)
    rollout, expected = whole._collect(), gradients(whole)
    whole._collect = lambda: rollout  # type: ignore[method-assign]
    whole.step()

    sent, barrier = [torch.zeros(()), torch.zeros(())], threading.Barrier(2)

    def all_reduce(run: Run, x: Tensor) -> Tensor:
        sent[run.rank] = x
        barrier.wait(timeout=20)
        total = sent[0] + sent[1]
        barrier.wait(timeout=20)
        return total

    def work(rank: int) -> tuple[Tensor, Tensor]:
        learner = build("Lasts-v0", num_envs=8, max_grad_norm=math.inf)
        learner.run = Run(rank=rank, world_size=2)
        part = [slice(3), slice(3, 8)][rank]
        own = Rollout(*(column[:, part] for column in rollout[:5]), (rollout.kept[0][:, part],))
        learner._collect = lambda: own  # type: ignore[method-assign]
        averaged, alone, gradient = gradients(learner), [], learner.flat.gradient
        learner.flat.gradient = lambda *args: (alone.append(found := gradient(*args)), found)[1]  # type: ignore
        learner.step()
        return alone[0][0], averaged[0]

    monkeypatch.setattr(Run, "sum", all_reduce)
    with ThreadPoolExecutor(2) as threads:
        (first, both), (second, both_too) = threads.map(work, range(2))
    assert not torch.allclose(first, second, rtol=1e-2)
    assert torch.equal(both, both_too)
    torch.testing.assert_close((first + second) / 2, expected[0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(both, expected[0], rtol=1e-4, atol=1e-7)


def test_an_entropy_bonus_does_not_widen_a_squashed_gaussian_for_ever() -> None:
    contract.check_entropy_bonus(build, updates=60)
