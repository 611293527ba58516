from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trivium.agents.returns import (
    explained_variance,
    gae,
    linear_recurrence,
    linear_schedule,
    live_mean,
    live_variance,
    mean_where,
    normalized,
    running_sum,
    squared_error,
    where_live,
)


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def random_rollout(seed: int, steps: int = 40, envs: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    terminated = torch.rand(steps, envs, generator=generator) < 0.15
    return {
        "reward_TN": torch.randn(steps, envs, generator=generator),
        "value_TN": torch.randn(steps, envs, generator=generator),
        "next_value_TN": torch.randn(steps, envs, generator=generator),
        "terminated_TN": terminated,
        "ended_TN": terminated | (torch.rand(steps, envs, generator=generator) < 0.15),
    }


def reference(rollout: dict[str, Tensor], gamma: float, lam: float) -> Tensor:
    """The definition, not the recursion: A_t = sum_k (gamma lam)^k delta_{t+k} to the end of the episode, float64."""
    reward, value, next_value = (rollout[k].double() for k in ("reward_TN", "value_TN", "next_value_TN"))
    steps, envs = reward.shape
    result = torch.zeros(steps, envs, dtype=torch.float64)
    for n in range(envs):
        for t in range(steps):
            total, weight = 0.0, 1.0
            for k in range(t, steps):
                bootstrap = 0.0 if rollout["terminated_TN"][k, n] else gamma * float(next_value[k, n])
                total += weight * (float(reward[k, n]) + bootstrap - float(value[k, n]))
                weight *= gamma * lam
                if rollout["ended_TN"][k, n]:
                    break
            result[t, n] = total
    return result


def test_linear_recurrence_by_hand() -> None:
    x, decay = column(1, 1, 1), column(0.5, 0.5, 0)
    assert linear_recurrence(x, decay, torch.tensor([2.0])).flatten().tolist() == [2, 2, 1]
    assert linear_recurrence(x, decay).flatten().tolist() == [1, 1.5, 1]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 64, 100])
@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 1.0])
def test_linear_recurrence_equals_the_loop(steps: int, chance: float) -> None:
    """In float64, over random patterns of what cuts it; and none of what it is given is written to."""
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(steps, 5, generator=generator)
    decay = torch.rand(steps, 5, generator=generator).masked_fill(torch.rand(steps, 5, generator=generator) < chance, 0)
    for start in (None, torch.randn(5, generator=generator)):
        given = [tensor.clone() for tensor in (x, decay)]
        result = linear_recurrence(x, decay, start)
        assert all(torch.equal(a, b) for a, b in zip((x, decay), given, strict=True))
        y = torch.zeros(5, dtype=torch.float64) if start is None else start.double()
        for t in range(steps):
            y = x[t].double() + decay[t].double() * y
            torch.testing.assert_close(result[t].double(), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("terminated", "expected"), [(False, [4.0, 6.0]), (True, [1.5, 1.0])])
def test_gae_by_hand(terminated: bool, expected: list[float]) -> None:
    advantage = gae(
        column(1, 1),
        column(0, 0),
        column(0, 10),
        torch.tensor([[False], [terminated]]),
        torch.tensor([[False], [True]]),
        gamma=0.5,
        lam=1.0,
    )
    assert advantage.squeeze(1).tolist() == expected


def test_gae_of_two_episodes_by_hand() -> None:
    # delta = [1 + 0.5*4 - 2, 2 + 0.5*8 - 4, 3 + 0 - 6, 4 + 0.5*2 - 1] = [1, 2, -3, 4]; decay 0.25
    advantage = gae(
        column(1, 2, 3, 4),
        column(2, 4, 6, 1),
        column(4, 8, 100, 2),
        torch.tensor([[False], [False], [True], [False]]),
        torch.tensor([[False], [True], [True], [False]]),
        gamma=0.5,
        lam=0.5,
    )
    assert advantage.squeeze(1).tolist() == [1.5, 2.0, -3.0, 4.0]


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_equals_the_definition(gamma: float, lam: float) -> None:
    for seed, steps in enumerate((40, 40, 40, 1, 2, 33)):
        rollout = random_rollout(seed, steps)
        expected = reference(rollout, gamma, lam)
        torch.testing.assert_close(gae(**rollout, gamma=gamma, lam=lam).double(), expected, rtol=1e-5, atol=1e-4)


