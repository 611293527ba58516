from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from trivium.agents.classic_control import ClassicControl
from trivium.agents.envs import Envs, GymEnvs, Step, make
from trivium.learner import Run


def build(id: str, num_envs: int = 3, seed: int = 0, **keywords: Any) -> Envs:
    return make(id=id, num_envs=num_envs, run=Run(seed=seed), stream="train", **keywords)


def act(envs: Envs, generator: torch.Generator) -> Tensor:
    if isinstance(envs.action_space, gym.spaces.Discrete):
        return torch.randint(int(envs.action_space.n), (envs.num_envs,), generator=generator)
    return torch.rand(envs.num_envs, *envs.action_space.shape, generator=generator) * 2 - 1


def play(envs: Envs, steps: int, generator: torch.Generator) -> list[Step]:
    return [envs.step(act(envs, generator)) for _ in range(steps)]


def assert_same(first: list[Step], second: list[Step]) -> None:
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_native_envs_where_there_are_any() -> None:
    assert isinstance(build("CartPole-v1"), ClassicControl)
    assert isinstance(build("CartPole-v1", native=False), GymEnvs)
    assert isinstance(build("CliffWalking-v1"), GymEnvs)


def test_same_step_autoreset() -> None:
    envs = build("Count-v0", num_envs=2)
    assert envs.reset().tolist() == [[0, 0]] * 2
    for t in range(30):
        episode, step = divmod(t, 3)
        got = envs.step(torch.zeros(2, dtype=torch.int64))
        ended = step == 2
        terminated = ended and (episode % 2 == 0 or episode % 3 == 0)
        truncated = ended and (episode % 2 == 1 or episode % 3 == 0)
        assert got.reward.tolist() == [10 * episode + step + 1] * 2, "no step is lost to a reset"
        assert got.terminated.tolist() == [terminated] * 2
        assert got.truncated.tolist() == [truncated] * 2
        assert got.next_obs.tolist() == [[episode, step + 1]] * 2, "the episode's own last observation"
        assert got.obs.tolist() == [[episode + 1, 0] if ended else [episode, step + 1]] * 2
        assert torch.equal(got.obs, envs.obs)


@pytest.mark.parametrize("native", [True, False])
def test_truncated_episodes_bootstrap_from_their_last_observation(native: bool) -> None:
    envs = build("Pendulum-v1", native=native)
    envs.reset()
    steps = play(envs, 200, torch.Generator().manual_seed(0))
    assert steps[-1].truncated.all()
    assert not steps[-1].terminated.any()
    assert not torch.equal(steps[-1].obs, steps[-1].next_obs)
    # the angle moves by at most 8 rad/s * 0.05 s a step, the reset draws it from the whole circle
    assert (steps[-1].next_obs - steps[-2].obs)[:, :2].norm(dim=1).max() < 0.4


@pytest.mark.parametrize("id", ["CartPole-v1", "Count-v0", "Drift-v0"])
def test_envs_differ_and_are_seeded_once(id: str) -> None:
    envs = build(id, num_envs=4)
    first, again = envs.reset(), envs.reset()
    if id != "Count-v0":
        assert len(first.unique(dim=0)) == 4
        assert not torch.equal(first, again), "a later reset goes on in the stream of randomness"
        assert torch.equal(envs.reset(reseed=True), first)
        assert torch.equal(build(id, num_envs=4).reset(), first)
        assert not torch.equal(build(id, num_envs=4, seed=1).reset(), first)
    else:
        assert isinstance(envs, GymEnvs)
        play(envs, 10, torch.Generator())
        seeds = [episode.env.unwrapped.seeds for episode in envs._episodes]
        assert all(len(s) == 5 and s[0] is not None and s[1:] == [None] * 4 for s in seeds)
        assert len({s[0] for s in seeds}) == 4


def test_ranks_and_streams_have_episodes_of_their_own() -> None:
    for native in (True, False):
        starts = [
            make(id="CartPole-v1", num_envs=2, run=run, stream=stream, native=native).reset()
            for run in (Run(rank=0, world_size=2), Run(rank=1, world_size=2))
            for stream in ("train", "eval", "test")
        ]
        assert [len(start) for start in starts] == [1, 2, 2, 1, 2, 2], "only the training envs are shared out"
        assert len(torch.cat(starts).unique(dim=0)) == 10


