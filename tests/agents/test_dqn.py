from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import (
    assert_equal_states,
    check_evaluation,
    check_metrics,
    check_resumes,
    check_workers,
    check_yaml,
    gradients,
    train,
    work,
)
from forked import spawn
from torch import Tensor

from trivium.agents.dqn import (
    DQN,
    categorical_loss,
    categorical_projection,
    next_action,
    td_loss,
    td_target,
)
from trivium.agents.envs.environment import make
from trivium.agents.networks.q_networks import NoisyLinear, QNetwork
from trivium.agents.replay import Batch
from trivium.agents.returns import linear_schedule
from trivium.learner import Run

RAINBOW = {
    "double": True,
    "dueling": True,
    "prioritized": True,
    "noisy": True,
    "categorical": True,
    "n_step": 3,
    "num_atoms": 11,
    "v_min": -2.0,
    "v_max": 2.0,
    "priority_beta_anneal_env_steps": 1000,
}


def build(id: str = "CartPole-v1", *, seed: int = 0, num_envs: int = 4, run: Run | None = None, **keywords: Any) -> DQN:
    env = partial(make, id=id, num_envs=num_envs)
    settings = {
        "buffer_size": 200,
        "batch_size": 16,
        "learning_starts": 20,
        "train_every_env_steps": 16,
        "gradient_steps": 2,
        "target_update_every_env_steps": 32,
        "epsilon_anneal_env_steps": 100,
        "hidden": [16],
    }
    return DQN(run=run or Run(seed=seed), env=env, **(settings | keywords))


# schedules, targets and losses


def test_linear_schedule_starts_ends_and_never_rises() -> None:
    values = [linear_schedule(1.0, 0.04, n, 100) for n in range(201)]
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.52)
    assert values[100:] == [0.04] * 101
    assert all(a > b for a, b in itertools.pairwise(values[:101]))
    rising = [linear_schedule(0.4, 1.0, n, 100) for n in range(150)]
    assert rising == sorted(rising)
    assert (rising[0], rising[100]) == (0.4, 1.0)
    assert linear_schedule(0.4, 1.0, 10**9, None) == 0.4


def test_double_q_learning_by_hand() -> None:
    target_q, online_q = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([[9.0, 8.0], [0.0, 1.0]])
    assert next_action(target_q, None).tolist() == [1, 1]
    assert next_action(target_q, online_q).tolist() == [0, 1]


def test_td_target_by_hand() -> None:
    # one step; two steps; terminated, where the next value does not count
    discount = torch.tensor([0.9, 0.81, 0.0])
    target = td_target(torch.tensor([1.0, 2.0, 3.0]), discount, torch.tensor([10.0, 100.0, torch.inf]))
    torch.testing.assert_close(target, torch.tensor([10.0, 83.0, 3.0]))


def test_td_loss_by_hand() -> None:
    q, target = torch.tensor([0.5, 3.0, -3.0]), torch.zeros(3)
    assert td_loss(q, target, "mse").tolist() == [0.25, 9, 9]
    assert td_loss(q, target, "huber").tolist() == [0.125, 2.5, 2.5]


@pytest.mark.parametrize(
    ("prob", "return_", "discount", "expected"),
    [
        ([0, 0, 1], 0.25, 0.5, [0, 0.75, 0.25]),  # 1.25
        ([0, 0, 1], 0.0, 0.5, [0, 1, 0]),  # exactly on an atom
        ([0.2, 0.3, 0.5], 0.0, 1.0, [0.2, 0.3, 0.5]),
        ([0.2, 0.3, 0.5], 1.0, 0.0, [0, 1, 0]),  # terminated: all of it at the return
        ([0.2, 0.3, 0.5], 9.0, 0.9, [0, 0, 1]),  # clipped
        ([0.2, 0.3, 0.5], -9.0, 0.9, [1, 0, 0]),
        ([0.5, 0.0, 0.5], 0.5, 1.0, [0.25, 0.25, 0.5]),  # 0.5 and 2.5, which is clipped to 2
    ],
)
def test_categorical_projection_by_hand(
    prob: list[float], return_: float, discount: float, expected: list[float]
) -> None:
    result = categorical_projection(
        torch.tensor([prob]).float(), torch.tensor([return_]), torch.tensor([discount]), torch.tensor([0.0, 1.0, 2.0])
    )
    torch.testing.assert_close(result, torch.tensor([expected]).float())


