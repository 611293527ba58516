"""The state of an RLlib algorithm as data, and back.

RLlib's own checkpoints are pickles, which run code when they are read, and hold no replay buffer. What its parts return
from `get_state` is nearly data: nested dicts of numbers, strings and NumPy arrays. Here all arrays of such a tree
become one tensor, so that a replay buffer of thousands of episodes is written and read in a moment.

One trap: RLlib writes some arrays (spaces, running statistics) as strings, and its reader of these strings unpickles.
They are kept as arrays, and a string that this reader could open is refused.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MARK = "__array__"
MOST_NUMBERS = 100_000_000  # in a list, of which a checkpoint may hold only those that differ
MOST_BYTES = 100_000_000  # that a string unpacks to
_PACKED = 64  # lists of numbers at least so long are kept as arrays


def pack(state: Any) -> dict[str, Any]:
    """A tree of dicts, lists, tuples, scalars, arrays and tensors, as what `torch.load(weights_only=True)` reads.

    Returns:
        `{"tree", "bytes"}`: the tree with a reference for each array, and uint8 [n], the arrays one after another.

    Raises:
        ValueError: something in the tree is no data; the message says where and what.
    """
    chunks: list[np.ndarray] = []
    tree = _pack(state, "", chunks)
    return {"tree": tree, "bytes": torch.from_numpy(np.concatenate(chunks) if chunks else np.zeros(0, np.uint8))}


def unpack(packed: Mapping[str, Any]) -> Any:
    """The tree that `pack` was given: arrays are copies, deques have become lists.

    Raises:
        ValueError: it is damaged, or holds a string that RLlib would unpickle.
    """
    return _unpack(packed["tree"], packed["bytes"].numpy())


def _pack(node: Any, path: str, chunks: list[np.ndarray]) -> Any:
    if isinstance(node, np.generic):  # NumPy's float64 is a float too
        return node.item()
    if node is None or isinstance(node, bool | int | float):
        return node
    if isinstance(node, str):
        array = _written_array(node)
        return node if array is None else _keep(array, "string", path, chunks)
    if isinstance(node, np.ndarray):
        return _keep(node, "array", path, chunks)
    if isinstance(node, Tensor):
        return node.detach().cpu().clone()
    if isinstance(node, Mapping):
        wrong = next((key for key in node if not isinstance(key, str | int)), None)
        if wrong is not None:
            raise ValueError(f"RLlib's state has the key {wrong!r} in {path or '/'}: it can't be kept as data")
        return {key: _pack(value, f"{path}/{key}", chunks) for key, value in node.items()}
    if isinstance(node, list | deque) and len(node) >= _PACKED:
        numbers = _as_numbers(node)
        if numbers is not None:
            return _keep_numbers(numbers, chunks)
    if isinstance(node, list | tuple | deque):
        items = [_pack(item, f"{path}/{i}", chunks) for i, item in enumerate(node)]
        return tuple(items) if isinstance(node, tuple) else items
    raise ValueError(f"RLlib's state holds a {type(node).__name__} at {path or '/'}: it can't be kept as data")


def _keep(array: np.ndarray, kind: str, path: str, chunks: list[np.ndarray]) -> dict[str, Any]:
    if array.dtype.kind not in "biufc":
        raise ValueError(f"RLlib's state holds an array of {array.dtype} at {path or '/'}: it can't be kept as data")
    chunks.append(np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8))
    return {_MARK: kind, "dtype": array.dtype.str, "shape": list(array.shape), "bytes": array.nbytes}


def _as_numbers(node: list[Any] | deque[Any]) -> np.ndarray | None:
    """A list of ints, of floats or of equally long tuples of ints as an array; None for any other."""
    kinds = set(map(type, node))
    if kinds <= {float, np.float64, np.float32}:
        return np.array(node, np.float64)
    if kinds <= {int, np.int64, np.int32}:
        return np.array(node, np.int64)
    if kinds == {tuple} and len(set(map(len, node))) == 1 and {type(n) for item in node for n in item} == {int}:
        return np.array(node, np.int64)
    return None


def _keep_numbers(numbers: np.ndarray, chunks: list[np.ndarray]) -> dict[str, Any]:
    """A list of numbers; where nearly all are alike, or nearly all differ by the same from the one before, only the
    others: the priorities of a replay buffer for a million transitions are mostly those of places still empty."""
    if numbers.ndim == 2:
        return _keep(numbers, "tuples", "", chunks)
    steps = np.diff(numbers, prepend=0) if numbers.dtype.kind == "i" else numbers
    others = np.flatnonzero(steps != steps[-1])
    if len(others) > len(steps) // 4:
        return _keep(numbers, "list", "", chunks)
    return {
        _MARK: "steps" if steps is not numbers else "fill",
        "length": len(steps),
        "fill": steps[-1].item(),
        "others": _keep(others, "array", "", chunks),
        "values": _keep(steps[others], "array", "", chunks),
    }


def _unpack(tree: Any, data: np.ndarray) -> Any:
    offset = 0

    def read(node: Any) -> Any:
        nonlocal offset
        if isinstance(node, str) and _opened(node) is not None:
            raise ValueError("the checkpoint holds a string that RLlib would unpickle: it was not written by Trivium")
        if isinstance(node, list | tuple):
            return type(node)(map(read, node))
        if not isinstance(node, dict):
            return node
        if _MARK not in node:
            return {key: read(value) for key, value in node.items()}
        if node[_MARK] in ("fill", "steps"):
            if not 0 <= node["length"] <= MOST_NUMBERS:
                raise ValueError(f"the checkpoint holds a list of {node['length']:,} numbers, at most {MOST_NUMBERS:,}")
            values = np.full(node["length"], node["fill"])
            others = read(node["others"])  # first, as they were written
            values[others] = read(node["values"])
            return (values.cumsum() if node[_MARK] == "steps" else values).tolist()
        dtype = np.dtype(node["dtype"])
        if dtype.kind not in "biufc":
            raise ValueError(f"the checkpoint holds an array of {dtype}: it was not written by Trivium")
        end = offset + int(node["bytes"])
        array = np.frombuffer(data[offset:end].tobytes(), dtype).reshape(node["shape"]).copy()
        offset = end
        if node[_MARK] == "string":
            return _write_array(array)
        if node[_MARK] == "tuples":
            return list(map(tuple, array.tolist()))
        return array.tolist() if node[_MARK] == "list" else array

    return read(tree)


# ----------------------------------------------------------------------------------------------- arrays as strings


def _opened(text: str) -> bytes | None:
    """What RLlib's reader would hand to `numpy.load`, which unpickles; None for what it can't open."""
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(base64.b64decode(text), MOST_BYTES)
    except (ValueError, zlib.error):
        return None
    if unpacking.unconsumed_tail:  # a stranger's few kB may unpack to gigabytes
        raise ValueError(f"RLlib's state holds a string that unpacks to more than {MOST_BYTES:,} bytes")
    return content if unpacking.eof else None


def _written_array(text: str) -> np.ndarray | None:
    content = _opened(text)
    return None if content is None else np.load(io.BytesIO(content), allow_pickle=False)


def _write_array(array: np.ndarray) -> str:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode("ascii")
