"""An evaluation plays the same episodes, whatever steps them and however many envs there are: as few as asked for."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_envs
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from trivium import learner
from trivium.agents.envs.classic_control import ClassicControl
from trivium.agents.envs.environment import make
from trivium.agents.envs.episodes import NONE, Episodes
from trivium.agents.envs.protocol import Envs
from trivium.agents.evaluation.returns import Evaluation
from trivium.learner import Run


class OwnLasts(gym.vector.VectorEnv):
    """`tiny_envs.Lasts` as an env's own vector env, which takes its seeds in one form only."""

    def __init__(self, num_envs: int, form: type, mode: AutoresetMode, **settings: Any) -> None:
        self.num_envs, self.form = num_envs, form
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = tiny_envs.Lasts.observation_space
        self.single_action_space = tiny_envs.Lasts.action_space
        self._vector = SyncVectorEnv([tiny_envs.Lasts] * num_envs, autoreset_mode=mode)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is None or isinstance(seed, self.form)
        if seed is not None and not isinstance(seed, int):
            seed = [None if one is None else int(one) for one in seed]
        elif seed is not None:  # one stream of randomness for all: which episodes come depends on how many there are
            seed = np.random.default_rng(seed + self.num_envs - 1).integers(1000, size=self.num_envs).tolist()
        return self._vector.reset(seed=seed, options=options)

    def step(self, actions: np.ndarray) -> Any:
        return self._vector.step(actions)


OWN = [(form, mode) for form in (int, np.ndarray, list) for mode in AutoresetMode]
for form, mode in OWN:
    keywords = {"form": form, "mode": mode}
    id = f"Own{form.__name__.title()}{mode.name}-v0"
    gym.register(id, entry_point=tiny_envs.Lasts, vector_entry_point=functools.partial(OwnLasts, **keywords))


class Counted(tiny_envs.Lasts):
    """Of which few may exist."""

    there = most = 0

    def __init__(self) -> None:
        Counted.there += 1
        Counted.most = max(Counted.most, Counted.there)

    def close(self) -> None:
        Counted.there -= 1


gym.register("Counted-v0", entry_point=Counted)
gym.register("NeverEnds-v0", entry_point=tiny_envs.Forever)


def evaluation(run: Run | None = None, max_steps: int = 100, episodes: int = 7, **keywords: Any) -> Evaluation:
    env = functools.partial(make, **{"id": "Lasts-v0", **keywords})
    return Evaluation(run=run or Run(), env=env, eval_episodes=episodes, test_episodes=episodes, max_steps=max_steps)


def zero(obs: Tensor, state_NM: Tensor, generators: Any) -> tuple[Tensor, Tensor]:
    return torch.zeros(len(obs), dtype=torch.int64), state_NM


def sampled(obs: Tensor, state_NM: Tensor, generators: Any) -> tuple[Tensor, Tensor]:
    actions = [torch.randint(2, (), generator=generator) for generator in generators]
    return torch.stack(actions), state_NM


def returns(evaluation: Evaluation, act: Any = zero, **keywords: Any) -> list[float]:
    try:
        evaluation(act, final=False, **keywords)
    finally:
        evaluation.close()
    return evaluation.last_returns


def test_the_list_of_episodes() -> None:
    episodes = Episodes([10, 11, 12, 13], 3)
    assert episodes.first() == [10, 11, 12]
    assert episodes.playing_N.tolist() == [0, 1, 2]
    assert episodes.begin(np.array([False, True, True])) == [None, 13, 13], "any seed where there is no episode left"
    assert episodes.playing_N.tolist() == [0, 3, NONE]
    assert not episodes.left
    episodes.end(np.array([True, True, False]))
    assert episodes.playing_N.tolist() == [NONE] * 3
    assert episodes.first() == [10, 11, 12]
    assert episodes.left


@pytest.mark.parametrize("vector", [None, "sync", "async"])
def test_episodes_do_not_depend_on_the_number_of_envs(vector: Any) -> None:
    expected = returns(evaluation(num_envs=1))
    assert len(set(expected)) > 3, "which last 1 to 9 steps"
    for num_envs in (2, 3, 20) if vector != "async" else (3,):
        assert returns(evaluation(num_envs=num_envs, vector=vector)) == expected