def test_categorical_projection_conserves_mass_and_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    prob = torch.randn(500, 51, generator=generator).mul(3).softmax(1)
    return_, discount = torch.randn(500, generator=generator) * 20, torch.rand(500, generator=generator)
    atom = torch.linspace(-10, 10, 51)
    result = categorical_projection(prob, return_, discount, atom)
    torch.testing.assert_close(result.sum(1), torch.ones(500))
    moved = (return_.unsqueeze(1) + discount.unsqueeze(1) * atom).clamp(-10, 10)
    torch.testing.assert_close((result * atom).sum(1), (prob * moved).sum(1), rtol=1e-4, atol=1e-4)
    exact = categorical_projection(prob, torch.zeros(500), torch.ones(500), atom)
    torch.testing.assert_close(exact, prob, rtol=1e-5, atol=1e-6)


def test_categorical_loss_by_hand() -> None:
    log_prob = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    loss = categorical_loss(log_prob, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    torch.testing.assert_close(loss, torch.tensor([math.log(2), 0.0]))


# networks


def net(**keywords: Any) -> QNetwork:
    learner = build("Match-v0", **keywords)
    return learner.net


def test_dueling_by_hand() -> None:
    # Q = V + A - mean A
    network = net(dueling=True)
    for stream, bias in ((network.advantage, [1.0, 4.0]), (network.value, [10.0])):
        assert stream is not None
        torch.nn.init.zeros_(stream[1].weight)
        stream[1].bias.data = torch.tensor(bias)
    assert network(torch.zeros(3, 1)).tolist() == [[8.5, 11.5]] * 3


def test_noisy_linear_by_hand() -> None:
    layer = NoisyLinear(2, 1, sigma=0.5, generator=torch.Generator())
    bound, sigma = 2**-0.5, 0.5 * 2**-0.5
    assert (layer.weight.abs() <= bound).all()
    torch.testing.assert_close(layer.weight_sigma.data, torch.full((1, 2), sigma))
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])
    layer.weight_sigma.data, layer.bias_sigma.data = torch.tensor([[0.1, 0.2]]), torch.tensor([0.5])
    x = torch.tensor([[1.0, 1.0]])
    assert layer(x, None).item() == 6
    # weights 1 + 0.1 * 2 * 3, 2 + 0.2 * 2 * -1; bias 3 + 0.5 * 2
    assert layer(x, (torch.tensor([2.0]), torch.tensor([3.0, -1.0]))).item() == pytest.approx(1.6 + 1.6 + 4)


def test_noise_is_factorised_and_new_each_time() -> None:
    network = net(noisy=True, dueling=True, hidden=[8, 300])
    generator = torch.Generator().manual_seed(0)
    assert network.noise_sizes == [*(300, 8), *(2, 300), *(300, 8), *(1, 300)], "outputs and inputs of each layer"
    sample, other = network.noise(2, generator)
    # x = sign(e) sqrt|e|: x^2 = |e|, of mean sqrt(2 / pi)
    assert sample.square().mean().item() == pytest.approx((2 / math.pi) ** 0.5, abs=0.07)
    assert sample.mean().item() == pytest.approx(0, abs=0.12)
    obs = torch.ones(1, 1)
    assert not torch.equal(network(obs, sample), network(obs, other))
    assert torch.equal(network(obs), network(obs))
    assert net().noise(2, generator).shape == (2, 0)


