"""What wrappers keep over the ends of episodes is part of a run: saved, resumed to the bit, frozen in evaluation."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import contract
import gymnasium as gym
import numpy as np
import pytest
import tiny_envs
import torch
from gymnasium.wrappers.utils import RunningMeanStd
from playing import assert_same, play
from torch import Tensor

from trivium.agents.attributes import same, to_tensors
from trivium.agents.dqn import DQN
from trivium.agents.envs.environment import make
from trivium.agents.envs.wrapper_state import Kept, State, WrapperState, keeping, merged, statistics_of
from trivium.agents.evaluation.play import Film
from trivium.agents.evaluation.returns import Evaluation
from trivium.agents.ppo import PPO
from trivium.agents.rollouts.collector import Collector
from trivium.learner import Run

NORMALIZE = ["NormalizeObservation", "NormalizeReward"]


class Habits(gym.Wrapper):
    """A user's own: shifts observations by the number of episodes, by noise of its own, and by what it has seen."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.episodes = 0
        self.rng = np.random.default_rng(3)
        self.seen = RunningMeanStd(shape=())
        self.longest: list[int] = []
        self.config = {"scale": 0.1}

    def reset(self, **keywords: Any) -> Any:
        obs, info = self.env.reset(**keywords)
        self.episodes += 1
        self.steps = 0
        return self.shifted(obs), info

    def step(self, action: Any) -> Any:
        obs, *rest = self.env.step(action)
        self.steps += 1
        self.longest = sorted([*self.longest, self.steps])[-3:]
        return self.shifted(obs), *rest

    def shifted(self, obs: Any) -> Any:
        self.seen.update(obs)
        shift = self.episodes + self.rng.normal() + float(self.seen.mean) + sum(self.longest)
        return (obs + self.config["scale"] * shift).astype(np.float32)


class Idle(gym.Wrapper):
    """Keeps nothing."""


def habitual() -> gym.Env:
    return Habits(Idle(tiny_envs.Drift()))


gym.register("Habits-v0", entry_point=habitual)
CASES = [("Drift-v0", NORMALIZE), ("Habits-v0", []), ("Habits-v0", ["NormalizeObservation"])]


def build(id: str, vector: Any = None, stream: str = "train", **keywords: Any) -> Any:
    return make(**{"id": id, "num_envs": 3, "run": Run(seed=0), "stream": stream, "vector": vector, **keywords})


def test_what_differs_from_the_beginning_is_kept() -> None:
    env = habitual()
    state = WrapperState(env)
    assert state.keeps
    assert state.get() == {}
    env.reset(seed=1)
    env.step(np.zeros(2, np.float32))
    kept = state.get()
    assert {key: sorted(values) for key, values in kept.items()} == {
        "Habits/0": ["episodes", "longest", "rng", "seen", "steps"]
    }
    assert kept["Habits/0"]["episodes"] == 1
    state.set({})
    assert state.get() == {}
    assert not hasattr(env, "steps"), "as it was made"
    state.set(kept)
    assert same(state.get(), kept)


@pytest.mark.parametrize("wrappers", [[], ["RecordEpisodeStatistics"], [{"FrameStackObservation": {"stack_size": 2}}]])
def test_wrappers_that_keep_nothing_cost_nothing(wrappers: list[Any]) -> None:
    envs = build("Drift-v0", wrappers=wrappers)
    assert not any(isinstance(episode.env, Kept) for episode in envs._episodes)
    assert "kept" not in envs.state_dict()["episodes"][0]
    assert isinstance(keeping(gym.make("CartPole-v1")), gym.Wrapper)
    assert not isinstance(keeping(Idle(tiny_envs.Drift())), Kept)


def statistic(count: Any, mean: Any, var: Any) -> State:
    of = {"count": count, "mean": np.array(mean), "var": np.array(var)}
    return {"N/0": {"rms": {"kind": "object", "of": of}, "other": count}}


