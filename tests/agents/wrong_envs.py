"""Environments that break gymnasium's promises, one each; importing registers them, `Wrong/<fault>-v0`.

What is wrong comes at the second step, at a reset or in the constructor; the table says what is then told of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

VECTOR = Box(-1, 1, (2,), np.float32)
BYTES = Box(0, 255, (3,), np.uint8)
GOOD: dict[int, Any] = {id(VECTOR): np.zeros(2, np.float32), id(BYTES): np.zeros(3, np.uint8)}


class Unpicklable(Exception):
    """Its class can be found by no other process, as that of one that is defined in a function can't."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}\nand a second line")


class Fault(NamedTuple):
    """
    Args:
        when: `step`, `reset` or `init`.
        told: a part of what is to be said.
        does: returns what the env returns instead, given what it would return.
        space: of observations.
        batched: whether only the numbers of a whole batch can show it, so that sync and async see it as GymEnvs does.
    """

    when: str
    told: str
    does: Callable[[Any], Any]
    space: gym.Space = VECTOR


def raises(error: BaseException) -> Callable[[Any], Any]:
    def does(result: Any) -> Any:
        raise error

    return does


def obs(value: Any) -> Callable[[Any], Any]:
    return lambda result: (value, *result[1:])


def put(index: int, value: Any) -> Callable[[Any], Any]:
    return lambda result: (*result[:index], value, *result[index + 1 :])


FAULTS = {
    "reward-array": Fault("step", "reward=array([1.])", put(1, np.ones(1))),
    "reward-none": Fault("step", "reward=None", put(1, None)),
    "reward-text": Fault("step", "reward='1'", put(1, "1")),
    "reward-nan": Fault("step", "the reward NaN", put(1, float("nan"))),
    "reward-inf": Fault("step", "the reward inf", put(1, np.float32("inf"))),
    "reward-huge": Fault("step", "the reward 1e+300", put(1, 1e300)),
    "terminated-none": Fault("step", "terminated=None", put(2, None)),
    "truncated-many": Fault("step", "truncated=array([False, False])", put(3, np.zeros(2, bool))),
    "info-none": Fault("step", "info=None", put(4, None)),
    "step-old": Fault("step", "4 values", lambda result: (*result[:3], {})),
    "step-none": Fault("step", "returned NoneType", lambda result: None),
    "step-raises": Fault("step", "its step() raised KeyError: 'speed'", raises(KeyError("speed"))),
    "step-raises-own": Fault("step", "its step() raised Unpicklable: 1 and 2", raises(Unpicklable(1, 2))),
    "step-raises-empty": Fault("step", "its step() raised AssertionError", raises(AssertionError())),
    "step-exits": Fault("step", "its step() raised SystemExit: 3", raises(SystemExit(3))),
    "obs-nan": Fault("step", "with NaN: [nan, 0.0]", obs(np.array([np.nan, 0], np.float32))),
    "obs-inf": Fault("step", "with inf: [0.0, -inf]", obs(np.array([0, -np.inf], np.float32))),
    "obs-huge": Fault("step", "with inf", obs(np.array([1e300, 0])), Box(-np.inf, np.inf, (2,), np.float64)),
    "obs-shape": Fault("step", "shape (3,), its space says (2,)", obs(np.zeros(3, np.float32))),
    "obs-scalar": Fault("step", "shape (), its space says (2,)", obs(0.5)),
    "obs-none": Fault("step", "is not of Box", obs(None)),
    "obs-text": Fault("step", "is not of Box", obs("abc")),
    "obs-ragged": Fault("step", "is not of Box", obs([[1.0], 2.0])),
    "bytes-over": Fault("step", "with 300 (int64)", obs([0, 300, 0]), BYTES),
    "bytes-under": Fault("step", "with -1 (int64)", obs(np.array([0, 0, -1])), BYTES),
    "bytes-float": Fault("step", "with 0.7 (float32)", obs(np.full(3, 0.7, np.float32)), BYTES),
    "bytes-nan": Fault("step", "with nan (float64)", obs(np.full(3, np.nan)), BYTES),
    "discrete-over": Fault("step", "not of Discrete(4): 4", obs(4), Discrete(4)),
    "discrete-under": Fault("step", "not of Discrete(4, start=3): 2", obs(np.int64(2)), Discrete(4, start=3)),
    "discrete-half": Fault("step", "with 1.5 (float64)", obs(1.5), Discrete(4)),
    "many-over": Fault("step", "not of MultiDiscrete([2 3]): [1, 3]", obs(np.array([1, 3])), MultiDiscrete([2, 3])),
    "binary-over": Fault("step", "not of MultiBinary(2): [0.0, 2.0]", obs(np.array([0, 2])), MultiBinary(2)),
    "dict-without": Fault("step", "without 'b'", obs({"a": np.zeros(2)}), Dict({"a": VECTOR, "b": Discrete(2)})),
    "dict-inf": Fault(
        "step", "'a' with inf", obs({"a": np.full(2, np.inf), "b": 0}), Dict({"a": VECTOR, "b": Discrete(2)})
    ),
    "dict-over": Fault(
        "step",
        "'b' that is not of Discrete(2): 2",
        obs({"a": np.zeros(2), "b": 2}),
        Dict({"a": VECTOR, "b": Discrete(2)}),
    ),
    "tuple-short": Fault("step", "without '1'", obs((np.zeros(2),)), Tuple([VECTOR, Discrete(2)])),
    "reset-old": Fault("reset", "ndarray of shape (3,)", lambda result: np.zeros(3, np.float32), Box(-1, 1, (3,))),
    "reset-old-2": Fault("reset", "ndarray of shape (2,)", lambda result: result[0]),
    "reset-old-list": Fault("reset", "2 values (float, float)", lambda result: [0.0, 0.0]),
    "reset-none": Fault("reset", "returned NoneType", lambda result: None),
    "reset-info": Fault("reset", "2 values (ndarray, NoneType)", lambda result: (result[0], None)),
    "reset-nan": Fault("reset", "with NaN", obs(np.full(2, np.nan, np.float32))),
    "reset-shape": Fault("reset", "shape (3,)", obs(np.zeros(3, np.float32))),
    "reset-bytes": Fault("reset", "with 0.5 (float64)", obs(np.full(3, 0.5)), BYTES),
    "reset-raises": Fault("reset", "its reset() raised RuntimeError: no level", raises(RuntimeError("no level"))),
    "reset-exits": Fault("reset", "its reset() raised SystemExit: bye", raises(SystemExit("bye"))),
    "init-raises": Fault("init", "its constructor raised OSError: no such level", raises(OSError("no such level"))),
    "init-type": Fault("init", "its constructor raised TypeError: 'int'", raises(TypeError("'int' is not iterable"))),
    "init-exits": Fault("init", "its constructor raised SystemExit: 1", raises(SystemExit(1))),
}