def test_weights_come_from_the_learners_generators_alone() -> None:
    torch.manual_seed(1)
    first, before = build(**RAINBOW), torch.get_rng_state()
    train(first, 1)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    torch.manual_seed(2)
    second = build(**RAINBOW)
    train(second, 1)
    assert_equal_states(first.state_dict(), second.state_dict())


# the update


@pytest.mark.parametrize("options", [{}, RAINBOW], ids=["plain", "rainbow"])
def test_it_is_a_learner(options: dict[str, Any]) -> None:
    names = {"loss", "q_mean", "grad_norm", "lr", "epsilon", "episode_return", "episode_length"}
    check_metrics(partial(build, **options), names)


def test_every_step_counts_and_the_first_one_warms_up() -> None:
    learner = build()
    counts = []
    for _ in range(3):
        assert learner.step()["loss"].isfinite()
        counts.append(learner.counters())
    assert counts == [{"env_steps": n} for n in (32, 48, 64)], "the first step collects twice, to reach 20"


def test_actions_are_random_during_warm_up_and_drawn_for_each_env() -> None:
    learner = build(
        "Choose-v0", num_envs=16, learning_starts=1600, epsilon_start=0.0, epsilon_end=0.0, buffer_size=2000
    )
    learner.step()
    actions = learner.replay.rows.action[:100]
    assert learner.collector.env_steps == 1600
    assert actions.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (actions.float().mean(1) % 1 != 0).float().mean() > 0.9, "each env has a draw of its own"
    learner.step()
    greedy = learner.replay.rows.action[100]
    assert greedy.unique().numel() == 1

    half = build(
        "Choose-v0",
        num_envs=400,
        learning_starts=0,
        epsilon_start=0.5,
        epsilon_end=0.5,
        train_every_env_steps=400,
        buffer_size=400,
    )
    half.step()
    rare = half.replay.rows.action[0].float().mean().item()
    assert min(rare, 1 - rare) == pytest.approx(0.25, abs=0.09), "half of a half"


def test_epsilon_follows_env_steps_whatever_the_number_of_envs() -> None:
    for num_envs in (1, 4, 16):
        learner = build(num_envs=num_envs, learning_starts=16, epsilon_end=0.1)
        assert learner.epsilon(0) == 1
        assert [m["epsilon"] for m in train(learner, 8)] == pytest.approx(
            [1 - 0.9 * n / 100 for n in (16, 32, 48, 64, 80, 96)] + [0.1] * 2
        )
    assert build(noisy=True, learning_starts=0).epsilon(0) == 0


@pytest.mark.parametrize("num_envs", [1, 4, 16])
def test_the_target_network_is_copied_every_so_many_env_steps(num_envs: int) -> None:
    learner = build(num_envs=num_envs, learning_starts=0, target_update_every_env_steps=40)
    assert_equal_states(learner.target_net.state_dict(), learner.net.state_dict())
    for step in range(1, 9):
        online, target = copy.deepcopy((learner.net.state_dict(), learner.target_net.state_dict()))
        learner.step()
        # 16 env steps a step: multiples of 40 are passed in the steps that end at 48, 80, 128
        expected = online if step in (3, 5, 8) else target
        assert_equal_states(learner.target_net.state_dict(), expected)
        now = learner.net.state_dict()["advantage.0.weight"]
        assert not torch.equal(now, online["advantage.0.weight"])
    assert learner.optimizer.theta is learner.flat.theta
    trained = learner.flat.theta.untyped_storage().data_ptr()
    assert all(p.untyped_storage().data_ptr() == trained for p in learner.net.parameters())
    for p in learner.target_net.parameters():
        assert not p.requires_grad
        assert p.grad is None
        assert p.untyped_storage().data_ptr() != trained


def test_the_target_network_follows_softly() -> None:
    learner = build(target_update_every_env_steps=None, target_tau=0.25, gradient_steps=1)
    before = copy.deepcopy(learner.target_net.state_dict())
    learner.step()
    for name, value in learner.target_net.state_dict().items():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * learner.net.state_dict()[name])