def test_running_statistics_of_several_envs_are_those_of_all_together() -> None:
    together = merged([statistic(1.0, [0.0], [0.0]), statistic(3.0, [4.0], [0.0])])["N/0"]
    assert together["other"] == 1.0, "the first env's"
    of = together["rms"]["of"]
    assert (of["count"], of["mean"].tolist(), of["var"].tolist()) == (4.0, [3.0], [3.0])
    assert same(merged([statistic(0.3, [0.1], [0.7])]), statistic(0.3, [0.1], [0.7])), "to the bit"
    assert same(merged([statistic(2, [1.0], [1.0]), {}]), statistic(2, [1.0], [1.0])), "of which one has seen nothing"
    assert merged([]) == {}
    assert list(statistics_of(statistic(1.0, [0.0], [0.0]))["N/0"]) == ["rms"]
    assert statistics_of({"N/0": {"other": 1}}) == {}

    x = np.random.default_rng(0).normal(2.0, 3.0, (3, 50))
    states = []
    for row in x:
        rms = RunningMeanStd(epsilon=0.0)
        rms.update(row)
        states.append(statistic(rms.count, rms.mean, rms.var))
    of = merged(states)["N/0"]["rms"]["of"]
    assert np.allclose([of["count"], of["mean"], of["var"]], [150, x.mean(), x.var()])


@pytest.mark.parametrize("vector", [None, "sync"])
@pytest.mark.parametrize(("id", "wrappers"), CASES)
def test_a_resumed_env_goes_on_with_what_its_wrappers_kept(
    id: str, wrappers: list[Any], vector: Any, saved: Callable[[Any], Any]
) -> None:
    envs = build(id, vector, wrappers=wrappers)
    envs.reset()
    play(envs, 37, torch.Generator().manual_seed(0))
    state = saved(envs.state_dict())
    expected = play(envs, 30, torch.Generator().manual_seed(1))

    resumed = build(id, vector, wrappers=wrappers)
    resumed.reset()
    play(resumed, 9, torch.Generator().manual_seed(5))  # whatever it was before is forgotten
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not resumed.load_state_dict(state).any()
    assert_same(play(resumed, 30, torch.Generator().manual_seed(1)), expected)
    assert str(resumed.state_dict()) == str(envs.state_dict())


def test_so_does_one_in_another_process(saved: Callable[[Any], Any]) -> None:
    envs, resumed = (build("Habits-v0", "async", wrappers=["NormalizeObservation"]) for _ in range(2))
    envs.reset()
    play(envs, 20, torch.Generator().manual_seed(0))
    state = saved(envs.state_dict())
    assert not resumed.load_state_dict(state).any()
    assert_same(*(play(each, 20, torch.Generator().manual_seed(1)) for each in (envs, resumed)))
    kept = envs.kept()
    assert same(kept, resumed.kept())
    envs.close()
    resumed.close()
    assert same(envs.kept(), kept), "for evaluations after the training"