@pytest.mark.parametrize(("form", "mode"), OWN)
def test_nor_do_those_of_an_envs_own_vector_env(form: type, mode: AutoresetMode) -> None:
    id = f"Own{form.__name__.title()}{mode.name}-v0"
    expected = returns(evaluation(id=id, num_envs=1, vector="own"))
    assert len(set(expected)) > 3
    for num_envs in (3, 20):
        assert returns(evaluation(id=id, num_envs=num_envs, vector="own")) == expected
    if form is not int:
        assert expected == returns(evaluation(num_envs=1))


def test_gymnasiums_own_vector_env_and_actions_that_are_sampled() -> None:
    for keywords in ({"vector": "own"}, {"vector": "sync"}, {"native": False}):
        results = [
            returns(evaluation(id="CartPole-v1", num_envs=num_envs, **keywords), sampled) for num_envs in (1, 2, 5)
        ]
        assert results[0] == results[1] == results[2]
        assert len(set(results[0])) > 3


class Pool:
    """EnvPool's API: env i is seeded by `seed + i`, resets some by their numbers, and begins anew in the next step."""

    observation_space, action_space = tiny_envs.Lasts.observation_space, tiny_envs.Lasts.action_space

    def __init__(self, num_envs: int, seed: int) -> None:
        self.envs = [tiny_envs.Lasts() for _ in range(num_envs)]
        for i, env in enumerate(self.envs):
            env.reset(seed=seed + i)

    def reset(self, index: Any = None) -> Any:
        some = [self.envs[i].reset() if self.begun else (self.envs[i].x, {}) for i in self.numbers(index)]
        self.begun = True
        return np.stack([obs for obs, _ in some]), {}

    begun = False

    def numbers(self, index: Any) -> Any:
        return range(len(self.envs)) if index is None else index

    def step(self, actions: np.ndarray) -> Any:
        obs, reward, terminated, truncated, _ = zip(
            *(env.step(int(action)) for env, action in zip(self.envs, actions, strict=True)), strict=True
        )
        return np.stack(obs), np.array(reward), np.array(terminated), np.array(truncated), {}

    def close(self) -> None:
        pass


def test_nor_those_of_envpool(monkeypatch: pytest.MonkeyPatch) -> None:
    envpool: Any = types.ModuleType("envpool")
    envpool.list_all_envs = lambda: ["Lasts-v0"]
    envpool.make_gymnasium = lambda id, num_envs, seed: Pool(num_envs, seed)
    monkeypatch.setitem(sys.modules, "envpool", envpool)
    results = [returns(evaluation(num_envs=num_envs, vector="envpool")) for num_envs in (1, 3, 20)]
    assert results[0] == results[1] == results[2]
    assert len(set(results[0])) > 3


@pytest.mark.parametrize("vector", [None, "sync"])
def test_there_are_no_more_envs_than_asked_for(vector: Any) -> None:
    Counted.there = Counted.most = 0
    judge = evaluation(id="Counted-v0", num_envs=3, vector=vector)
    for final in (False, True, False):
        judge(zero, final=final)
    assert Counted.most == 3
    judge.close()
    assert Counted.there == 0


def test_an_env_for_each_process_of_an_async_vector_env() -> None:
    judge = evaluation(num_envs=2, vector="async")
    judge(zero, final=False)
    envs: Any = judge._envs_of("eval", range(7))
    assert len(envs.vector.processes) == 2
    judge.close()


def test_batched_envs_play_all_episodes_at_once() -> None:
    judge = evaluation(id="CartPole-v1", num_envs=2)
    judge(zero, final=False)
    envs = judge._envs_of("eval", range(7))
    assert isinstance(envs, ClassicControl)
    assert envs.num_envs == 7


@pytest.mark.parametrize("vector", [None, "sync"])
@pytest.mark.parametrize("num_envs", [1, 3, 20])
def test_episodes_that_do_not_end_are_cut(num_envs: int, vector: Any) -> None:
    assert returns(evaluation(id="NeverEnds-v0", num_envs=num_envs, vector=vector, max_steps=5)) == [5.0] * 7
    lasts = returns(evaluation(num_envs=num_envs, vector=vector, max_steps=5))
    assert lasts == [min(5, length) for length in returns(evaluation(num_envs=1))]