def test_targets_come_from_the_target_network_and_double_chooses_by_the_online_one() -> None:
    batch = Batch(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([1.0]), torch.tensor([0.5]), torch.zeros(1, 1))
    for double, expected in ((False, 1 + 0.5 * 5), (True, 1 + 0.5 * 1)):
        learner = build("Match-v0", double=double)
        for network, q in ((learner.target_net, [1.0, 5.0]), (learner.net, [9.0, 8.0])):
            torch.nn.init.zeros_(network.advantage[1].weight)
            network.advantage[1].bias.data = torch.tensor(q)
        assert learner._target(batch, torch.zeros(3, 0)).tolist() == [expected]


def test_a_categorical_target_is_that_of_the_best_action() -> None:
    learner = build("Match-v0", categorical=True, num_atoms=3, v_min=0.0, v_max=2.0)
    for network in (learner.target_net, learner.net):
        torch.nn.init.zeros_(network.advantage[1].weight)
        network.advantage[1].bias.data = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]).log().flatten()
    batch = Batch(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0.0]), torch.tensor([1.0]), torch.zeros(1, 1))
    torch.testing.assert_close(learner._target(batch, torch.zeros(3, 0)), torch.tensor([[0.25, 0.25, 0.5]]))
    torch.testing.assert_close(learner.acting.q(batch.obs, learner.net(batch.obs)), torch.tensor([[0.75, 1.25]]))


def masked(learner: DQN, *masks: list[int]) -> Tensor:
    """Observations of Masked with these masks."""
    layout = learner.net.encoder.layout
    return torch.from_numpy(np.stack([layout.pack({"obs": 0, "action_mask": mask}) for mask in masks]))


@pytest.mark.parametrize("categorical", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_the_target_is_of_the_best_valid_action(double: bool, categorical: bool) -> None:
    """Of all four, of the first two, of the last; the online network chooses in its own order."""
    options = {"categorical": True, "num_atoms": 21, "v_min": 0.0, "v_max": 10.0} if categorical else {}
    learner = build("Masked-info-v0", double=double, **options)
    atom = torch.linspace(0, 10, 21)
    for network, q in ((learner.target_net, [1.0, 2.0, 5.0, 4.0]), (learner.net, [4.0, 3.0, 2.0, 1.0])):
        torch.nn.init.zeros_(network.advantage[1].weight)
        logits = [-30 * (atom - value).abs() for value in q] if categorical else [torch.tensor([value]) for value in q]
        network.advantage[1].bias.data = torch.cat(logits)
    next_obs = masked(learner, [1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1])
    zero = torch.zeros(3)
    batch = Batch(next_obs, zero.long(), zero, torch.ones(3), next_obs)
    target = learner._target(batch, torch.zeros(3, 0))
    value = (target * atom).sum(1) if categorical else target
    assert value.tolist() == pytest.approx([1, 1, 4] if double else [5, 2, 4], abs=1e-3)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_exploration_and_greedy_actions_are_valid_and_exploration_is_uniform_over_them(epsilon: float) -> None:
    learner = build("Masked-info-v0")
    torch.nn.init.zeros_(learner.net.advantage[1].weight)
    learner.net.advantage[1].bias.data = torch.tensor([1.0, 4.0, 2.0, 3.0])
    obs = masked(learner, *([[1, 0, 1, 1]] * 6000))
    chance, random = torch.rand(6000, 5, generator=torch.Generator().manual_seed(0)).split((1, 4), 1)
    action, _, _ = learner.acting(
        obs, torch.zeros(6000, 0), chance.flatten(), random, torch.tensor(epsilon), torch.zeros(0)
    )
    frequencies = torch.bincount(action, minlength=4) / 6000
    expected = torch.tensor([1, 0, 1, 1]) / 3 if epsilon else torch.tensor([0.0, 0, 0, 1])
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=0.025)
    assert frequencies[1] == 0
    evaluated, _ = learner.acting.in_evaluation(obs[:3], torch.zeros(3, 0), torch.Generator())
    assert evaluated.tolist() == [3, 3, 3]