class Lazy(gym.Wrapper):
    """Makes its statistics when it first needs them."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.seen: RunningMeanStd | None = None
        self.number = 0

    def reset(self, **keywords: Any) -> Any:
        self.seen = self.seen or RunningMeanStd()
        self.number += 1
        return self.env.reset(**keywords)


def test_what_could_not_be_put_back_is_not_taken() -> None:
    env = Lazy(tiny_envs.Drift())
    state = WrapperState(env)
    env.reset()
    assert state.get() == {"Lazy/0": {"number": 1}}


def of_mean(mean: Any) -> Any:
    return {"NormalizeObservation/0": {"obs_rms": statistic(1.0, mean, [1.0] * 3)["N/0"]["rms"]}}


WRONG = [1, {"NormalizeObservation/0": 1}, {"NormalizeObservation/0": {"obs_rms": 1, "reset": 2}}, of_mean([0.0])]


@pytest.mark.parametrize("vector", [None, "sync", "async"])
@pytest.mark.parametrize("kept", WRONG, ids=str)
def test_what_does_not_fit_the_wrappers_is_refused(kept: Any, vector: Any) -> None:
    envs = build("Drift-v0", vector, wrappers=NORMALIZE, num_envs=1)
    sound, state = envs.state_dict(), envs.state_dict()
    if vector:
        state["kept"] = [to_tensors(kept)]
    else:
        state["episodes"][0]["kept"] = to_tensors(kept)
    with pytest.raises(ValueError, match="kept"):
        envs.load_state_dict(state)
    if vector:
        with pytest.raises(ValueError, match="of the 1 envs"):
            envs.load_state_dict(state | {"kept": [{}, {}]})
    assert not envs.load_state_dict(sound).any(), "the checkpoint before"
    envs.close()


@pytest.mark.parametrize("autoreset_mode", ["same_step", "next_step"])
def test_envs_that_begin_new_episodes_begin_them_with_it(autoreset_mode: str, saved: Callable[[Any], Any]) -> None:
    settings = {"autoreset_mode": autoreset_mode}
    envs, resumed = (build("Drift-v0", "sync", wrappers=NORMALIZE, vector_settings=settings) for _ in range(2))
    envs.reset()
    play(envs, 20, torch.Generator().manual_seed(0))
    resumed.load_state_dict(saved(envs.state_dict()))
    counts = [count(each.kept()) for each in (envs, resumed)]
    assert counts[1] == pytest.approx(counts[0] + 3), "the first observations of three new episodes"


def count(kept: State) -> float:
    """How many observations the running statistics are of."""
    (of,) = (values["obs_rms"]["of"] for values in kept.values() if "obs_rms" in values)
    return float(of["count"])


# evaluation


def judged(vector: Any, **keywords: Any) -> Evaluation:
    env = functools.partial(make, **{"id": "Drift-v0", "num_envs": 2, "vector": vector, **keywords})
    return Evaluation(run=Run(), env=env, eval_episodes=5, test_episodes=5, max_steps=30)


def observed(judge: Evaluation) -> list[Tensor]:
    seen: list[Tensor] = []

    def still(obs: Tensor, state_NM: Tensor, generators: Any) -> tuple[Tensor, Tensor]:
        seen.append(obs)
        return torch.zeros(len(obs), 2), state_NM

    judge(still, final=False)
    return seen


@pytest.mark.parametrize("vector", [None, "sync", "async"])
def test_evaluation_normalises_as_training_does_and_changes_nothing(vector: Any) -> None:
    envs = build("Drift-v0", vector, wrappers=NORMALIZE)
    envs.reset()
    play(envs, 40, torch.Generator().manual_seed(0))
    kept = envs.kept()
    of = kept["NormalizeObservation/0"]["obs_rms"]["of"]
    assert of["count"] > 3 * 40, "of all envs"
    judge, plain = judged(vector, wrappers=NORMALIZE), judged(vector)
    judge.kept = kept
    first, raw = observed(judge), observed(plain)
    expected = (raw[0].numpy() - of["mean"]) / np.sqrt(of["var"] + 1e-8)
    assert np.allclose(first[0].numpy(), expected, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(first, observed(judge), strict=True))
    assert same(envs.kept(), kept)
    for each in (envs, judge, plain):
        each.close()


def test_a_film_shows_what_evaluation_would_see() -> None:
    judge = judged(None, id="Drawn-v0", wrappers=["NormalizeObservation"])
    judge.kept = {"NormalizeObservation/0": {"obs_rms": statistic(9.0, [3.0], [4.0])["N/0"]["rms"]}}
    seen: list[float] = []

    def watch(obs: Tensor, state_NM: Tensor, generators: Any) -> tuple[Tensor, Tensor]:
        seen.append(obs.item())
        return torch.zeros(1, dtype=torch.int64), state_NM

    assert len(list(Film(judge, watch))) == 5
    assert set(seen) <= {-1.0, -2.0}, "(1 - 3) / 2 or (-1 - 3) / 2, at every step"


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("vector", [None, "sync"])
def test_a_users_own_wrapper_begins_each_episode_of_evaluation_alike(vector: Any, num_envs: int) -> None:
    judge = judged(vector, id="Habits-v0", num_envs=num_envs)
    for kept in ({}, {"Habits/0": {"episodes": 100}}):
        judge.kept = kept
        first = observed(judge)
        assert all(torch.equal(a, b) for a, b in zip(first, observed(judge), strict=True))
        assert (first[0].mean() > 5) == bool(kept)
    returns = list(judge.last_returns)
    alone = judged(vector, id="Habits-v0", num_envs=1)
    alone.kept = judge.kept
    observed(alone)
    assert returns == alone.last_returns


class OwnNormalized(gym.wrappers.vector.NormalizeObservation):
    """An env's own vector env, normalised by gymnasium's vector wrapper."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(gym.vector.SyncVectorEnv([tiny_envs.Drift] * num_envs))


class OneSeedNormalized(OwnNormalized):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        assert seed is None or isinstance(seed, int)
        return super().reset(seed=seed, options=options)