@pytest.mark.parametrize(
    ("id", "native"),
    [
        ("CartPole-v1", True),
        ("CartPole-v1", False),
        ("Drift-v0", True),
        ("Identity-v0", True),
        ("Pendulum-v1", True),
        ("Pendulum-v1", False),
        ("FrozenLake-v1", True),
        ("Acrobot-v1", True),
        ("Acrobot-v1", False),
        ("MountainCar-v0", True),
        ("MountainCarContinuous-v0", True),
    ],
)
@pytest.mark.parametrize("steps", [0, 1, 37])
def test_state_is_exact_mid_episode(saved: Callable[[Any], Any], id: str, native: bool, steps: int) -> None:
    envs, generator = build(id, native=native), torch.Generator().manual_seed(0)
    envs.reset()
    play(envs, steps, generator)
    state, obs = saved(envs.state_dict()), envs.obs
    again = build(id, native=native)
    again.reset()
    assert not again.load_state_dict(state).any()
    assert torch.equal(again.obs, obs)
    other = torch.Generator()
    other.set_state(generator.get_state())
    assert_same(play(envs, 300, generator), play(again, 300, other))
    assert str(envs.state_dict()) == str(again.state_dict())


@pytest.mark.parametrize("id", ["Wild-v0", "Hidden-v0"])
def test_a_nondeterministic_env_is_named_and_begins_anew(saved: Callable[[Any], Any], id: str) -> None:
    envs = build(id)
    envs.reset()
    play(envs, 5, torch.Generator())
    again = build(id)
    with pytest.warns(RuntimeWarning, match=f"{id}' is not deterministic.* in 3 of 3 envs.*no longer exact"):
        begun_anew = again.load_state_dict(saved(envs.state_dict()))
    assert begun_anew.tolist() == [True] * 3
    assert not again.obs.any(), "the first observation of an episode"
    play(again, 5, torch.Generator())


def test_state_of_another_number_of_envs_is_refused() -> None:
    for id in ("CartPole-v1", "Count-v0"):
        envs = build(id, num_envs=2)
        envs.reset()
        with pytest.raises(ValueError, match="saved with 2 envs on this worker, now there are 3"):
            build(id, num_envs=3).load_state_dict(envs.state_dict())


def test_module_ids_and_dtypes() -> None:
    envs = build("tiny_envs:Identity-v0", num_envs=4)
    obs = envs.reset()
    assert obs.dtype == torch.int64
    assert set(obs.tolist()) <= {0, 1, 2, 3}, "counted from 0, whatever the space's start"
    step = envs.step(torch.arange(4))
    assert step.reward.dtype == torch.float32
    assert step.terminated.dtype == step.truncated.dtype == torch.bool
    assert torch.equal(step.reward, (obs == torch.arange(4)).float())
    assert build("Drift-v0").reset().dtype == torch.float32


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("CartPol-v1", "did you mean 'CartPole-v1'"),
        ("CartPole-v9", "did you mean 'CartPole-v"),
        ("no_such_module:Env-v0", "no_such_module"),
        ("Zzyzx", "module:id"),
        ("Blackjack-v1", "observation space Tuple.*valid are Box, Discrete"),
        ("tiny_envs:Shapeless-v0", r"Shapeless-v0' returned an observation of shape \(\), .* says \(1,\)"),
        ("Broken-v0", "Broken-v0' returned an observation with NaN"),
        ("BrokenReward-v0", "BrokenReward-v0' returned the reward NaN"),
    ],
)
def test_what_is_wrong_with_an_env_is_said_with_its_name(id: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"env.id='.*{message}"):  # noqa: PT012  some fail at once, some when played
        envs = build(id)
        envs.reset()
        play(envs, 2, torch.Generator())


def test_num_envs_must_divide_among_the_workers() -> None:
    with pytest.raises(ValueError, match=r"env.num_envs=3 must be a positive multiple of the 2 workers"):
        make(id="CartPole-v1", num_envs=3, run=Run(world_size=2), stream="train")