def test_pixels_stay_bytes_in_the_replay_buffer_and_are_learnt_from() -> None:
    settings = {"buffer_size": 160, "batch_size": 32, "gradient_steps": 4, "lr": 1e-3, "gamma": 0.0, "hidden": [64]}
    learner = build("Pixels-v0", num_envs=8, images="impala", **settings)
    train(learner, 20)
    assert learner.replay.rows.obs.dtype == learner.replay.rows.next_obs.dtype == torch.uint8
    assert learner.replay.rows.obs.shape == (20, 8, 12, 12, 1)
    assert learner.evaluate(final=True)["return_mean"] == 1


def test_a_truncated_step_bootstraps_from_the_episode_s_own_last_observation() -> None:
    # episode 0 is terminated after 3 steps, episode 1 truncated
    learner = build("Count-v0", num_envs=1, train_every_env_steps=6, learning_starts=0, gamma=0.5, n_step=2)
    learner.step()
    batch = learner.replay.batch(torch.arange(6), num_steps=2, gamma=0.5)
    assert batch.obs.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert batch.next_obs.tolist() == [[0, 2], [0, 3], [0, 3], [1, 2], [1, 3], [1, 3]]
    assert batch.return_.tolist() == [1 + 1, 2 + 1.5, 3, 11 + 6, 12 + 6.5, 13]
    assert batch.discount.tolist() == [0.25, 0, 0, 0.25, 0.25, 0.5]


def test_priorities_follow_the_errors() -> None:
    learner = build("Count-v0", prioritized=True, priority_alpha=1.0, gradient_steps=1, lr=1e-12, gamma=0.0)
    learner.step()
    assert learner.priorities is not None
    index = torch.arange(len(learner.replay))
    batch = learner.replay.batch(index, num_steps=1, gamma=0.0)
    with torch.no_grad():
        error = (learner.net(batch.obs).gather(1, batch.action.unsqueeze(1)).squeeze(1) - batch.return_).abs()
    priority = learner.priorities.tree[index].float()
    drawn = (priority - 1).abs() > 1e-6
    assert 5 < drawn.sum() < len(index)
    torch.testing.assert_close(priority[drawn], error[drawn], rtol=1e-3, atol=1e-4)


def test_losses_are_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(prioritized=True, priority_beta=0.3, priority_beta_anneal_env_steps=64)
    betas = []

    def weights(index_B: Tensor, num_transitions: int, *, beta: float) -> Tensor:
        betas.append(beta)
        assert num_transitions == len(learner.replay)
        return torch.zeros(len(index_B))

    monkeypatch.setattr(learner.priorities, "weights", weights)
    assert [metrics["loss"] for metrics in train(learner, 4)] == [0] * 4
    assert betas[::2] == pytest.approx([0.65, 0.825, 1, 1]), "at 32, 48, 64, 80 env steps"


def test_gradients_are_clipped_by_their_global_norm() -> None:
    learner = build(max_grad_norm=0.01)
    seen = gradients(learner)
    learner.step()
    assert [gradient.norm().item() for gradient in seen] == pytest.approx([0.01] * 2, rel=1e-3)


def test_episode_metrics_are_those_of_whole_episodes() -> None:
    # rewards of episode e: 10e+1, 10e+2, 10e+3; steps of 4 cut the episodes of 3, and the first one collects twice
    learner = build("Count-v0", num_envs=2, train_every_env_steps=8, learning_starts=16)
    metrics = train(learner, 2)
    assert [m["episode_return"] for m in metrics] == [(6 + 36) / 2, (66 + 96) / 2]
    assert [m["episode_length"] for m in metrics] == [3, 3]