for own in (OwnNormalized, OneSeedNormalized):
    gym.register(f"{own.__name__}-v0", entry_point=tiny_envs.Drift, vector_entry_point=own)


@pytest.mark.parametrize("id", ["OwnNormalized-v0", "OneSeedNormalized-v0"])
def test_wrappers_of_a_vector_env_are_saved_and_frozen_too(id: str, saved: Callable[[Any], Any]) -> None:
    envs, resumed = (build(id, "own") for _ in range(2))
    envs.reset()
    play(envs, 20, torch.Generator().manual_seed(0))
    resumed.load_state_dict(saved(envs.state_dict()))
    assert count(resumed.kept()) == pytest.approx(count(envs.kept()) + 3)
    judge = judged("own", id=id)
    judge.kept = envs.kept()
    first = observed(judge)
    assert all(torch.equal(a, b) for a, b in zip(first, observed(judge), strict=True))
    judge.kept = {}
    assert not torch.equal(observed(judge)[0], first[0])


def test_what_cannot_be_seen_is_said(caplog: pytest.LogCaptureFixture) -> None:
    judge = judged(None, id="Count-v0")
    judge(lambda obs, state, generators: (torch.zeros(len(obs), dtype=torch.int64), state), final=False)
    assert not caplog.records
    for _ in range(2):
        judge(lambda obs, state, generators: (torch.zeros(len(obs), dtype=torch.int64), state), final=False)
    assert [record.args for record in caplog.records] == [("Count-v0",)]


class OneOfTwo(Run):
    """Rank 0 of two workers, or rank 1, which is told what rank 0 said."""

    told: list[Tensor] = []  # noqa: RUF012

    def gather(self, value: Tensor) -> Tensor:
        if self.rank == 0 and value.dtype == torch.uint8:
            self.told.append(value)
        return self.told[-1] if value.dtype == torch.uint8 else value


def test_workers_evaluate_with_what_the_first_one_keeps() -> None:
    judges = [judged(None, wrappers=NORMALIZE) for _ in range(2)]
    for rank, judge in enumerate(judges):
        judge.run = OneOfTwo(rank=rank, world_size=2)
        judge.kept = {"NormalizeObservation/0": {"obs_rms": statistic(rank + 1.0, [rank] * 3, [1.0] * 3)["N/0"]["rms"]}}
        observed(judge)
    assert same(judges[0].kept, judges[1].kept)
    assert count(judges[1].kept) == 1


# agents


def ppo(**keywords: Any) -> PPO:
    env = functools.partial(make, id="Habits-v0", num_envs=2, wrappers=NORMALIZE)
    given = {"num_steps": 8, "minibatch_size": 8, "num_epochs": 1, "hidden": [8], "max_eval_steps": 20, **keywords}
    return PPO(run=Run(seed=3), env=env, **given)


def test_an_agent_resumes_to_the_bit(saved: Callable[[Any], Any]) -> None:
    contract.check_resumes(ppo, saved)


def test_an_agents_evaluation_depends_on_its_weights_and_statistics_only(saved: Callable[[Any], Any]) -> None:
    contract.check_evaluation(ppo, saved)


def test_loaded_weights_bring_their_statistics(saved: Callable[[Any], Any]) -> None:
    learner = ppo(eval_episodes=2)
    contract.train(learner, 1)
    early, result = saved(learner.state_dict()), learner.evaluate()
    contract.train(learner, 2)
    assert learner.evaluate() != result
    late = saved(learner.state_dict())
    learner.load_weights(early)
    assert learner.evaluate() == result, "the best weights at the end of a run"
    learner.load_state_dict(late)
    contract.train(learner, 1)
    assert count(learner.evaluation.kept) < count(learner.collector.kept())
    learner.evaluate()
    assert same(learner.evaluation.kept, learner.collector.kept()), "those of training again"


def test_a_collector_knows_what_its_envs_keep() -> None:
    dqn = DQN(
        run=Run(),
        env=functools.partial(make, id="Match-v0", num_envs=2, wrappers=["NormalizeObservation"]),
        learning_starts=8,
        batch_size=8,
        buffer_size=64,
        train_every_env_steps=8,
        eval_episodes=2,
    )
    assert isinstance(dqn.collector, Collector)
    dqn.step()
    assert count(dqn.collector.kept()) > 8
    dqn.evaluate()
