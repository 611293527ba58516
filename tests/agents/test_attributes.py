from __future__ import annotations

import enum
import random
from collections import Counter, deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.utils import RunningMeanStd

from trivium.agents.attributes import (
    NotData,
    attributes,
    encoded,
    restorable,
    same,
    set_attributes,
    to_arrays,
    to_tensors,
)


class Phase(enum.Enum):
    FIRST = 1
    SECOND = 2


class Owner:
    """One that is built alike each time, and changes."""

    def __init__(self) -> None:
        self.number, self.text, self.nothing, self.flag = 1, "a", None, False
        self.array = np.zeros(3, np.float32)
        self.scalar = np.float64(0.5)
        self.tensor = torch.zeros(2)
        self.listed, self.tupled, self.last = [1, 2.5], (1, "b"), deque([1, 2], maxlen=2)
        self.counts = Counter(a=1)
        self.nested = {"x": [np.zeros(2)], 3: {"y": 1}}
        self.rms = RunningMeanStd(shape=(2,))
        self.rng, self.old_rng = np.random.default_rng(1), np.random.RandomState(1)
        self.python_rng, self.torch_rng = random.Random(1), torch.Generator().manual_seed(1)
        self.layer = torch.nn.Linear(2, 1)
        self.phase = Phase.FIRST
        self.space, self.function, self.lock = gym.spaces.Discrete(2), len, iter([1])

    def change(self) -> None:
        self.number, self.text, self.nothing, self.flag = 2, "b", 3, True
        self.array += 1
        self.scalar *= 3
        self.tensor += 1
        self.listed.append(3)
        self.tupled = (2, "c")
        self.last.append(3)
        self.counts["b"] += 2
        self.nested["x"][0][1] = 7  # type: ignore[index]
        self.rms.update(np.array([[1.0, 2.0], [3.0, 4.0]]))
        for rng in (self.rng, self.old_rng):
            rng.normal(size=3)
        self.python_rng.random()
        torch.rand(3, generator=self.torch_rng)
        with torch.no_grad():
            self.layer.weight += 1
        self.phase = Phase.SECOND
        self.later = [1]

    def next_draws(self) -> list[float]:
        return [
            self.rng.normal(),
            self.old_rng.normal(),
            self.python_rng.random(),
            torch.rand(1, generator=self.torch_rng).item(),
        ]


def test_attributes_come_back_from_a_checkpoint(saved: Any) -> None:
    owner, other = Owner(), Owner()
    owner.change()
    names = list(vars(owner))
    data = to_arrays(saved(to_tensors(attributes(owner, names))))
    assert set(names) - set(data) == {"space", "function", "lock"}
    set_attributes(other, data)
    assert same(attributes(other, names), data)
    assert isinstance(other.last, deque)
    assert other.last.maxlen == 2
    assert isinstance(other.counts, Counter)
    assert type(other.scalar) is np.float64
    assert type(other.tupled) is tuple
    assert other.phase is Phase.SECOND
    assert other.nested["x"][0].tolist() == [0, 7]  # type: ignore[index]
    assert torch.equal(other.layer.weight, owner.layer.weight)
    assert other.rms.mean.tolist() == owner.rms.mean.tolist()
    assert other.next_draws() == owner.next_draws()


def test_what_is_taken_is_a_copy() -> None:
    owner = Owner()
    data = attributes(owner, vars(owner))
    before = attributes(Owner(), [name for name in vars(owner) if name != "layer"])
    owner.change()
    assert same({**before, "layer": None}, {**data, "layer": None})
    set_attributes(owner, data)
    owner.change()
    assert data["array"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        {"change": 1},
        {"rms": {"kind": "object", "of": {"update": 1}}},
        {"rms": {"kind": "object", "of": 1}},
        {"rms": {"kind": "object"}},
        {"space": {"kind": "state", "of": {"kind": "dict", "of": []}}},
        {"layer": {"kind": "state", "of": {"kind": "dict", "of": [["weight", {"kind": "tensor", "of": np.zeros(5)}]]}}},
        {"flag": {"kind": "odd", "of": 1}},
        {"rng": {"kind": "generator", "of": "{}"}},
        {"phase": {"kind": "enum", "of": "THIRD"}},
        {"listed": {"kind": "list", "of": 1}},
        {1: 1},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(data: Any) -> None:
    with pytest.raises(NotData):
        set_attributes(Owner(), data)


def test_what_can_be_put_into_what_is_built_alike() -> None:
    rms = encoded(RunningMeanStd())
    assert restorable(rms, rms)
    assert not restorable(rms, None)
    assert not restorable({"kind": "object", "of": {"inner": rms}}, {"kind": "object", "of": {"inner": None}})
    assert restorable([1], None)
    assert restorable({"kind": "dict", "of": []}, None)


@pytest.mark.parametrize(
    "value", [object(), open, gym.spaces.Discrete(2), [object()], np.array(["a"]), b"bytes", {1: len}]
)
def test_what_is_no_data(value: Any) -> None:
    with pytest.raises(NotData):
        encoded(value)


def test_equal_data() -> None:
    assert same({"a": [1, np.array([np.nan])], "b": float("nan")}, {"a": [1, np.array([np.nan])], "b": float("nan")})
    for other in ({"a": 1.0}, {"a": True}, {"a": np.array(1)}, {"b": 1}, {"a": [1]}):
        assert not same({"a": 1}, other)
    assert not same(np.zeros(2), np.zeros(3))
    assert not same(np.zeros(2), np.zeros(2, np.float32))
