from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trivium.agents.replay import Priorities, Replay, SumTree, n_step_return
from trivium.agents.rollouts.collector import Rollout

CPU = torch.device("cpu")


def rows(*steps: int, num_envs: int = 2, terminated: Any = (), truncated: Any = ()) -> Rollout:
    """Step t of env n observes 10 * t + n, earns 2^t and leads to the observation of t + 1; ends are pairs (t, n)."""
    number = torch.tensor(steps).unsqueeze(1).expand(-1, num_envs)
    env = torch.arange(num_envs).expand(len(steps), -1)
    ends = [[[(t, n) in pairs for n in range(num_envs)] for t in steps] for pairs in (terminated, truncated)]
    return Rollout(
        obs=(10.0 * number + env).unsqueeze(2),
        reward=2.0**number,
        terminated=torch.tensor(ends[0]),
        truncated=torch.tensor(ends[1]),
        next_obs=(10.0 * (number + 1) + env).unsqueeze(2),
        kept=(number % 3,),
    )


def ring(num_rows: int, *rollouts: Rollout) -> Replay:
    replay = Replay(num_rows=num_rows, obs=rollouts[0].obs[0])
    for rollout in rollouts:
        replay.add(rollout)
    return replay


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# n-step returns


@pytest.mark.parametrize(
    ("terminated", "cut", "expected"),
    [
        ([0, 0, 0], [0, 0, 0], (3.0, 0.125, 2)),
        ([0, 0, 0], [0, 1, 0], (2.0, 0.25, 1)),
        ([0, 1, 0], [0, 1, 0], (2.0, 0.0, 1)),
        ([0, 1, 1], [1, 1, 1], (1.0, 0.5, 0)),
        ([0, 0, 1], [0, 0, 1], (3.0, 0.0, 2)),
    ],
)
def test_n_step_return_by_hand(terminated: list[int], cut: list[int], expected: tuple[float, float, int]) -> None:
    flags = torch.tensor([terminated, cut]).bool().unsqueeze(1)
    result = n_step_return(torch.tensor([[1.0, 2.0, 4.0]]), flags[0], flags[1], gamma=0.5)
    assert tuple(tensor.item() for tensor in result) == expected


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 30])
def test_n_step_return_equals_the_definition(num_steps: int, gamma: float) -> None:
    """In float64, over random patterns of terminations and truncations."""
    reward = torch.randn(300, num_steps, generator=generator(0))
    terminated = torch.rand(300, num_steps, generator=generator(1)) < 0.15
    cut = terminated | (torch.rand(300, num_steps, generator=generator(2)) < 0.15)
    return_B, discount_B, last_B = n_step_return(reward, terminated, cut, gamma=gamma)
    for i in range(300):
        last = next((k for k in range(num_steps) if cut[i, k]), num_steps - 1)
        total = sum(gamma**k * reward[i, k].double().item() for k in range(last + 1))
        assert last_B[i] == last
        assert return_B[i].item() == pytest.approx(total, abs=1e-5)
        assert discount_B[i].item() == pytest.approx(0 if terminated[i, last] else gamma ** (last + 1), abs=1e-6)


def test_what_follows_a_cut_is_not_looked_at() -> None:
    cut = torch.tensor([[True, False]])
    return_B, _, _ = n_step_return(torch.tensor([[1.0, torch.nan]]), torch.zeros_like(cut), cut, gamma=0.5)
    assert return_B.item() == 1


def expected_batch(steps: list[int], ends: dict[tuple[int, int], bool], t: int, n: int, k: int) -> list[float]:
    """By the definition, one step after another: return, discount, next observation."""
    total, discount = 0.0, 1.0
    for step in range(t, t + k):
        total += discount * 2.0**step
        discount *= 0.5
        if (step, n) in ends or step == max(steps):
            break
    return [total, 0.0 if ends.get((step, n)) else discount, 10.0 * (step + 1) + n]