def test_gae_lam_0_is_the_one_step_error_and_lam_1_the_return_minus_the_value() -> None:
    rollout = random_rollout(3)
    rollout["ended_TN"][-1] = True
    bootstrap = 0.9 * torch.where(rollout["terminated_TN"], 0, rollout["next_value_TN"])
    one_step = rollout["reward_TN"] + bootstrap - rollout["value_TN"]
    torch.testing.assert_close(gae(**rollout, gamma=0.9, lam=0.0), one_step)

    target = torch.zeros(len(rollout["reward_TN"]), 6)
    following = torch.zeros(6)
    for t in reversed(range(len(target))):
        ended = rollout["ended_TN"][t]
        following = rollout["reward_TN"][t] + torch.where(ended, bootstrap[t], 0.9 * following)
        target[t] = following
    # with lam 1 the inner values cancel: only those at the episodes' ends remain
    rollout["next_value_TN"][:-1] = torch.where(
        rollout["ended_TN"][:-1], rollout["next_value_TN"][:-1], rollout["value_TN"][1:]
    )
    torch.testing.assert_close(gae(**rollout, gamma=0.9, lam=1.0), target - rollout["value_TN"], rtol=1e-4, atol=1e-4)


def test_gae_lanes_are_independent() -> None:
    rollout = random_rollout(4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = {name: tensor[:, order] for name, tensor in rollout.items()}
    assert torch.equal(gae(**permuted, gamma=0.9, lam=0.8), gae(**rollout, gamma=0.9, lam=0.8)[:, order])


def test_gae_ignores_the_value_of_a_terminal_state() -> None:
    rollout = random_rollout(5)
    expected = gae(**rollout, gamma=0.9, lam=0.8)
    rollout["next_value_TN"] = rollout["next_value_TN"].masked_fill(rollout["terminated_TN"], torch.inf)
    assert torch.equal(gae(**rollout, gamma=0.9, lam=0.8), expected)


def test_gae_names_the_shapes_that_differ() -> None:
    rollout = random_rollout(6)
    rollout["value_TN"] = rollout["value_TN"][:-1]
    with pytest.raises(ValueError, match=r"'value_TN': \(39, 6\)"):
        gae(**rollout, gamma=0.9, lam=0.8)


def test_running_sum_by_hand_and_over_two_rollouts() -> None:
    ended = torch.tensor([[False], [True], [False], [False], [True]])
    x, zero = column(1, 2, 3, 4, 5), torch.zeros(1)
    sums, rest = running_sum(x, ended, zero)
    assert sums.squeeze(1).tolist() == [1, 3, 3, 7, 12]
    assert rest.tolist() == [0]

    first, carried = running_sum(x[:3], ended[:3], zero)
    second, _ = running_sum(x[3:], ended[3:], carried)
    assert carried.tolist() == [3]
    assert torch.equal(torch.cat([first, second]), sums)


def test_mean_where() -> None:
    x, mask = torch.tensor([1.0, torch.inf, 4.0]), torch.tensor([True, False, True])
    assert mean_where(x, mask).item() == 2.5
    assert mean_where(x, torch.zeros(3, dtype=torch.bool)).isnan()


def test_linear_schedule() -> None:
    assert [linear_schedule(0.4, 0.0, n, 100) for n in (0, 25, 100, 150)] == pytest.approx([0.4, 0.3, 0.0, 0.0])
    assert linear_schedule(0.4, 0.0, 10**9, None) == 0.4


def test_running_sum_with_a_discount_by_hand() -> None:
    reward = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    ended = torch.tensor([[False], [True], [False], [False]])
    sums, rest = running_sum(reward, ended, torch.tensor([8.0]), gamma=0.5)
    assert sums.flatten().tolist() == [5.0, 4.5, 3.0, 5.5]
    assert rest.tolist() == [5.5]
    _, rest = running_sum(reward[:2], ended[:2], torch.tensor([8.0]), gamma=0.5)
    assert rest.tolist() == [0.0], "an episode's end starts anew"


def test_squared_error_by_hand() -> None:
    assert squared_error(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])).tolist() == [1, 4]