@pytest.mark.parametrize("form", [int, np.ndarray, list])
def test_those_that_begin_together_are_cut_together(form: type) -> None:
    id = f"Own{form.__name__.title()}NEXT_STEP-v0"
    whole = returns(evaluation(id=id, num_envs=3, vector="own"))
    assert returns(evaluation(id=id, num_envs=3, vector="own", max_steps=5)) == [min(5, length) for length in whole]


def test_a_memory_begins_each_episode_with_nothing() -> None:
    """Its state counts the steps of the episode; the env's number of steps is what it observes."""
    seen: list[tuple[float, float]] = []

    def act(obs: Tensor, state_N1: Tensor, generators: Any) -> tuple[Tensor, Tensor]:
        assert (state_N1 < obs).all(), "no episode has more steps than it lasts"
        seen.extend(zip(state_N1.flatten().tolist(), obs.flatten().tolist(), strict=True))
        return torch.zeros(len(obs), dtype=torch.int64), state_N1 + 1

    returns(evaluation(num_envs=1), act, state_size=1)
    assert [step for step, _ in seen] == [
        float(t) for length in returns(evaluation(num_envs=1)) for t in range(int(length))
    ]


class Worker(Run):
    """One of several, which waits for none; bytes are what rank 0 has said before."""

    said: list[Tensor] = []  # noqa: RUF012

    def gather(self, value: Tensor) -> Tensor:
        if value.dtype != torch.uint8:
            return value
        if self.rank == 0:
            self.said.append(value)
        return self.said[-1]


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_share_the_episodes_out(num_workers: int) -> None:
    def of(rank: int) -> list[float]:
        return returns(evaluation(Worker(rank=rank, world_size=num_workers), num_envs=num_workers * 2))

    assert [length for rank in range(num_workers) for length in of(rank)] == returns(evaluation(num_envs=2))


def test_envs_of_a_users_own_are_asked_for_one_an_episode() -> None:
    asked: list[dict[str, Any]] = []

    def env(run: Run, stream: str, num_envs: int = 2) -> Envs:
        asked.append({"stream": stream, "num_envs": num_envs})
        return make(id="Lasts-v0", run=run, stream=stream, num_envs=num_envs)

    judge = Evaluation(run=Run(), env=env, eval_episodes=3, test_episodes=4, max_steps=100)
    assert judge(zero, final=False)["return_min"] >= 1
    assert asked == [{"stream": "eval", "num_envs": 3}]
    assert len(judge.last_returns) == 3


@pytest.mark.parametrize("id", ["NeverEnds-v0", "CartPole-v1"])
def test_it_says_how_far_it_is(id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    judge = evaluation(id=id, num_envs=2, max_steps=5, episodes=3)
    judge.run.doing.show = said.append
    monkeypatch.setattr(learner, "DOING_S", 0.0)
    judge(zero, final=False)
    if id == "CartPole-v1":  # all at once
        assert said == [f"evaluating: 0 of 3 episodes, now at step {t} of at most 5" for t in range(1, 6)]
    else:
        first = [f"evaluating: 0 of 3 episodes, now at step {t} of at most 5" for t in range(1, 5)]
        last = [f"evaluating: 2 of 3 episodes, now at step {t} of at most 5" for t in range(5)]
        assert said == [*first, *last, "evaluating: 3 of 3 episodes, now at step 0 of at most 5"]


def test_time_that_went_into_episodes_without_an_end_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = evaluation(id="NeverEnds-v0", num_envs=2, max_steps=5, episodes=3)
    judge(zero, final=False)
    assert not caplog.records, "it was quick"
    monkeypatch.setattr("trivium.agents.evaluation.returns.CUT_S", 0.0)
    returns(evaluation(num_envs=2))
    assert not caplog.records, "all episodes ended"
    judge(zero, final=False)
    judge(zero, final=False)
    assert [record.args[1:] for record in caplog.records if isinstance(record.args, tuple)] == [(3, 3, 5)]