def test_a_buffer_that_may_hold_nothing_but_dead_steps_is_refused() -> None:
    env = partial(make, id="CartPole-v1", num_envs=4, vector="sync", vector_settings={"autoreset_mode": "next_step"})
    with pytest.raises(ValueError, match=r"agent.buffer_size=7 must be at least 2 \* env.num_envs = 8: this vector"):
        DQN(run=Run(), env=env, train_every_env_steps=4, buffer_size=7)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"gamma": 1.5}, r"gamma=1.5: must be a number >= 0 and <= 1"),
        ({"train_every_env_steps": 6}, "env.num_envs=4 must divide agent.train_every_env_steps = 6"),
        ({"train_every_env_steps": 0}, r"train_every_env_steps=0: must be an integer >= 1"),
        ({"buffer_size": 8}, "agent.buffer_size=8 must be at least agent.train_every_env_steps=16"),
        ({"target_tau": 0.5}, "exactly one must be null"),
        ({"target_update_every_env_steps": None}, "exactly one must be null"),
        ({"loss": "l1"}, "loss=l1: must be one of huber, mse"),
        ({"v_min": 10.0}, "agent.v_min=10.0 must be less than agent.v_max=10.0"),
        ({"hidden": []}, r"agent.hidden=\[\] must have at least one layer"),
        ({"id": "Reach-v0"}, "needs an env with Discrete actions, .*Box"),
    ],
)
def test_what_is_out_of_range_is_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**keywords)


def test_the_yaml_mirrors_the_constructor() -> None:
    check_yaml("agent/dqn", DQN)


# what it learns


def probe(id: str, steps: int, **keywords: Any) -> DQN:
    settings = {
        "num_envs": 8,
        "lr": 1e-2,
        "gamma": 0.5,
        "gradient_steps": 4,
        "batch_size": 32,
        "learning_starts": 64,
        "buffer_size": 1000,
        "target_update_every_env_steps": 32,
    }
    learner = build(id, **(settings | keywords))
    train(learner, steps)
    return learner


def q(learner: DQN, *obs: float) -> Tensor:
    with torch.no_grad():
        obs_B1 = torch.tensor(obs).unsqueeze(1)
        return learner.acting.q(obs_B1, learner.net(obs_B1))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"double": True, "dueling": True},
    {"prioritized": True, "n_step": 2},
    {"noisy": True, "loss": "mse"},
    {"categorical": True, "num_atoms": 11, "v_min": -2.0, "v_max": 2.0},
    {"target_update_every_env_steps": None, "target_tau": 0.1},
    RAINBOW,
]
ids = ["+".join(options) if len(options) < 5 or "double" not in options else "rainbow" for options in OPTIONS]


def test_probe_1_a_constant_value() -> None:
    torch.testing.assert_close(q(probe("Constant-v0", 30), 0.0), torch.tensor([[1.0]]), rtol=0, atol=0.1)


def test_probe_2_a_value_of_the_observation() -> None:
    torch.testing.assert_close(q(probe("Predict-v0", 40), -1.0, 1.0), torch.tensor([[-1.0], [1.0]]), rtol=0, atol=0.1)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_probe_3_a_discounted_value(options: dict[str, Any]) -> None:
    learner = probe("Delay-v0", 60, **options)
    torch.testing.assert_close(q(learner, 0.0, 1.0), torch.tensor([[0.5], [1.0]]), rtol=0, atol=0.12)


def test_probe_4_a_better_action() -> None:
    learner = probe("Choose-v0", 40)
    assert learner.evaluate()["return_mean"] == 1
    torch.testing.assert_close(q(learner, 0.0), torch.tensor([[-1.0, 1.0]]), rtol=0, atol=0.2)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_probe_5_an_action_that_depends_on_the_observation(options: dict[str, Any]) -> None:
    learner = probe("Match-v0", 60, **options)
    assert learner.evaluate(final=True)["return_mean"] == 1
    if "noisy" not in options:  # which hardly looks at the worse action
        torch.testing.assert_close(q(learner, -1.0, 1.0), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), rtol=0, atol=0.3)