def test_explained_variance() -> None:
    target = torch.tensor([0.0, 1.0, 2.0])
    assert explained_variance(target, target).item() == 1
    assert explained_variance(target + 7, target).item() == 1
    assert explained_variance(torch.ones(3), target).item() == 0
    assert explained_variance(-target, target).item() == -3
    assert explained_variance(target, torch.ones(3)).isnan()


LIVE, NONE = torch.tensor([True, False, True]), torch.zeros(3, dtype=torch.bool)


def test_means_and_variances_of_what_is_live_by_hand() -> None:
    x = torch.tensor([1.0, 9.0, 3.0], requires_grad=True)
    mean = live_mean(x, LIVE)
    assert mean.item() == 2
    assert torch.autograd.grad(mean, x)[0].tolist() == [0.5, 0, 0.5]
    assert live_mean(torch.tensor([1.0, torch.inf, 3.0]), LIVE).item() == 2
    assert live_variance(x, LIVE).item() == 1
    assert live_mean(x, None).item() == pytest.approx(13 / 3)
    assert live_mean(x, NONE).item() == live_variance(x, NONE).item() == 0


def test_where_live_by_hand() -> None:
    assert where_live(torch.tensor([1.0, torch.inf, 3.0]), LIVE).tolist() == [1, 0, 3]
    x = torch.tensor([1.0, 2.0])
    assert where_live(x, None) is x


def test_normalized_and_explained_variance_of_what_is_live_by_hand() -> None:
    x = torch.tensor([1.0, 900.0, 3.0])
    torch.testing.assert_close(normalized(x, LIVE), torch.tensor([-1.0, 0.0, 1.0]) / 2**0.5)
    torch.testing.assert_close(normalized(x, LIVE)[LIVE], normalized(x[LIVE]))
    assert normalized(x, torch.tensor([False, True, False])).tolist() == [0, 900, 0], "a single one has no deviation"
    assert normalized(x, NONE).tolist() == [0, 0, 0]
    # targets 1 and 3, errors 1 and 0: 1 - (1/4) / 1
    assert explained_variance(torch.tensor([0.0, -7.0, 3.0]), x, LIVE).item() == 0.75
    assert explained_variance(x, x, NONE).isnan()


@pytest.mark.parametrize("terminated", [False, True])
def test_a_copy_of_an_episode_s_last_step_changes_no_other_advantage(terminated: bool) -> None:
    """As a rollout holds it in place of a step that only begins the next episode."""
    rollout = random_rollout(7, steps=6, envs=1)
    rollout["terminated_TN"][:], rollout["ended_TN"][:] = False, False
    rollout["terminated_TN"][2], rollout["ended_TN"][2] = terminated, True
    with_copy = {name: x[[0, 1, 2, 2, 3, 4, 5]] for name, x in rollout.items()}
    for name in ("reward_TN", "value_TN", "next_value_TN"):
        with_copy[name][3] = 1e6
    got = gae(**with_copy, gamma=0.9, lam=0.8)[[0, 1, 2, 4, 5, 6]]
    torch.testing.assert_close(got, gae(**rollout, gamma=0.9, lam=0.8), rtol=1e-6, atol=1e-6)
