"""Vector envs of gymnasium's API, in every autoreset mode, give the transitions that `Envs` promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import tiny_envs
import torch
from gymnasium.vector import AutoresetMode
from playing import act, assert_same, mode, play
from torch import Tensor

from trivium.agents.a2c import A2C
from trivium.agents.dqn import DQN
from trivium.agents.envs.environment import make
from trivium.agents.envs.protocol import Step
from trivium.agents.envs.vector_envs import VectorEnvs
from trivium.agents.observations import Layout
from trivium.agents.ppo import PPO
from trivium.agents.reinforce import REINFORCE
from trivium.agents.rollouts.collector import Collector, InProgress, Rollout, episodes
from trivium.learner import Run


def build(id: str, num_envs: int = 3, vector: str = "sync", stream: str = "train", **keywords: Any) -> VectorEnvs:
    envs = make(id=id, num_envs=num_envs, run=Run(seed=0), stream=stream, vector=vector, **keywords)
    assert isinstance(envs, VectorEnvs)
    return envs


class OwnCount(gym.vector.VectorEnv):
    """`tiny_envs.Count` as an env's own vector env, that resets in the next step."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  as in gymnasium

    def __init__(self, num_envs: int, **settings: Any) -> None:
        self.num_envs = num_envs
        self.single_observation_space = tiny_envs.Count.observation_space
        self.single_action_space = tiny_envs.Count.action_space
        self._vector = gym.vector.SyncVectorEnv([lambda: gym.make("Counts-v0")] * num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        return self._vector.reset(seed=seed, options=options)

    def step(self, actions: np.ndarray) -> Any:
        return self._vector.step(actions)


gym.register("OwnCount-v0", entry_point=tiny_envs.Count, vector_entry_point=OwnCount)


@pytest.mark.parametrize(
    ("vector", "autoreset_mode"),
    [("sync", "disabled"), ("sync", "same_step"), ("async", "disabled"), ("async", "SAME_STEP")],
)
def test_an_episode_begins_in_the_step_that_ends_the_one_before(vector: str, autoreset_mode: str) -> None:
    envs = build("Counts-v0", num_envs=2, vector=vector, **mode(autoreset_mode))
    first = int(envs.reset()[0, 0])
    for t in range(20):
        episode, step = first + t // 3, t % 3
        got = envs.step(torch.zeros(2, dtype=torch.int64))
        ended = step == 2
        assert got.live is None
        assert got.reward.tolist() == [10 * episode + step + 1] * 2
        assert got.reward.dtype == torch.float32
        assert got.terminated.tolist() == [ended and (episode % 2 == 0 or episode % 3 == 0)] * 2
        assert got.truncated.tolist() == [ended and (episode % 2 == 1 or episode % 3 == 0)] * 2
        assert got.next_obs.tolist() == [[episode, step + 1]] * 2, "the episode's own last observation"
        assert got.obs.tolist() == [[episode + 1, 0] if ended else [episode, step + 1]] * 2
        assert torch.equal(got.obs, envs.obs)
    envs.close()


@pytest.mark.parametrize(("id", "vector"), [("Counts-v0", "sync"), ("Counts-v0", "async"), ("OwnCount-v0", "own")])
def test_a_step_that_only_begins_an_episode_is_said_to_be_dead(id: str, vector: str) -> None:
    envs = build(id, num_envs=2, vector=vector, **({} if vector == "own" else mode("next_step")))
    first = int(envs.reset()[0, 0])
    for t in range(20):
        episode, step = first + t // 4, t % 4
        got = envs.step(torch.zeros(2, dtype=torch.int64))
        assert got.live is not None
        assert got.live.tolist() == [step < 3] * 2
        if step == 3:
            assert got.obs.tolist() == [[episode + 1, 0]] * 2
        else:
            assert got.reward.tolist() == [10 * episode + step + 1] * 2
            assert got.next_obs.tolist() == [[episode, step + 1]] * 2
    envs.close()


class OneSeed(OwnCount):
    """Takes one seed for all, as gymnasium has it, or of an array (`forms`), as Atari's does; a list is refused."""

    forms: tuple[type, ...] = (int,)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is None or isinstance(seed, self.forms), seed
        self.seed = seed
        return super().reset(seed=seed if isinstance(seed, int | None) else list(map(int, seed)), options=options)


class ArraySeed(OneSeed):
    forms = (int, np.ndarray)


class NoReset(OneSeed):
    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        raise RuntimeError(f"no {type(seed).__name__}")


for own in (OneSeed, ArraySeed, NoReset):
    gym.register(f"{own.__name__}-v0", entry_point=tiny_envs.Count, vector_entry_point=own)


def test_a_vector_env_of_its_own_takes_its_seeds_in_the_form_that_it_accepts() -> None:
    assert isinstance(build("OneSeed-v0", num_envs=2, vector="own").vector.seed, int)
    envs = build("ArraySeed-v0", num_envs=2, vector="own")
    first = envs.vector.seed
    assert len(set(first.tolist())) == 2
    play(envs, 3, torch.Generator())
    envs.reset(reseed=True)
    assert envs.vector.seed.tolist() == first.tolist()
    with pytest.raises(ValueError, match=r"'NoReset-v0': its reset\(\) raised RuntimeError: no int"):
        build("NoReset-v0", num_envs=2, vector="own")


def test_gymnasiums_own_vector_env_serves() -> None:
    envs = build("CartPole-v1", num_envs=3, vector="own")
    first = envs.reset()
    steps = play(envs, 40, torch.Generator().manual_seed(0))
    assert any((~step.live).any() for step in steps if step.live is not None)
    assert torch.equal(envs.reset(reseed=True), first)


def test_ataris_own_vector_env_serves() -> None:
    pytest.importorskip("ale_py", reason="the extra `atari`")
    envs = build("ALE/Pong-v5", num_envs=2, vector="own", settings={"img_height": 42, "img_width": 42})
    first = envs.reset()
    assert first.shape == (2, 4, 42, 42)
    assert first.dtype == torch.uint8
    kept = first.clone()
    play(envs, 4, torch.Generator().manual_seed(0))
    assert torch.equal(first, kept), "what was returned is not written to"
    assert torch.equal(envs.reset(reseed=True), first)


def collected(num_steps: int, **keywords: Any) -> tuple[Rollout, Rollout]:
    """Two rollouts, one after the other, of an agent that always does 0."""
    envs = build("Counts-v0", num_envs=1, **keywords)

    def nothing(obs: Tensor, state_NM: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        return torch.zeros(1, dtype=torch.int64), state_NM, (obs[:, 1] + 100,)

    collector = Collector(run=Run(), envs=envs, act=nothing)
    return collector.collect(torch.zeros(num_steps, 1)), collector.collect(torch.zeros(num_steps, 1))


def test_a_copy_of_the_transition_before_stands_for_what_is_none() -> None:
    first, second = collected(3, **mode("next_step"))
    assert first.live is not None
    assert second.live is not None
    assert first.live.flatten().tolist() == [True, True, True]
    assert second.live.flatten().tolist() == [False, True, True], "dead in the first row: the row before is kept"
    for column in ("obs", "reward", "terminated", "truncated", "next_obs"):
        assert torch.equal(getattr(second, column)[0], getattr(first, column)[2])
    assert torch.equal(second.kept[0][0], first.kept[0][2])
    assert second.ended.flatten().tolist() == [True, False, False]
    assert second.obs[1, 0, 1] == 0, "the next episode begins with its first observation"

    none = InProgress.none(1, torch.device("cpu"))
    metrics, in_progress = episodes(first.reward, first.ended, none, first.live)
    episode = int(first.obs[0, 0, 0])
    assert metrics["episode_return"] == 30 * episode + 6
    metrics, in_progress = episodes(second.reward, second.ended, in_progress, second.live)
    assert metrics["episode_return"].isnan(), "the copy is no episode of its own"
    assert (in_progress.return_N.tolist(), in_progress.length_N.tolist()) == ([20 * (episode + 1) + 3], [2])


LEARNERS: list[Callable[..., Any]] = [
    lambda **k: PPO(num_steps=8, minibatch_size=16, **k),
    lambda **k: A2C(num_steps=8, **k),
    lambda **k: DQN(learning_starts=8, train_every_env_steps=16, buffer_size=64, n_step=3, **k),
    lambda **k: REINFORCE(**k),
]


@pytest.mark.parametrize("learner", LEARNERS, ids=["ppo", "a2c", "dqn", "reinforce"])
@pytest.mark.parametrize("autoreset_mode", ["disabled", "same_step", "next_step"])
def test_no_dead_transition_enters_a_loss(
    learner: Callable[..., Any], autoreset_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `Count`, of every transition the observation leads to the next one, and the reward is 10 * episode + step."""
    seen: list[Rollout] = []
    collect = Collector.collect

    def watched(self: Collector, *noise: Tensor) -> Rollout:
        seen.append(collect(self, *noise))
        return seen[-1]

    monkeypatch.setattr(Collector, "collect", watched)
    run = Run(seed=0)

    def env(**keywords: Any) -> Any:
        return make(**{"id": "Counts-v0", "num_envs": 4, "vector": "sync", **mode(autoreset_mode), **keywords})

    agent = learner(run=run, env=env, eval_episodes=2, test_episodes=2)
    for _ in range(4):
        assert all(torch.isfinite(v) or "episode" in k for k, v in agent.step().items())
    for rollout in seen:
        episode, step = rollout.obs.unbind(2)
        assert torch.equal(rollout.next_obs[..., 0], episode), "within one episode"
        assert torch.equal(rollout.next_obs[..., 1], step + 1)
        assert torch.equal(rollout.reward, 10 * episode + step + 1)
        assert torch.equal(rollout.ended, step == 2)
    if isinstance(agent, DQN):
        rows = agent.replay.rows
        filled = slice(agent.replay.filled)
        assert torch.equal(rows.next_obs[filled][..., 0], rows.obs[filled][..., 0])
        assert torch.equal(rows.reward[filled], 10 * rows.obs[filled][..., 0] + rows.obs[filled][..., 1] + 1)
    assert agent.evaluate()["length_mean"] == 3


@pytest.mark.parametrize("vector", ["sync", "async"])
@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1", "Drift-v0", "Lasts-v0"])
def test_a_resumed_vector_env_goes_on_mid_episode(id: str, vector: str, saved: Callable[[Any], Any]) -> None:
    envs = build(id, vector=vector)
    envs.reset()
    play(envs, 37, torch.Generator().manual_seed(0))
    assert len({len(log) for log in envs.state_dict()["actions"]}) > 1 or id == "Pendulum-v1", "at different points"
    state = saved(envs.state_dict())
    expected = play(envs, 30, torch.Generator().manual_seed(1))

    resumed = build(id, vector=vector)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not resumed.load_state_dict(state).any()
    assert_same_steps(play(resumed, 30, torch.Generator().manual_seed(1)), expected)
    envs.close()
    resumed.close()


def assert_same_steps(first: list[Step], second: list[Step]) -> None:
    assert_same([step._replace(live=None) for step in first], [step._replace(live=None) for step in second])


def test_what_does_not_repeat_itself_begins_anew(saved: Callable[[Any], Any]) -> None:
    envs = build("Wild-v0")
    envs.reset()
    play(envs, 5, torch.Generator().manual_seed(0))
    resumed = build("Wild-v0")
    with pytest.warns(RuntimeWarning, match=r"'Wild-v0' is not deterministic.* in \d of 3 envs"):
        lost = resumed.load_state_dict(saved(envs.state_dict()))
    assert lost.any()
    resumed.step(act(resumed, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("autoreset_mode", ["same_step", "next_step"])
def test_where_the_env_chooses_its_episodes_all_begin_new_ones(
    autoreset_mode: str, saved: Callable[[Any], Any]
) -> None:
    envs = build("CartPole-v1", **mode(autoreset_mode))
    first = envs.reset()
    play(envs, 5, torch.Generator().manual_seed(0))
    resumed = build("CartPole-v1", **mode(autoreset_mode))
    assert resumed.load_state_dict(saved(envs.state_dict())).all()
    assert not torch.equal(resumed.obs, first), "not those that the run has had"


def test_evaluation_plays_the_same_episodes_again() -> None:
    for vector in ("sync", "async"):
        envs = build("CartPole-v1", vector=vector, stream="eval")
        first = envs.reset(reseed=True)
        expected = play(envs, 20, torch.Generator().manual_seed(0))
        assert torch.equal(envs.reset(reseed=True), first)
        assert_same_steps(play(envs, 20, torch.Generator().manual_seed(0)), expected)
        assert not torch.equal(envs.reset(), first)
        envs.close()


@pytest.mark.parametrize("vector", ["sync", "async"])
@pytest.mark.parametrize("source", ["info", "method", "key"])
def test_masks(source: str, vector: str) -> None:
    alone = make(id=f"Masked-{source}-v0", num_envs=3, run=Run(seed=0), stream="train")
    envs = build(f"Masked-{source}-v0", vector=vector)
    assert envs.observation_space == alone.observation_space
    envs.reset()
    assert any(step.terminated.any() for step in play_by_masks(envs, 25, torch.Generator().manual_seed(0)))
    envs.close()


@pytest.mark.parametrize("num_steps", range(1, 12))
@pytest.mark.parametrize("source", ["info", "method", "key"])
def test_a_resumed_env_is_given_none_but_valid_actions(
    source: str, num_steps: int, saved: Callable[[Any], Any]
) -> None:
    envs = build(f"Ragged-{source}-v0", num_envs=4)
    envs.reset()
    play_by_masks(envs, num_steps, torch.Generator().manual_seed(0))
    state = saved(envs.state_dict())
    expected = play_by_masks(envs, 12, torch.Generator().manual_seed(1))
    resumed = build(f"Ragged-{source}-v0", num_envs=4)
    assert not resumed.load_state_dict(state).any()
    assert_same_steps(play_by_masks(resumed, 12, torch.Generator().manual_seed(1)), expected)


def play_by_masks(envs: VectorEnvs, steps: int, generator: torch.Generator) -> list[Step]:
    layout = Layout(envs.observation_space)

    def valid() -> Tensor:
        mask = layout.action_mask(envs.obs)
        assert mask is not None
        return (torch.rand(mask.shape, generator=generator) * mask).argmax(1)

    return [envs.step(valid()) for _ in range(steps)]


def test_wrappers_and_settings_reach_the_envs() -> None:
    envs = build(
        "CartPole-v1", wrappers=[{"TimeLimit": {"max_episode_steps": 4}}], settings={"sutton_barto_reward": True}
    )
    envs.reset()
    steps = play(envs, 4, torch.Generator().manual_seed(0))
    assert steps[-1].truncated.all()
    assert steps[0].reward.tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"id": "CartPol-v1", "vector": "sync"}, "'CartPol-v1' is not a gymnasium id"),
        ({"id": "CartPol-v1", "vector": "own"}, "'CartPol-v1' is not a gymnasium id"),
        ({"id": "Acrobot-v1", "vector": "own"}, "Acrobot-v1 has no vector env of its own"),
        ({"id": "CartPole-v1", "vector": "own", "wrappers": ["FlattenObservation"]}, "env.wrappers: env.vector=own"),
        ({"vector_settings": {"autoreset_mode": "never"}}, "'never'; valid are next_step, same_step, disabled"),
        ({"vector_settings": {"shared": True}}, "SyncVectorEnv knows no shared; valid are"),
        ({"id": "Broken-v0"}, "Broken-v0': at step 2 it returned an observation with NaN"),
        ({"id": "Raises-v0", "vector": "async"}, r"Raises-v0': at step 2 its step\(\) raised "),
    ],
)
def test_what_is_wrong_is_one_line(keywords: dict[str, Any], message: str) -> None:
    def build_and_play() -> None:
        envs = build(**{"id": "CartPole-v1", **keywords})
        envs.reset()
        play(envs, 40, torch.Generator().manual_seed(0))

    with pytest.raises(ValueError, match=message):
        build_and_play()


def test_envpool(saved: Callable[[Any], Any]) -> None:
    pytest.importorskip("envpool")
    envs = build("CartPole-v1", num_envs=4, vector="envpool")
    first = envs.reset()
    assert first.shape == (4, 4)
    steps = play(envs, 60, torch.Generator().manual_seed(0))
    ended = torch.stack([step.terminated for step in steps])
    assert ended.any()
    for step in steps:
        done = step.terminated | step.truncated
        assert step.live is None
        assert torch.equal(step.obs[~done], step.next_obs[~done])
        assert (step.obs[done].abs() <= 0.05).all(), "the first observation of the next episode"
        assert (step.next_obs[done].abs() > 0.05).any(1).all(), "the last one of its own"
    assert torch.equal(envs.reset(reseed=True), first)
    resumed = build("CartPole-v1", num_envs=4, vector="envpool")
    assert resumed.load_state_dict(saved(envs.state_dict())).all()
    assert not torch.equal(resumed.obs, first), "not those that the run has had"
    play(resumed, 3, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"'CartPol-v1' is not an id of EnvPool; did you mean 'CartPole-v1'"):
        build("CartPol-v1", vector="envpool")


def test_envpools_limit_of_steps_truncates() -> None:
    pytest.importorskip("envpool")
    envs = build("Pendulum-v1", num_envs=2, vector="envpool", settings={"max_episode_steps": 7})
    envs.reset()
    steps = play(envs, 7, torch.Generator().manual_seed(0))
    assert steps[-1].truncated.all()
    assert not steps[-1].terminated.any()
    assert not torch.equal(steps[-1].obs, steps[-1].next_obs)


def test_processes_of_an_async_vector_env_end_with_their_parent() -> None:
    code = """
import os, signal, time
from trivium.agents.envs.environment import make
from trivium.learner import Run
signal.signal(signal.SIGTERM, lambda *_: None)  # as the loop's own handler, which does not end the process
envs = make(id="CartPole-v1", num_envs=2, run=Run(seed=0), stream="train", vector="async")
envs.reset()
print(*[process.pid for process in envs.vector.processes], flush=True)
if os.environ["END"] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for end, status in (("kill", -signal.SIGKILL), ("leave", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "END": end}
        )
        assert done.returncode == status
        pids = [int(pid) for pid in done.stdout.split()]
        assert len(pids) == 2
        waited = time.monotonic() + 20
        while any(psutil.pid_exists(pid) for pid in pids):
            assert time.monotonic() < waited, "they live on"
            time.sleep(0.1)