@pytest.mark.parametrize("options", [{}, RAINBOW | {"v_min": 0.0, "n_step": 1}], ids=["plain", "rainbow"])
def test_identity(options: dict[str, Any]) -> None:
    assert probe("Identity-v0", 100, **({"gamma": 0.0} | options)).evaluate()["return_mean"] == 20


@pytest.mark.parametrize("options", [{}, {"n_step": 3}])
def test_a_time_limit_is_not_an_end(options: dict[str, Any]) -> None:
    """Reward 1 for ever is worth 1 / (1 - gamma) = 5, though every episode is cut after 8 steps."""
    learner = probe("Forever-v0", 100, gamma=0.8, **options)
    torch.testing.assert_close(q(learner, 0.0), torch.tensor([[5.0, 5.0]]), rtol=0, atol=0.5)


# resuming, determinism, evaluation


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("buffer_size", [60, 10_000])  # which is overwritten, and not filled
def test_resumes_bit_for_bit(saved: Callable[[Any], Any], buffer_size: int, options: dict[str, Any]) -> None:
    check_resumes(partial(build, "Identity-v0", buffer_size=buffer_size, lr_anneal_env_steps=100, **options), saved)


@pytest.mark.parametrize("options", [{}, RAINBOW], ids=["plain", "rainbow"])
@pytest.mark.parametrize("id", ["CartPole-v1", "Lasts-v0"])
def test_resumes_bit_for_bit_in_other_envs(saved: Callable[[Any], Any], id: str, options: dict[str, Any]) -> None:
    check_resumes(partial(build, id, **options), saved)


def test_a_nondeterministic_env_resumes_at_an_episode_boundary(saved: Callable[[Any], Any]) -> None:
    first = build("Hidden-v0", n_step=3)
    train(first, 1)
    second = build("Hidden-v0", n_step=3)
    with pytest.warns(RuntimeWarning, match="not deterministic"):
        second.load_state_dict(saved(first.state_dict()))
    assert not second.collector.in_progress.return_N.any()
    assert not second.collector.in_progress.length_N.any()
    assert second.replay.rows.truncated[second.replay.position - 1].all(), "returns do not reach into the new episode"
    train(second, 1)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_equal_seeds_give_equal_weights(options: dict[str, Any]) -> None:
    learners = []
    for seed, other in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(other)
        learners.append(build(seed=seed, **options))
        train(learners[-1], 3)
    states = [learner.net.state_dict() for learner in learners]
    assert_equal_states(states[0], states[1])
    assert not torch.equal(states[0]["advantage.0.weight"], states[2]["advantage.0.weight"])


@pytest.mark.parametrize("options", [{}, RAINBOW], ids=["plain", "rainbow"])
@pytest.mark.parametrize("id", ["CartPole-v1", "Identity-v0"])
def test_evaluation_touches_nothing_and_repeats_itself(
    saved: Callable[[Any], Any], id: str, options: dict[str, Any]
) -> None:
    check_evaluation(partial(build, id, **options), saved)


@pytest.mark.parametrize("options", [{}, RAINBOW], ids=["plain", "rainbow"])
def test_half_precision_trains(options: dict[str, Any]) -> None:
    learner = build(run=Run(precision="bf16"), **options)
    assert all(math.isfinite(metrics["loss"]) for metrics in train(learner, 3))


# two workers


def test_two_workers(tmp_path: Path) -> None:
    spawn(work, (str(tmp_path), partial(build, **RAINBOW)), nprocs=2)
    first, second = (state["whole"] for state in check_workers(tmp_path))
    assert_equal_states(first["target_net"], second["target_net"])
    assert first["collector"]["env_steps"] == 3 * 16
    assert first["replay"]["rows"]["reward"].shape == (12, 2)
    for name in ("replay_rng", "noise_rng"):
        assert not torch.equal(first[name], second[name])