@pytest.mark.parametrize("num_steps", [1, 2, 3, 6, 40])
@pytest.mark.parametrize("added", [3, 5, 6, 7, 12, 17])
def test_n_step_crosses_neither_the_ends_of_episodes_nor_the_write_pointer(num_steps: int, added: int) -> None:
    terminated, truncated = {(1, 0), (6, 1), (13, 0)}, {(2, 1), (8, 0), (11, 1)}
    rollouts = [rows(t, terminated=terminated, truncated=truncated) for t in range(added)]
    replay = ring(6, *rollouts)
    kept = list(range(max(0, added - 6), added))
    assert len(replay) == 2 * len(kept)
    batch = replay.batch(torch.arange(len(replay)), num_steps=num_steps, gamma=0.5)
    ends = dict.fromkeys(terminated, True) | dict.fromkeys(truncated, False)
    seen = set()
    for i in range(len(replay)):
        t, n = divmod(int(batch.obs[i].item()), 10)
        seen.add((t, n))
        got = [batch.return_[i].item(), batch.discount[i].item(), batch.next_obs[i].item()]
        assert got == expected_batch(kept, ends, t, n, num_steps)
        assert batch.action[i] == t % 3
    assert seen == {(t, n) for t in kept for n in range(2)}


def test_rollouts_of_several_rows_wrap_around() -> None:
    one = ring(5, *(rows(t) for t in range(8)))
    many = ring(5, rows(0, 1, 2), rows(3, 4, 5), rows(6, 7))
    assert all(torch.equal(a, b) for a, b in zip(one.rows, many.rows, strict=True))
    assert (one.position, one.filled) == (many.position, many.filled) == (3, 5)
    assert Replay(num_rows=5, obs=torch.zeros(2, 1)).add(rows(0, 1)).tolist() == [0, 1, 2, 3]


def test_a_cut_ends_the_look_ahead_and_keeps_the_bootstrap() -> None:
    replay = ring(5, rows(0, 1))
    replay.cut(torch.tensor([True, False]))
    replay.add(rows(2, 3))
    batch = replay.batch(torch.tensor([2, 3]), num_steps=3, gamma=0.5)
    assert batch.return_.tolist() == [2, 2 + 2 + 2]
    assert batch.discount.tolist() == [0.5, 0.125]


def test_bytes_stay_bytes() -> None:
    obs = torch.full((2, 3, 4), 255, dtype=torch.uint8)
    replay = Replay(num_rows=5, obs=obs)
    replay.add(rows(0)._replace(obs=obs.unsqueeze(0), next_obs=obs.unsqueeze(0)))
    batch = replay.batch(torch.tensor([1]), num_steps=1, gamma=0.5)
    assert batch.obs.dtype == batch.next_obs.dtype == torch.uint8
    assert batch.obs.shape == (1, 3, 4)


def test_samples_are_uniform_over_what_is_there() -> None:
    index = ring(100, rows(0, 1, 2)).sample(12_000, generator())
    frequencies = torch.bincount(index) / 12_000
    torch.testing.assert_close(frequencies, torch.full((6,), 1 / 6), rtol=0, atol=0.014)  # 4 standard errors


# Of two envs the first is dead at steps 2 and 5, the second at 4; each time the step before has ended an episode.
ENDS, DEAD = {(1, 0), (4, 0), (3, 1)}, {(2, 0), (5, 0), (4, 1)}


def dead_ring(added: int, num_rows: int = 5) -> Replay:
    replay = Replay(num_rows=num_rows, obs=torch.zeros(2, 1), dead_steps=True)
    for t in range(added):
        live = torch.tensor([[(t, n) not in DEAD for n in range(2)]])
        replay.add(rows(t, terminated=ENDS | DEAD)._replace(live=live))
    return replay


