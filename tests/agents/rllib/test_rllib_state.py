from __future__ import annotations

import base64
import pickle
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trivium.agents.rllib.state import pack, unpack


def kept(state: Any, saved: Callable[[Any], Any]) -> Any:
    return unpack(saved(pack(state)))


def test_a_tree_comes_back(saved: Callable[[Any], Any]) -> None:
    rng = np.random.default_rng(0)
    state = {
        "weights": {"w": rng.normal(size=(3, 2)).astype(np.float32), "empty": np.zeros((0, 4), np.int64)},
        "flags": np.array([True, False]),
        0: {"step": 3, "betas": (0.9, 0.999), "none": None, "name": "adam", "nan": float("nan")},
        "items": [1, "two", [3.0, {"four": np.float32(0.5)}]],
        "tensor": torch.arange(3),
    }
    back = kept(state, saved)
    assert back.keys() == state.keys()
    np.testing.assert_array_equal(back["weights"]["w"], state["weights"]["w"])  # type: ignore[index]
    assert back["weights"]["w"].dtype == np.float32
    assert back["weights"]["empty"].shape == (0, 4)
    assert back["flags"].tolist() == [True, False]
    assert str(back[0]) == str(state[0])
    assert back["items"] == [1, "two", [3.0, {"four": 0.5}]]
    assert type(back["items"][2][1]["four"]) is float
    assert torch.equal(back["tensor"], torch.arange(3))
    back["weights"]["w"] += 1  # it is nobody else's memory


@pytest.mark.parametrize(
    "numbers",
    [
        [0.5] * 3,
        [float(i) for i in range(100)],
        [0.0] * 1000 + [0.25, 1.0] + [0.0] * 500,
        [float("inf")] * 200,
        [np.float32(0.5), 1.0] * 50,
        list(range(7, 1000)),
        [5, 3, *range(1000)],
        [int(i) for i in np.random.default_rng(0).integers(0, 99, 200)],
        [(i, i % 7) for i in range(100)],
        [[i] for i in range(100)],
        [(1, 2), (3,)] * 50,
        [True] * 100,
    ],
    ids=str,
)
def test_lists_of_numbers_come_back(numbers: list[Any], saved: Callable[[Any], Any]) -> None:
    assert kept(numbers, saved) == numbers
    assert kept(deque(numbers), saved) == numbers
    assert list(map(type, kept(numbers, saved))) == [float if type(n) is np.float32 else type(n) for n in numbers]


def test_a_nearly_empty_list_is_small() -> None:
    priorities = [0.0] * 1_000_000
    priorities[17] = 0.5
    assert pack(priorities)["bytes"].nbytes == 16
    assert pack(list(range(1_000_000)))["bytes"].nbytes <= 16


@pytest.mark.parametrize("wrong", [object(), {"a": [len]}, np.array([None]), {(1, 2): 3}, b"bytes", {1.5: 2}])
def test_what_is_no_data_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match="can't be kept as data"):
        pack({"state": wrong})


# What RLlib would unpickle: its reader of arrays in strings is numpy.load(allow_pickle=True)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def as_rllib_writes(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def test_arrays_in_strings_come_back(saved: Callable[[Any], Any]) -> None:
    from ray.rllib.utils.serialization import _deserialize_ndarray, _serialize_ndarray

    text = _serialize_ndarray(np.arange(4.0))
    packed = pack({"mean_array": text})
    assert text not in str(packed["tree"])
    np.testing.assert_array_equal(_deserialize_ndarray(kept({"m": text}, saved)["m"]), np.arange(4.0))


@pytest.mark.parametrize("disguise", [lambda s: s, lambda s: f"\n{s}!", lambda s: "*".join(s)])
def test_a_pickle_in_a_string_is_refused(disguise: Callable[[str], str], tmp_path: Path) -> None:
    from ray.rllib.utils.serialization import _deserialize_ndarray

    text = disguise(as_rllib_writes(pickle.dumps(Bomb(tmp_path / "run"))))
    packed = {"tree": {"env_runner": [{"mean_array": text}]}, "bytes": torch.zeros(0, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="would unpickle"):
        unpack(packed)
    assert not (tmp_path / "run").exists()
    _deserialize_ndarray(text)
    assert (tmp_path / "run").exists(), "else this test shows nothing"


def test_an_array_of_objects_is_refused() -> None:
    tree = {"__array__": "array", "dtype": "|O", "shape": [1], "bytes": 8}
    with pytest.raises(ValueError, match="not written by Trivium"):
        unpack({"tree": tree, "bytes": torch.zeros(8, dtype=torch.uint8)})
