"""What a run's model is for, as signature.json in its folder: enough to build and use it without data or envs.

It is written when the run begins, and read as everything that may be a stranger's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trivium import borrowed
from trivium.boundary import strict_json, untrusted
from trivium.boundary.untrusted import count, finite, text
from trivium.checkpoints.kept_files import write_whole
from trivium.data.source import Batch, Signature, Splits
from trivium.learner import Acts

NAME = "signature.json"
SEEN = 256  # rows that tell which whole numbers a column holds at least
MOST_NUMBERS = 50_000_000  # of one row, and of all columns
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "int64", "int32", "int16", "uint8", "bool")}


def write(dir: Path, learner: object, device: torch.device) -> None:
    """Write what a learner's data or spaces are, if it has any and nothing is there yet; `device` is the run's."""
    described = describe(learner, device)
    if described and not (dir / NAME).exists():
        write_whole(dir / NAME, strict_json.dumps(described, indent=1).encode()).close()


def describe(learner: object, device: torch.device) -> dict[str, Any]:
    """As JSON, under `data` what the sources of a learner are and under `spaces` those of an agent; without those that
    it does not have."""
    described: dict[str, Any] = {}
    for value in vars(learner).values():
        if isinstance(value, Splits):
            described["data"] = _of_data(value, device)
            break
    if isinstance(learner, Acts):
        described["spaces"] = learner.spaces()
    return described


def read(dir: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        Refused: it is something else.
        OSError: it is not there.
    """
    described = untrusted.read_json(dir / NAME)
    if not isinstance(described, dict):
        raise untrusted.Refused(f"{dir / NAME} is not a group")
    if "data" in described:
        untrusted.require(described["data"], _DATA, "data")
        preparation = described["data"]["preparation"]
        untrusted.require(preparation, _PREPARATIONS.get(str(preparation.get("kind")), {}), "data.preparation")
        untrusted.require(described["data"]["offers"].get("input_shape", []), _sizes, "data.offers.input_shape")
        numbers = sum(math.prod(column["shape"]) for column in described["data"]["columns"].values())
        if numbers > MOST_NUMBERS:
            raise untrusted.Refused(f"{NAME}: a row of {numbers:,} numbers is not believed")
    return described


def _of_data(data: Splits, device: torch.device) -> dict[str, Any]:
    index = torch.arange(min(SEEN, len(data.train)), device=device)
    with borrowed.generators_kept(device):
        try:
            rows = data.train.batch(index)
        except RuntimeError:  # a learner of the user's own may keep its data on the CPU
            rows = data.train.batch(index.cpu())
    return {
        **strict_json.finite(data.signature.as_dict(), as_text=True),
        "rows": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "columns": {
            name: {
                "shape": list(column.shape[1:]),
                "dtype": str(column.dtype).removeprefix("torch."),
                "least": 0 if column.is_floating_point() or not column.numel() else int(column.min()),
            }
            for name, column in rows.items()
        },
    }


class Absent:
    """Rows that are not here: as many as there were, of the same shapes, all alike.

    Args:
        length: how many.
        columns: see `describe`.
    """

    def __init__(self, length: int, columns: Mapping[str, Any], device: torch.device | None = None) -> None:
        self._length, self._columns, self._device = length, columns, device

    def __len__(self) -> int:
        return self._length

    def batch(self, index_B: Tensor) -> Batch:
        return {
            name: torch.full(
                (len(index_B), *column["shape"]), column["least"], dtype=DTYPES[column["dtype"]], device=self._device
            )
            for name, column in self._columns.items()
        }

    def to(self, device: torch.device) -> Absent:
        return Absent(self._length, self._columns, device)


def absent_data(described: Mapping[str, Any]) -> Splits:
    """What takes the place of a run's data in the constructor of its learner, where nothing is to be learnt."""
    rows, columns = described["rows"], described["columns"]
    signature = Signature(
        task=described["task"],
        inputs=tuple(described["inputs"]),
        offers={name: _with_tuples(value) for name, value in described["offers"].items()},
        preparation=described["preparation"],
    )
    train, val, test = (Absent(rows[name], columns) for name in ("train", "val", "test"))
    return Splits(train, val, test, signature)


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _sizes(value: Any) -> bool:
    """a list of sizes"""
    return isinstance(value, list) and all(map(count, value))


def _columns(value: Any) -> bool:
    """columns with shape, dtype and least"""
    return isinstance(value, dict) and all(
        isinstance(column, dict)
        and _sizes(column.get("shape"))
        and column.get("dtype") in DTYPES
        and isinstance(column.get("least"), int)
        for column in value.values()
    )


def _names(value: Any) -> bool:
    """a list of texts"""
    return isinstance(value, list) and all(map(text, value))


def _numbers(value: Any) -> bool:
    """a list of finite numbers"""
    return isinstance(value, list) and all(map(finite, value))


def _scalings(value: Any) -> bool:
    """columns with mean, std and missing"""
    return isinstance(value, dict) and all(
        isinstance(column, dict)
        and finite(column.get("mean"))
        and finite(column.get("std"))
        and isinstance(column.get("missing"), bool)
        for column in value.values()
    )


def _categories(value: Any) -> bool:
    """columns with a list of texts each"""
    return isinstance(value, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in value.values()
    )


def _image(value: Any) -> bool:
    """a scale, and the mean and std of each channel or neither"""
    return finite(value.get("scale", 1)) and (
        "mean" not in value or (_numbers(value["mean"]) and _numbers(value.get("std")))
    )


def _vocabulary(value: Any) -> bool:
    """a list of texts, a text, or nothing"""
    return (
        value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    )


def _entries(value: Any) -> bool:
    """a list of texts"""
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _size(value: Any) -> bool:
    """a whole number from 1 to 1,000,000"""
    return count(value) and 1 <= value <= 1_000_000


def _tokens(value: Any) -> bool:
    """characters, bytes, words or bpe"""
    return value in ("characters", "bytes", "words", "bpe")


def _series(value: Any) -> bool:
    """columns with a mean and a std each"""
    lists = [value.get(name) for name in ("columns", "mean", "std")]
    return _names(lists[0]) and all(map(_numbers, lists[1:])) and len({len(items) for items in lists}) == 1


def _task(value: Any) -> bool:
    """a text, which may be empty"""
    return isinstance(value, str)


_TEXT = {"tokens": _tokens, "vocabulary": _vocabulary}
_PREPARATIONS = {  # by kind, of Trivium's own data sets; a user's have kinds of their own
    "table": {"numbers": _scalings, "categories": _categories},
    "image": _image,
    "series": _series,
    "text": _TEXT,
    "masked_text": _TEXT,
    "labelled_text": {**_TEXT, "max_length": _size, "text": text},
    "pairs": {**_TEXT, "vocabulary": _entries},
    "tagged": {"vocabulary": _entries},
}
_DATA = {
    "task": _task,
    "inputs": _names,
    "offers": dict,
    "preparation": dict,
    "rows": {"train": count, "val": count, "test": count},
    "columns": _columns,
}
