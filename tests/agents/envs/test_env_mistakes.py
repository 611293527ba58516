"""What an env does wrong ends the run with one line that names the env, the step and the mistake, wherever it runs."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import gymnasium as gym
import pytest
import torch
import wrong_envs
from wrong_envs import FAULTS, OWN_FAULTS

from trivium.agents.envs.environment import make
from trivium.agents.envs.gym_api import Checked
from trivium.agents.ppo import PPO
from trivium.learner import Run, UserCodeError


def steps(id: str, **keywords: Any) -> None:
    """Make three envs and take up to five steps, as training does."""
    envs = make(id=id, num_envs=3, run=Run(), stream="train", **keywords)
    try:
        envs.reset()
        for _ in range(5):
            envs.step(torch.zeros(3, dtype=torch.int64))
    finally:
        getattr(envs, "close", lambda: None)()


def assert_told(error: BaseException, id: str, fault: wrong_envs.Fault) -> None:
    told = str(error)
    assert told.startswith(f"env.id={id!r}: ")
    assert told.count("env.id=") == 1
    assert "environment creator" not in told
    assert fault.told in told
    assert "\n" not in told
    if fault.when == "step":
        assert "at step 2 " in told


@pytest.mark.parametrize("vector", [None, "sync"])
@pytest.mark.parametrize("name", FAULTS)
def test_it_is_told_in_a_line(name: str, vector: Any) -> None:
    id = f"Wrong/{name}-v0"
    with pytest.raises(UserCodeError) as caught:
        steps(id, vector=vector)
    assert_told(caught.value, id, FAULTS[name])


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize("name", ["reward-inf", "obs-inf", "reset-raises", "step-exits", "bytes-float"])
def test_it_is_told_in_every_autoreset_mode(name: str, mode: str) -> None:
    """Also where the vector env resets by itself, in the middle of a step."""
    after = 4 if FAULTS[name].when == "reset" else 0  # the probe, the first reset of the envs
    with pytest.raises(UserCodeError) as caught:
        steps(
            f"Wrong/{name}-v0",
            vector="sync",
            settings={"after": after and 1},
            vector_settings={"autoreset_mode": mode},
        )
    assert_told(caught.value, f"Wrong/{name}-v0", FAULTS[name])


@pytest.mark.parametrize("name", ["step-raises-own", "step-exits", "bytes-over", "reward-none", "reset-old-2"])
def test_it_is_told_by_another_process(name: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        steps(f"Wrong/{name}-v0", vector="async", settings={"after": 1})
    assert_told(caught.value, f"Wrong/{name}-v0", FAULTS[name])


def test_the_end_of_an_env_s_process_is_told_and_nothing_waits_for_it() -> None:
    with pytest.raises(UserCodeError, match=r"^env.id='Wrong/dies-v0': the process of one of its envs has ended$"):
        steps("Wrong/dies-v0", vector="async")


@pytest.mark.parametrize("name", OWN_FAULTS)
def test_it_is_told_of_a_vector_env_of_the_id_s_own(name: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        steps(f"WrongOwn/{name}-v0", vector="own")
    assert str(caught.value).startswith(f"env.id='WrongOwn/{name}-v0': ")
    assert OWN_FAULTS[name].told in str(caught.value)


def test_the_step_is_that_of_the_episode() -> None:
    """Of an env whose first episode, of four steps, was good."""
    envs = make(id="Wrong/step-none-v0", num_envs=1, run=Run(), stream="train", settings={"after": 9})
    env: Any = envs
    env._episodes[0].env.unwrapped.fault = FAULTS["reset-none"]  # not yet
    for _ in range(5):
        envs.step(torch.zeros(1, dtype=torch.int64))
    env._episodes[0].env.unwrapped.fault = FAULTS["step-none"]
    with pytest.raises(UserCodeError, match="at step 2 its step"):
        envs.step(torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_what_is_not_the_env_s_own_passes(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAULTS, "step-raises", FAULTS["step-raises"]._replace(does=wrong_envs.raises(error())))
    with pytest.raises(error):
        steps("Wrong/step-raises-v0")


def build(name: str, **settings: Any) -> PPO:
    env = partial(make, id=f"Wrong/{name}-v0", num_envs=2, settings=settings)
    keywords: dict[str, Any] = {"num_steps": 1, "minibatch_size": 2, "hidden": [4], "eval_episodes": 2}
    return PPO(run=Run(), env=env, **keywords)


def test_it_is_told_in_evaluation_and_play() -> None:
    learner = build("reward-none")
    for use in (learner.evaluate, lambda: list(learner.play())):
        with pytest.raises(UserCodeError) as caught:
            use()
        assert_told(caught.value, "Wrong/reward-none-v0", FAULTS["reward-none"])


def test_checked_errors_survive_a_pickle_and_good_envs_pass() -> None:
    env = Checked(gym.make("CartPole-v1"))
    obs, info = env.reset(seed=0)
    assert env.step(1)[1:] == (1.0, False, False, {})
    assert info == {}
    assert obs.shape == (4,)
    error = UserCodeError("env.id='X': at step 2 it raised")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("vector", [None, "sync"])
@pytest.mark.parametrize(
    ("space", "value"),
    [
        (wrong_envs.BYTES, [0, 255, 7]),
        (wrong_envs.BYTES, [1.0, 2.0, 255.0]),
        (wrong_envs.VECTOR, [0, 1]),
        (gym.spaces.Discrete(3), 2.0),
    ],
)
def test_other_types_of_the_same_numbers_are_taken(space: gym.Space, value: Any, vector: Any) -> None:
    """A list, floats that are whole numbers: nothing of them is lost."""
    fault = wrong_envs.Fault("step", "", wrong_envs.obs(value), space)
    gym.register("WrongType-v0", entry_point=lambda: _other(fault))
    try:
        envs = make(id="WrongType-v0", num_envs=2, run=Run(), stream="train", vector=vector)
        envs.step(torch.zeros(2, dtype=torch.int64))
        step = envs.step(torch.zeros(2, dtype=torch.int64))
        assert step.obs[1].tolist() == value
    finally:
        del gym.registry["WrongType-v0"]


def _other(fault: wrong_envs.Fault) -> gym.Env:
    env = wrong_envs.Wrong("obs-nan")
    env.fault, env.observation_space = fault, fault.space
    return env