class Wrong(gym.Env):
    """See above; `after` is how many resets are good."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  as in gymnasium
    action_space = Discrete(2)

    def __init__(self, fault: str, after: int = 0, render_mode: str | None = None) -> None:
        self.fault = FAULTS[fault]
        self.render_mode = render_mode
        self.observation_space = self.fault.space
        self.left = after
        if self.fault.when == "init":
            self.fault.does(None)

    def obs(self) -> Any:
        good = GOOD.get(id(self.observation_space))
        self.observation_space.seed(0)
        return self.observation_space.sample() if good is None else good

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.left -= 1
        result = self.obs(), {}
        return self.fault.does(result) if self.fault.when == "reset" and self.left < 0 else result

    def step(self, action: Any) -> Any:
        self.steps += 1
        result = self.obs(), 1.0, self.steps == 4, False, {}
        return self.fault.does(result) if self.fault.when == "step" and self.steps == 2 else result

    def render(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)


class Dies(Wrong):
    """Its process ends without a word at the second step."""

    def step(self, action: Any) -> Any:
        if self.steps == 1:
            os._exit(7)
        return super().step(action)


class Own(gym.vector.VectorEnv):
    """A vector env of its own, whose second env is at fault at the second step."""

    def __init__(self, num_envs: int, fault: str) -> None:
        self.fault = OWN_FAULTS[fault]
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = VECTOR, Discrete(2)
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}

    def reset(self, *, seed: Any = None, options: dict | None = None) -> Any:
        self.steps = 0
        result = np.zeros((self.num_envs, 2), np.float32), {}
        return self.fault.does(result) if self.fault.when == "reset" else result

    def step(self, actions: Any) -> Any:
        self.steps += 1
        no = np.zeros(self.num_envs, bool)
        result = np.zeros((self.num_envs, 2), np.float32), np.ones(self.num_envs), no, no, {}
        return self.fault.does(result) if self.fault.when == "step" and self.steps == 2 else result


OWN_FAULTS = {
    "reward-none": Fault("step", "reward=None", put(1, None)),
    "reward-column": Fault("step", "reward=array([[1.],", put(1, np.ones((3, 1)))),
    "reward-inf": Fault("step", "at step 2 it returned the reward inf", put(1, np.array([1, np.inf, 1]))),
    "terminated-one": Fault("step", "terminated=False", put(2, False)),
    "step-old": Fault("step", "4 values", lambda result: (*result[:3], {})),
    "step-raises": Fault("step", "its step() raised KeyError: 'speed'", raises(KeyError("speed"))),
    "step-exits": Fault("step", "its step() raised SystemExit: 3", raises(SystemExit(3))),
    "obs-inf": Fault("step", "at step 2 it returned an observation with inf", obs(np.full((3, 2), np.inf, np.float32))),
    "obs-shape": Fault("step", "of shape (2, 2), its space says (3, 2)", obs(np.zeros((2, 2), np.float32))),
    "reset-old": Fault("reset", "ndarray of shape (3, 2)", lambda result: result[0]),
    "reset-exits": Fault("reset", "its reset() raised SystemExit: bye", raises(SystemExit("bye"))),
}

for name in FAULTS:
    gym.register(f"Wrong/{name}-v0", entry_point=Wrong, kwargs={"fault": name})
for name in OWN_FAULTS:
    gym.register(f"WrongOwn/{name}-v0", vector_entry_point=Own, kwargs={"fault": name})
gym.register("Wrong/dies-v0", entry_point=Dies, kwargs={"fault": "init-raises"} | {"fault": "step-none"})
