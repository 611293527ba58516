from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import contract
import pytest
import torch
import torch.distributed as dist
from contract import CONFIGS, assert_equal_states, collect, gradients, train
from forked import spawn
from omegaconf import OmegaConf
from torch import Tensor

from trivium.agents import ppo
from trivium.agents.envs.environment import make
from trivium.agents.ppo import (
    PPO,
    Batch,
    approx_kl,
    clip_fraction,
    clipped_surrogate_loss,
    clipped_value_loss,
    normalized,
)
from trivium.agents.returns import squared_error
from trivium.learner import Learner, Run


def build(id: str = "CartPole-v1", *, seed: int = 0, num_envs: int = 4, run: Run | None = None, **keywords: Any) -> PPO:
    env = partial(make, id=id, num_envs=num_envs)
    settings = {"num_steps": 16, "minibatch_size": 32, "num_epochs": 2, "hidden": [16]}
    return PPO(run=run or Run(seed=seed), env=env, **(settings | keywords))


def advantages(learner: PPO) -> Batch:
    """A rollout, and what its updates would be of."""
    collector = learner.collector
    before = (collector.state_NM, collector.begins_N)
    rollout = collect(learner)
    batch, *_ = learner._advantages(rollout, rollout.reward, *before, collector.in_progress)
    return batch


# losses


def test_clipped_surrogate_loss_by_hand() -> None:
    # min(r A, clip(r, 0.8, 1.2) A): 1.2*2, 0.5*2, 1.5*-1, 0.8*-1
    ratio, advantage = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([2.0, 2.0, -1.0, -1.0])
    assert clipped_surrogate_loss(ratio, advantage, 0.2).tolist() == pytest.approx([-2.4, -1.0, 1.5, 0.8])


def test_clipped_surrogate_loss_has_no_gradient_where_it_clips() -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1], requires_grad=True)
    clipped_surrogate_loss(ratio, torch.tensor([2.0, 2.0, -1.0, -1.0, 3.0]), 0.2).sum().backward()
    assert ratio.grad is not None
    torch.testing.assert_close(ratio.grad, -torch.tensor([0.0, 2.0, -1.0, 0.0, 3.0]))


def test_clipped_value_loss_by_hand() -> None:
    # V=3, V_old=0, R=4, eps=1: max(1, (1-4)^2); V=0.5: not clipped; V=-3, R=-9: max(36, (-1+9)^2); V=9, R=0: max(81, 1)
    value, old, target = torch.tensor([3.0, 0.5, -3.0, 9.0]), torch.zeros(4), torch.tensor([4.0, 4.0, -9.0, 0.0])
    assert clipped_value_loss(value, old, target, 1.0).tolist() == [9, 12.25, 64, 81]
    around_old = clipped_value_loss(value, value, target, 1.0)
    assert torch.equal(around_old, squared_error(value, target)), "around the old value, not 0"


def test_clipped_value_loss_has_no_gradient_where_it_clips() -> None:
    value = torch.tensor([3.0, 0.5], requires_grad=True)
    clipped_value_loss(value, torch.zeros(2), torch.tensor([4.0, 4.0]), 1.0).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [0, -7]


def test_approx_kl_and_clip_fraction_by_hand() -> None:
    assert approx_kl(torch.zeros(3)).tolist() == [0, 0, 0]
    kl = approx_kl(torch.tensor([math.log(2), math.log(0.5)]))
    assert kl.tolist() == pytest.approx([1 - 0.693147, -0.5 + 0.693147], abs=1e-6)
    assert clip_fraction(torch.tensor([1.0, 1.19, 1.21, 0.7]), 0.2).tolist() == [0, 0, 1, 1]