@pytest.mark.parametrize("added", [3, 5, 6, 7])
def test_what_is_dead_is_never_drawn_and_no_look_ahead_reaches_it(added: int) -> None:
    """The live ones uniformly, and each with the return it has in a ring without what is dead."""
    replay = dead_ring(added)
    kept = [(t, n) for t in range(max(0, added - 5), added) for n in range(2) if (t, n) not in DEAD]
    index = replay.sample(8000, generator())
    batch = replay.batch(index, num_steps=3, gamma=0.5)
    drawn = [divmod(int(obs), 10) for obs in batch.obs.flatten().tolist()]
    assert set(drawn) == set(kept)
    for pair in kept:
        assert drawn.count(pair) / 8000 == pytest.approx(1 / len(kept), abs=0.016)
    ends = dict.fromkeys(ENDS, True)
    for i in range(50):
        t, n = drawn[i]
        got = [batch.return_[i].item(), batch.discount[i].item(), batch.next_obs[i].item()]
        assert got == expected_batch(sorted({t for t, _ in kept}), ends, t, n, 3)


def test_what_is_live_is_saved_too(saved: Callable[[Any], Any]) -> None:
    for added in (3, 7):
        again = dead_ring(4)
        again.load_state_dict(saved(dead_ring(added).state_dict()))
        assert torch.equal(again.sample(100, generator()), dead_ring(added).sample(100, generator()))
        assert again.live_RN is not None
        assert not again.live_RN[: again.filled].all()


@pytest.mark.parametrize("added", [0, 2, 5, 7])
def test_a_ring_is_saved_as_far_as_it_is_filled(saved: Callable[[Any], Any], added: int) -> None:
    replay = ring(5, rows(0), *(rows(t) for t in range(1, added)))
    state = saved(replay.state_dict())
    assert len(state["rows"]["reward"]) == min(max(added, 1), 5)
    big = Replay(num_rows=100_000, obs=torch.zeros(2, 1))
    big.add(rows(0))
    assert sum(tensor.untyped_storage().nbytes() for tensor in big.state_dict()["rows"].values()) < 1000

    again = ring(5, rows(*range(90, 95)))
    again.load_state_dict(state)
    for both in (replay, again):
        both.add(rows(50, 51))
    index = torch.arange(len(replay))
    assert len(again) == len(replay)
    for a, b in zip(*(both.batch(index, num_steps=3, gamma=0.5) for both in (replay, again)), strict=True):
        assert torch.equal(a, b)


def test_a_ring_of_another_shape_is_refused() -> None:
    state = ring(5, rows(0)).state_dict()
    with pytest.raises(ValueError, match="buffer of 5 steps of 2 envs on this worker, now there are 6 of 2"):
        ring(6, rows(0)).load_state_dict(state)


# priorities


