"""What an object's attributes hold, as data, and back into an object that was built alike: never is one built from it.

Data are numbers, strings, None, NumPy arrays, lists, and dicts `{"kind", "of"}` that say what their data were.
"""

from __future__ import annotations

import enum
import inspect
import json
import random
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

DEPTH = 4  # of objects that hold objects
PLAIN = (bool, int, float, str, type(None))


class NotData(Exception):
    """A value that can't be kept as data."""


def attributes(owner: Any, names: Iterable[str]) -> dict[str, Any]:
    """Those of an object's attributes that are data, as copies."""
    found = {}
    for name in names:
        try:
            found[name] = encoded(vars(owner)[name])
        except (KeyError, NotData):
            continue
    return found


def set_attributes(owner: Any, values: Mapping[str, Any]) -> None:
    """Take back what `attributes` returned.

    Raises:
        NotData: something does not fit what the object has now, or its class has something by that name.
    """
    for name, value in values.items():
        if not isinstance(name, str) or hasattr(type(owner), name):
            raise NotData(name)
        try:
            vars(owner)[name] = decoded(value, vars(owner).get(name))
        except Exception as error:  # of what a module or a generator makes of another's state
            raise NotData(f"{name}.{error}" if isinstance(error, NotData) and str(error) else name) from error


def encoded(value: Any, depth: int = 0) -> Any:
    """A value as data.

    Raises:
        NotData: it is none.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array = np.array(value)
        return array if isinstance(value, np.ndarray) else _of("scalar", array)
    if isinstance(value, Tensor):
        try:
            return _of("tensor", value.detach().cpu().numpy().copy())
        except TypeError:  # a dtype that NumPy does not have
            raise NotData from None
    if isinstance(value, list | tuple | set | frozenset | deque):
        return _of("list", [encoded(one, DEPTH) for one in value])
    if isinstance(value, Mapping):
        return _of("dict", [[encoded(key, DEPTH), encoded(one, DEPTH)] for key, one in value.items()])
    if isinstance(value, enum.Enum):
        return _of("enum", value.name)
    if isinstance(value, np.random.Generator):
        return _of("generator", json.dumps(value.bit_generator.state, default=np.ndarray.tolist))
    if isinstance(value, np.random.RandomState):
        return _of("generator", json.dumps(value.get_state(legacy=False), default=np.ndarray.tolist))
    if isinstance(value, random.Random):
        return _of("generator", json.dumps(value.getstate()))
    if isinstance(value, torch.Generator):
        return _of("generator", value.get_state().numpy().copy())
    if depth >= DEPTH or _is_constant(value):
        raise NotData
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return _of("state", encoded(value.state_dict(), DEPTH))
    if not hasattr(value, "__dict__"):
        raise NotData
    held = {name: one for name, one in vars(value).items() if not _is_constant(one)}
    if not held:
        raise NotData
    return _of("object", {name: encoded(one, depth + 1) for name, one in held.items()})


def decoded(data: Any, present: Any = None) -> Any:
    """The value that was encoded: a new one, or for objects and generators the present one, changed.

    Raises:
        NotData: the present value is not what the data are of.
    """
    if isinstance(data, np.ndarray):
        return data.copy()
    if not isinstance(data, Mapping):
        return data
    kind, of = data["kind"], data["of"]
    if kind == "scalar":
        return of[()]
    if kind == "tensor":
        return torch.from_numpy(of.copy()).to(present.device if isinstance(present, Tensor) else "cpu")
    if kind == "list":
        values = [decoded(one) for one in of]
        if isinstance(present, deque):
            return deque(values, present.maxlen)
        if isinstance(present, tuple) and hasattr(present, "_fields"):
            return type(present)(*values)
        return type(present)(values) if isinstance(present, tuple | set | frozenset) else values
    if kind == "dict":
        items = {decoded(key): decoded(one) for key, one in of}
        if isinstance(present, dict):  # of a type of its own, perhaps
            present.clear()
            present.update(items)
            return present
        return items
    if kind == "enum" and isinstance(present, enum.Enum):
        return type(present)[of]
    if kind == "generator":
        _set_generator(present, of)
    elif kind == "state" and hasattr(present, "load_state_dict"):
        present.load_state_dict(decoded(of))
    elif kind == "object" and hasattr(present, "__dict__"):
        set_attributes(present, of)
    else:
        raise NotData
    return present


def restorable(data: Any, before: Any) -> bool:
    """Whether data go into an object that is built alike: what objects and generators held, only where the object had
    one from the beginning, whose data were `before`."""
    if not isinstance(data, Mapping) or data["kind"] not in ("object", "generator", "state", "enum"):
        return True
    if not isinstance(before, Mapping) or before["kind"] != data["kind"]:
        return False
    return data["kind"] != "object" or all(restorable(one, before["of"].get(n)) for n, one in data["of"].items())


def _of(kind: str, data: Any) -> dict[str, Any]:
    return {"kind": kind, "of": data}


def _is_constant(value: Any) -> bool:
    """Whether it is nothing that changes, or nothing of the object's own."""
    return (
        isinstance(value, gym.Env | gym.vector.VectorEnv | gym.Space | gym.envs.registration.EnvSpec | type)
        or inspect.isroutine(value)
        or inspect.ismodule(value)
    )


def _set_generator(present: Any, state: Any) -> None:
    if isinstance(present, np.random.Generator):
        present.bit_generator.state = json.loads(state)
    elif isinstance(present, np.random.RandomState):
        present.set_state(json.loads(state))
    elif isinstance(present, random.Random):
        version, numbers, gauss = json.loads(state)
        present.setstate((version, tuple(numbers), gauss))
    elif isinstance(present, torch.Generator):
        present.set_state(torch.from_numpy(state.copy()))
    else:
        raise NotData


def same(one: Any, other: Any) -> bool:
    """Whether data are equal; NaN equals itself."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return type(one) is type(other) and (one == other or one != one)


def to_tensors(data: Any) -> Any:
    """Data with a tensor for each array, as checkpoints have them."""
    if isinstance(data, Mapping):
        return {key: to_tensors(one) for key, one in data.items()}
    if isinstance(data, list):
        return [to_tensors(one) for one in data]
    return torch.from_numpy(data.copy()) if isinstance(data, np.ndarray) else data


def to_arrays(data: Any) -> Any:
    """The data that `to_tensors` was given."""
    if isinstance(data, Mapping):
        return {key: to_arrays(one) for key, one in data.items()}
    if isinstance(data, list):
        return [to_arrays(one) for one in data]
    return data.numpy() if isinstance(data, Tensor) else data
