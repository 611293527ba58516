"""Gymnasium's spaces as JSON, and what takes the place of envs where only their spaces are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from trivium.agents.envs.protocol import Step
from trivium.agents.observations import Layout
from trivium.learner import Run

MOST_NUMBERS = 50_000_000  # of one Box that is read
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool")


def to_json(space: gym.Space) -> dict[str, Any]:
    """A Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of such as plain data. Bounds are texts, because JSON
    has no infinity; those that are all alike are written once.

    Raises:
        ValueError: another kind of space.
    """
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "n": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(map(int, space.n))}
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": [[name, to_json(inner)] for name, inner in space.items()]}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "spaces": [to_json(inner) for inner in space]}
    raise ValueError(f"a space {type(space).__name__} can't be written")


def from_json(content: Any) -> gym.Space:
    """The space that `to_json` wrote.

    Raises:
        ValueError: it wrote something else.
    """
    try:
        return _read(content)
    except (KeyError, TypeError, AttributeError, AssertionError, OverflowError) as error:
        raise ValueError(f"no space: {type(error).__name__}: {error}") from error


def _read(content: Any) -> gym.Space:
    kind = content["kind"]
    if kind == "Box":
        shape, dtype = tuple(map(int, content["shape"])), content["dtype"]
        if dtype not in DTYPES or math.prod(shape) > MOST_NUMBERS or min(shape, default=0) < 0:
            raise ValueError(f"no space: a Box of {dtype} {list(shape)}")
        low, high = (np.array(content[name], dtype=np.float64).astype(dtype) for name in ("low", "high"))
        return spaces.Box(np.broadcast_to(low, shape), np.broadcast_to(high, shape), shape, np.dtype(dtype).type)
    if kind == "Discrete":
        return spaces.Discrete(int(content["n"]), start=int(content["start"]))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(content["n"]), start=np.array(content["start"]))
    if kind == "MultiBinary":
        number = content["n"]
        return spaces.MultiBinary(tuple(map(int, number)) if isinstance(number, list) else int(number))
    if kind == "Dict":
        return spaces.Dict({str(name): _read(inner) for name, inner in content["spaces"]})
    if kind == "Tuple":
        return spaces.Tuple([_read(inner) for inner in content["spaces"]])
    raise ValueError(f"no space: {kind!r:.40}")


def _bound(values: np.ndarray) -> Any:
    texts = np.vectorize(repr, otypes=[object])(values.astype(np.float64)) if values.size else values
    same = values.size and (values == values.flat[0]).all()
    return repr(float(values.flat[0])) if same else texts.tolist()


class AbsentEnvs:
    """Envs of a trained agent that only acts: they have spaces and first observations of zeros, and no steps.

    Args:
        num_envs: N.
        observation_space, action_space: of one.
        device: of the observations.
    """

    def __init__(
        self, *, num_envs: int, observation_space: gym.Space, action_space: gym.Space, device: torch.device
    ) -> None:
        self.num_envs, self.observation_space, self.action_space = num_envs, observation_space, action_space
        layout = Layout(observation_space)
        one = np.zeros(layout.num_bytes, np.uint8)
        if not layout.packed:
            one = np.zeros(layout.leaves[0].shape, layout.leaves[0].dtype)
        self._obs = torch.from_numpy(one).expand(num_envs, *one.shape).to(device)

    @property
    def obs(self) -> Tensor:
        return self._obs

    def reset(self, *, reseed: bool = False) -> Tensor:
        return self._obs

    def step(self, action: Tensor) -> Step:
        raise RuntimeError("a loaded agent has no envs: train with `trivium.resume`")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        return torch.ones(self.num_envs, dtype=torch.bool)


def absent_env(content: Mapping[str, Any]) -> Any:
    """What makes `AbsentEnvs`, as `envs.environment.make` makes envs.

    Args:
        content: `num_envs`, `observation` and `action`, see `to_json`.

    Raises:
        ValueError: it is something else.
    """
    try:
        total = int(content["num_envs"])
        observation_space, action_space = (from_json(content[name]) for name in ("observation", "action"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no spaces of an agent: {type(error).__name__}: {error}") from error
    if not 0 < total < 1_000_000:
        raise ValueError(f"no spaces of an agent: num_envs={total}")

    def env(*, run: Run, stream: str, num_envs: int = total, episodes: Sequence[int] | None = None) -> AbsentEnvs:
        number = len(episodes) if episodes is not None else num_envs
        return AbsentEnvs(
            num_envs=number, observation_space=observation_space, action_space=action_space, device=run.device
        )

    return env
