"""What a data set is, in words and numbers, before anything is trained on it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trivium.data.checks import SPLITS, rows_of
from trivium.data.shown.readable import readable_row
from trivium.data.source import UNSCORED, Batch, Signature, Source, Splits, Tensors

EXAMPLES = 3
CPU = torch.device("cpu")


def described(data: Splits) -> dict[str, Any]:
    """As JSON.

    Returns:
        `task`; `rows` of each split; `columns`, the shape, dtype and range of each tensor; what there is of
        `features` (a table's columns: their kind, mean or number of categories, missing values), `classes` (the
        number of rows of each, by split), `target` (range, mean and standard deviation of a quantity), `vocabulary`
        (its size and first tokens); `examples`, the first rows of the training split as a user knows them; `repeated`,
        how many rows of a split have inputs that occur in an earlier one too, where all rows are in memory.
    """
    train = rows_of(data.train, CPU)
    found: dict[str, Any] = {
        "task": data.signature.task,
        "rows": {name: len(getattr(data, name)) for name in SPLITS},
        "columns": {name: _column(values) for name, values in train.items()},
    }
    kind = data.signature.preparation.get("kind")
    if kind == "table":
        found["features"] = _features(data)
    if classes := _classes(data):
        found["classes"] = classes
    elif data.signature.task == "regression" and "y" in train:
        found["target"] = {name: _numbers(train["y"][:, k]) for k, name in enumerate(_targets(data.signature, train))}
    vocabulary = data.signature.preparation.get("vocabulary")
    if "vocab_size" in data.signature.offers:
        first = vocabulary[:40] if isinstance(vocabulary, list) else None
        found["vocabulary"] = {"size": data.signature.offers["vocab_size"], "first": first}
    found["examples"] = _examples(data)
    found["repeated"] = _repeated(data)
    return found


def _column(values: Tensor) -> dict[str, Any]:
    numbers = values.double()
    return {
        "shape": list(values.shape[1:]),
        "dtype": str(values.dtype).removeprefix("torch."),
        "least": float(numbers.min()) if values.numel() else None,
        "most": float(numbers.max()) if values.numel() else None,
    }


def _numbers(values: Tensor) -> dict[str, float]:
    numbers = values.double()
    return {
        "least": float(numbers.min()),
        "most": float(numbers.max()),
        "mean": float(numbers.mean()),
        "std": float(numbers.std(correction=0)),
    }


def _targets(signature: Signature, rows: Batch) -> list[str]:
    names = [str(name) for name in signature.offers.get("target_names", ())]
    return names if len(names) == rows["y"].shape[1] else [f"y{k}" for k in range(rows["y"].shape[1])]


def _features(data: Splits) -> dict[str, dict[str, Any]]:
    """The columns of a table that are inputs."""
    every = [source.columns for source in data[:3] if isinstance(source, Tensors)]
    preparation, found, at = data.signature.preparation, {}, 0
    for name, of in preparation["numbers"].items():
        missing = sum(int(columns["x"][:, at + 1].sum()) for columns in every) if of["missing"] else 0
        at += 1 + of["missing"]
        found[name] = {"kind": "number", "mean": of["mean"], "std": of["std"], "missing": missing}
    for k, (name, values) in enumerate(preparation["categories"].items()):
        unknown = sum(int((columns["categories"][:, k] == 0).sum()) for columns in every)
        found[name] = {"kind": "category", "values": len(values), "first": values[:5], "missing": unknown}
    return found


def _classes(data: Splits) -> dict[str, list[int]] | None:
    """How many rows, labels or steps of each class the splits have."""
    names = data.signature.offers.get("class_names")
    if not names or data.signature.task not in ("classification", "multi_label", "tagging"):
        return None
    counts = []
    for name in SPLITS:
        y = rows_of(getattr(data, name), CPU)["y"]
        if data.signature.task == "multi_label":
            counts.append(y.sum(0).long())
        else:
            counts.append(torch.bincount(y[y != UNSCORED], minlength=len(names)))
    return {str(name): [int(count[k]) for count in counts] for k, name in enumerate(names)}


def _examples(data: Splits) -> list[dict[str, Any]]:
    """The first rows of the training split, as what a user would recognise; none for images, which are drawn."""
    rows = data.train.batch(torch.arange(min(EXAMPLES, len(data.train))))
    if any(values.ndim > 3 for values in rows.values()):
        return []
    number = len(next(iter(rows.values())))
    return [readable_row({name: values[i] for name, values in rows.items()}, data.signature) for i in range(number)]


def _repeated(data: Splits) -> dict[str, int]:
    """By split, the number of rows whose inputs an earlier split holds."""
    if not all(isinstance(source, Tensors) for source in data[:3]) or data.val is data.train:
        return {}
    seen: set[bytes] = set()
    counts = {}
    for name in SPLITS:
        own = _digests(getattr(data, name), data.signature.inputs)
        if name != "train":
            counts[name] = sum(digest in seen for digest in own)
        seen.update(own)
    return counts


def _digests(source: Source, inputs: tuple[str, ...]) -> list[bytes]:
    assert isinstance(source, Tensors)
    columns = [np.ascontiguousarray(source.columns[name].numpy()).reshape(len(source), -1) for name in inputs]
    parts = [column.view(np.uint8).reshape(len(source), -1) for column in columns if column.shape[1]]
    return [
        hashlib.blake2b(b"".join(part[i].tobytes() for part in parts), digest_size=16).digest()
        for i in range(len(source))
    ]