@pytest.mark.parametrize("size", [1, 63, 64, 65, 4096, 5000])
def test_sum_tree_finds_by_the_definition(size: int) -> None:
    weight = torch.rand(size, generator=generator(), dtype=torch.float64)
    weight[torch.rand(size, generator=generator(1)) < 0.3] = 0
    weight[size // 2] = 1
    tree = SumTree(size, CPU)
    order = torch.randperm(size, generator=generator(2))
    for part in order.split(max(1, size // 7)):
        tree.set(part, weight[part])
    assert torch.equal(tree[torch.arange(size)], weight)
    torch.testing.assert_close(tree.total, weight.sum())
    quantile = torch.cat(
        [torch.rand(2000, generator=generator(3), dtype=torch.float64), torch.tensor([0.0, 1 - 1e-16])]
    )
    found = tree.find(quantile)
    expected = torch.searchsorted(weight.cumsum(0), quantile * weight.sum(), right=True)
    assert (found == expected.clamp(max=size - 1))[:-1].all()
    assert (weight[found] > 0).all()


def test_sum_tree_never_finds_a_weight_of_0() -> None:
    tree = SumTree(200, CPU)
    tree.set(torch.tensor([3, 70]), torch.tensor([1e-3, 1e9]))
    found = tree.find(torch.tensor([0.0, 1e-13, 0.5, 1 - 1e-16], dtype=torch.float64))
    assert found.tolist() == [3, 3, 70, 70]
    tree.set(torch.tensor([70]), torch.tensor([0.0]))
    assert tree.find(torch.tensor([0.0, 0.999], dtype=torch.float64)).tolist() == [3, 3]


def priorities_of(*errors: float, alpha: float = 0.5, size: int = 100) -> Priorities:
    priorities = Priorities(size, alpha=alpha, device=CPU)
    index = torch.arange(len(errors))
    priorities.add(index)
    priorities.update(index, torch.tensor(errors))
    return priorities


def test_priorities_are_sampled_in_proportion_to_their_power() -> None:
    priorities = priorities_of(1.0, -4.0, 9.0, 0.0)
    draws = torch.cat([priorities.sample(8, generator(seed)) for seed in range(2500)])
    frequencies = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(frequencies, torch.tensor([1, 2, 3, 0.001]) / 6.001, rtol=0, atol=0.01)


def test_a_batch_takes_one_draw_from_each_part() -> None:
    priorities = priorities_of(*[1.0] * 8)
    for seed in range(5):
        assert priorities.sample(8, generator(seed)).tolist() == list(range(8))


def test_weights_by_hand() -> None:
    # P = 1/6, 2/6, 3/6; (3 P)^-1 = 2, 1, 2/3
    priorities = priorities_of(1.0, -4.0, 9.0)
    index = torch.tensor([0, 1, 2, 2])
    weights = priorities.weights(index, 3, beta=1.0)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([1, 1 / 2, 1 / 3, 1 / 3]), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        priorities.weights(index[1:], 3, beta=1.0), torch.tensor([1, 2 / 3, 2 / 3]), rtol=1e-5, atol=0
    )
    half = priorities.weights(index, 3, beta=0.5)
    torch.testing.assert_close(half, torch.tensor([1, 1 / 2, 1 / 3, 1 / 3]).sqrt(), rtol=1e-5, atol=0)
    assert priorities.weights(index, 3, beta=0.0).tolist() == [1] * 4


def test_new_transitions_get_the_largest_priority_so_far() -> None:
    priorities = Priorities(100, alpha=0.5, device=CPU)
    priorities.add(torch.tensor([0]))
    assert priorities.tree[torch.tensor([0])].item() == 1
    priorities.update(torch.tensor([0]), torch.tensor([16.0]))
    priorities.update(torch.tensor([0]), torch.tensor([4.0]))
    priorities.add(torch.tensor([1, 2]))
    torch.testing.assert_close(priorities.tree[torch.arange(3)].float(), torch.tensor([2.0, 4.0, 4.0]))


def test_what_is_dead_has_no_priority() -> None:
    priorities = priorities_of(1.0, 16.0, 4.0, alpha=0.5)
    priorities.add(torch.tensor([0, 1, 3, 4]), torch.tensor([True, False, True, False]))
    torch.testing.assert_close(priorities.tree[torch.arange(5)].float(), torch.tensor([4.0, 0.0, 2.0, 4.0, 0.0]))
    draws = torch.cat([priorities.sample(8, generator(seed)) for seed in range(100)])
    assert set(draws.tolist()) == {0, 2, 3}


def test_priorities_are_saved_as_far_as_they_are_known(saved: Callable[[Any], Any]) -> None:
    priorities = priorities_of(*torch.rand(70, generator=generator()).tolist(), size=10_000)
    state = saved(priorities.state_dict(70))
    assert [len(level) for level in state["levels"]] == [2, 1, 1]
    again = priorities_of(*[5.0] * 500, size=10_000)
    again.load_state_dict(state)
    assert torch.equal(again.largest, priorities.largest)
    levels: list[tuple[Tensor, Tensor]] = list(zip(again.tree.levels, priorities.tree.levels, strict=True))
    assert all(torch.equal(a, b) for a, b in levels)