def test_normalized() -> None:
    advantage = normalized(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(advantage, torch.tensor([-1.0, 0.0, 1.0]))
    assert normalized(torch.tensor([5.0])).tolist() == [5.0], "a single advantage has no deviation"
    assert normalized(torch.tensor([5.0, 5.0])).tolist() == [0.0, 0.0]


# the update


def test_it_is_a_learner_and_counts_every_step() -> None:
    learner = build(num_envs=4, num_steps=16)
    assert isinstance(learner, Learner)
    metrics = [learner.step() for _ in range(3)]
    assert learner.counters() == {"env_steps": 3 * 4 * 16}
    assert set(metrics[0]) == {
        *("loss", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction"),
        *("explained_variance", "lr", "episode_return", "episode_length"),
    }
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics[0].values())


@pytest.mark.parametrize("id", ["CartPole-v1", "Drift-v0"])
def test_the_first_minibatch_finds_the_policy_that_acted(id: str) -> None:
    learner = build(id, num_epochs=1, minibatch_size=64, num_envs=4, num_steps=16, lr=0.1)
    for metrics in train(learner, 3):
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["clip_fraction"] == 0
        # normalised advantages have mean 0, and every ratio is 1
        assert metrics["policy_loss"] == pytest.approx(0, abs=1e-5)
    assert max(m["approx_kl"] for m in train(build(id, num_epochs=4, lr=0.1), 3)) > 1e-3


def test_the_value_clip_is_around_the_values_of_the_rollout() -> None:
    """All epochs see the same ones; in the first minibatch nothing is clipped."""
    first, plain = (train(build(num_epochs=1, minibatch_size=64, value_clip=clip), 1) for clip in (1e-6, None))
    assert first[0]["value_loss"] == pytest.approx(plain[0]["value_loss"], rel=1e-6)
    learner, seen = build(num_epochs=3, minibatch_size=64, value_clip=0.1, lr=0.1), []
    loss = learner._loss
    learner._loss = lambda theta, minibatch, *args: (  # type: ignore[method-assign]
        seen.append(minibatch.value.sort().values),
        loss(theta, minibatch, *args),
    )[1]
    learner.step()
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_no_further_epoch_after_one_whose_kl_is_too_large() -> None:
    for target_kl, epochs in ((None, 6), (1e9, 6), (1e-9, 1)):
        learner = build(num_epochs=6, target_kl=target_kl, lr=1e-2)
        seen = gradients(learner)
        learner.step()
        assert learner.optimizer.updates == len(seen) == 2 * epochs


def test_the_kl_that_stops_is_the_mean_over_the_epoch_just_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of two minibatches with these; the mean of the third is 0.5, that of all so far 0.2."""
    learner = build(num_epochs=6, target_kl=0.4)
    kls = iter([0.0, 0.0, 0.7, 0.0, 0.3, 0.7, 9.0, 9.0])
    monkeypatch.setattr(ppo, "approx_kl", lambda log_ratio: torch.tensor(next(kls)))
    seen = gradients(learner)
    learner.step()
    assert len(seen) == 6


def test_the_mask_is_the_same_in_the_update_as_when_it_was_acted(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build("Masked-info-v0", num_epochs=1, minibatch_size=64, lr=0.1)
    rollout = collect(learner)
    learner.collector.collect = lambda *noise: rollout  # type: ignore[method-assign]
    layout, seen, policy = learner.net.encoder.layout, [], learner.actions.policy
    acted = layout.action_mask(rollout.obs.flatten(0, 1))
    assert acted is not None
    assert acted.sum(1).tolist() == [2] * 64
    monkeypatch.setattr(learner.actions, "policy", lambda *args: (seen.append(args[2]), policy(*args))[1])
    order = learner.shuffle_rng.clone_state()
    metrics = learner.step()
    assert len(seen) == 1
    assert torch.equal(seen[0], acted[torch.randperm(64, generator=order)])
    assert metrics["approx_kl"].item() == pytest.approx(0, abs=1e-6)
    assert metrics["entropy"].item() == pytest.approx(math.log(2), abs=1e-3), "of two valid actions each"


def test_pixels_stay_bytes_in_the_rollout_and_are_learnt_from() -> None:
    learner = build("Pixels-v0", num_envs=8, images="impala", lr=1e-3, num_epochs=4, gamma=0.0)
    assert collect(learner).obs.dtype == torch.uint8
    train(learner, 8)
    assert learner.evaluate(final=True)["return_mean"] == 1


def test_gradients_are_clipped_by_their_global_norm() -> None:
    learner = build(max_grad_norm=0.01)
    seen = gradients(learner)
    learner.step()
    assert [gradient.norm().item() for gradient in seen] == pytest.approx([0.01] * 4, rel=1e-3)


def test_lr_and_clip_reach_their_end() -> None:
    learner = build(lr=0.1, lr_anneal_env_steps=128, clip_anneal_env_steps=128)
    assert [m["lr"] for m in train(learner, 2)] == pytest.approx([0.1, 0.05])
    before = copy.deepcopy(learner.net.state_dict())
    assert learner.step()["lr"].item() == 0
    assert_equal_states(learner.net.state_dict(), before)


def test_the_log_prob_is_of_the_action_before_clipping() -> None:
    learner = build("Reach-v0")  # the env refuses actions beyond 0.6
    rollout = collect(learner)
    action, log_prob = (kept.flatten(0, 1) for kept in rollout.kept)
    assert action.abs().max() > 0.6
    with torch.no_grad():
        expected, _ = learner.net(rollout.obs.flatten(0, 1))[0].log_prob_and_entropy(action)
    torch.testing.assert_close(log_prob, expected)


def test_a_truncated_step_bootstraps_from_the_episode_s_own_last_observation() -> None:
    # episode 0 is terminated after 3 steps, episode 1 truncated; with lam 0 an advantage is a one-step error
    learner = build("Count-v0", num_envs=1, num_steps=6, minibatch_size=6, gamma=0.5, gae_lambda=0.0)
    batch = advantages(learner)
    obs = batch.obs.squeeze(1)
    assert obs.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    with torch.no_grad():
        value = learner.net(obs)[1]
        next_value = learner.net(torch.tensor([[0.0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [1, 3]]))[1]
    next_value[2] = 0
    reward = torch.tensor([1.0, 2, 3, 11, 12, 13])
    torch.testing.assert_close(batch.advantage.flatten(), reward + 0.5 * next_value - value)


def test_episode_metrics_are_those_of_whole_episodes() -> None:
    # rewards of episode e: 10e+1, 10e+2, 10e+3; rollouts of 4 steps cut the episodes of 3
    learner = build("Count-v0", num_envs=2, num_steps=4, minibatch_size=8)
    metrics = train(learner, 3)
    assert [m["episode_return"] for m in metrics] == [6, 36, (66 + 96) / 2]
    assert [m["episode_length"] for m in metrics] == [3, 3, 3]
    short = build("Count-v0", num_envs=2, num_steps=2, minibatch_size=4)
    assert math.isnan(train(short, 1)[0]["episode_return"])


def test_what_is_out_of_range_is_named() -> None:
    for keywords, message in (
        ({"gamma": 1.5}, r"gamma=1.5: must be a number >= 0 and <= 1"),
        ({"lr": -1.0}, "lr=-1.0: must be a number > 0"),
        ({"minibatch_size": 48}, r"agent.minibatch_size=48 must divide agent.num_steps \* env.num_envs = 64"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**keywords)  # type: ignore[arg-type]


def test_the_yaml_mirrors_the_constructor() -> None:
    for path, target in (("agent/ppo", PPO), ("env/gymnasium", make)):
        yaml = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{path}.yaml"))
        assert isinstance(yaml, dict)
        keywords = {name: value for name, value in yaml.items() if not str(name).startswith("_")}
        parameters = inspect.signature(target).parameters
        assert set(keywords) == set(parameters) - {"run", "env", "stream", "make_env", "part", "episodes"}
        defaults = {k: p.default for k, p in parameters.items() if k in keywords and p.default is not p.empty}
        expected = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
        for name in {"settings", "vector_settings"} & set(expected):  # empty groups, for the command line to add to
            assert keywords[name] == {}
            keywords[name] = None
        assert {k: v for k, v in keywords.items() if k in expected} == expected


# what it learns


def probe(id: str, updates: int, **keywords: Any) -> PPO:
    settings = {"num_envs": 8, "num_steps": 8, "minibatch_size": 32, "num_epochs": 4, "lr": 1e-2, "gamma": 0.5}
    learner = build(id, **(settings | keywords))
    train(learner, updates)
    return learner


def values(learner: PPO, *obs: float) -> Tensor:
    with torch.no_grad():
        return learner.net(torch.tensor(obs).unsqueeze(1))[1]


def test_probe_1_a_constant_value() -> None:
    torch.testing.assert_close(values(probe("Constant-v0", 30), 0.0), torch.tensor([1.0]), rtol=0, atol=0.1)


def test_probe_2_a_value_of_the_observation() -> None:
    torch.testing.assert_close(values(probe("Predict-v0", 30), -1.0, 1.0), torch.tensor([-1.0, 1.0]), rtol=0, atol=0.1)


def test_probe_3_a_discounted_value() -> None:
    torch.testing.assert_close(values(probe("Delay-v0", 40), 0.0, 1.0), torch.tensor([0.5, 1.0]), rtol=0, atol=0.1)


def test_probe_4_a_better_action() -> None:
    learner = probe("Choose-v0", 30)
    assert learner.evaluate()["return_mean"] == 1
    assert learner.net(torch.zeros(1, 1))[0].logits_BS.softmax(-1)[0, 1] > 0.9
    torch.testing.assert_close(values(learner, 0.0), torch.tensor([1.0]), rtol=0, atol=0.2)


def test_probe_5_an_action_that_depends_on_the_observation() -> None:
    learner = probe("Match-v0", 40)
    assert learner.evaluate(final=True)["return_mean"] == 1
    torch.testing.assert_close(values(learner, -1.0, 1.0), torch.tensor([1.0, 1.0]), rtol=0, atol=0.2)


def test_identity() -> None:
    assert probe("Identity-v0", 80, gamma=0.0).evaluate()["return_mean"] == 20


def test_continuous_actions() -> None:
    learner = probe("Reach-v0", 60, num_epochs=8)
    assert learner.evaluate(final=True)["return_mean"] > -0.01
    assert learner.net.log_std_A is not None
    assert learner.net.log_std_A.item() < -0.3, "it explores less where it has learnt"


def test_a_time_limit_is_not_an_end() -> None:
    """Reward 1 for ever is worth 1 / (1 - gamma) = 5, though every episode is cut after 8 steps."""
    learner = probe("Forever-v0", 80, gamma=0.8)
    assert values(learner, 0.0).item() == pytest.approx(5, abs=0.3)


# resuming, determinism, evaluation


@pytest.mark.parametrize("id", ["CartPole-v1", "Drift-v0", "Identity-v0", "Pendulum-v1"])
def test_resumes_bit_for_bit(saved: Callable[[Any], Any], id: str) -> None:
    contract.check_resumes(partial(build, id, lr_anneal_env_steps=1000, entropy_coef=0.01), saved)


def test_a_nondeterministic_env_resumes_at_an_episode_boundary(saved: Callable[[Any], Any]) -> None:
    first = build("Hidden-v0")
    train(first, 1)
    second = build("Hidden-v0")
    with pytest.warns(RuntimeWarning, match="not deterministic"):
        second.load_state_dict(saved(first.state_dict()))
    assert not second.collector.in_progress.return_N.any()
    assert not second.collector.in_progress.length_N.any()
    train(second, 1)


@pytest.mark.parametrize("id", ["CartPole-v1", "Reach-v0"])
def test_equal_seeds_give_equal_weights(id: str) -> None:
    contract.check_seeds(partial(build, id))


@pytest.mark.parametrize("id", ["CartPole-v1", "Drift-v0"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluation_touches_nothing_and_repeats_itself(
    saved: Callable[[Any], Any], id: str, deterministic: bool
) -> None:
    contract.check_evaluation(partial(build, id, eval_deterministic=deterministic), saved)


def test_evaluation_counts_the_first_episode_of_each_env() -> None:
    result = build("Count-v0", eval_episodes=4).evaluate()
    assert result == {"return_mean": 6, "return_std_err": 0, "return_min": 6, "return_max": 6, "length_mean": 3}

    lengths = make(id="Lasts-v0", num_envs=20, run=Run(), stream="test").reset()
    result = build("Lasts-v0", test_episodes=20).evaluate(final=True)
    assert result["return_mean"] == result["length_mean"] == pytest.approx(lengths.mean().item())
    assert (result["return_min"], result["return_max"]) == (lengths.min(), lengths.max())
    assert result["return_std_err"] == pytest.approx(lengths.std().item() / 20**0.5)

    cut = build("Wild-v0", eval_episodes=2, max_eval_steps=7).evaluate()
    assert cut["length_mean"] == cut["return_mean"] == 7


def test_half_precision_trains() -> None:
    learner = build(run=Run(precision="bf16"), num_epochs=1, minibatch_size=64)
    for metrics in train(learner, 2):
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-4)
        assert math.isfinite(metrics["loss"])


# two workers


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    run = Run(rank=rank, world_size=2)
    whole = build(run=run, eval_episodes=5)
    train(whole, 2)
    half = build(run=run)
    train(half, 1)
    resumed = build(run=run, eval_episodes=5)
    resumed.load_state_dict(half.state_dict())
    train(resumed, 1)
    result = {"whole": whole.state_dict(), "resumed": resumed.state_dict(), "eval": whole.evaluate()}
    torch.save(result | {"one": build(run=run, eval_episodes=1).evaluate()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers(tmp_path: Path) -> None:
    spawn(_work, (str(tmp_path),), nprocs=2)
    first, second = contract.check_workers(tmp_path)
    assert first["whole"]["collector"]["env_steps"] == 2 * 4 * 16
    assert first["whole"]["collector"]["envs"]["state"].shape == (2, 4)
    assert str(first["one"]) == str(second["one"])


def test_an_entropy_bonus_does_not_widen_a_squashed_gaussian_for_ever() -> None:
    contract.check_entropy_bonus(build, updates=20)
