"""Data that a Python caller has in memory, as sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from trivium.data.source import Signature, Source, Splits, Tensors
from trivium.data.splitting import split_rows

VAL, TEST = 0.1, 0.2  # of the rows, where the caller has not split them


def as_splits(given: Any) -> Splits:
    """Three sources and a signature from what a caller has.

    Args:
        given: `Splits`; or a pair of arrays or tensors (x, y); or x alone; or a `torch.utils.data.Dataset` of known
            length whose items are such pairs, which is read into memory once; or a dict with `train`, `val` and `test`
            of one of these kinds. What is not split yet is split by a fixed seed, 70 % to learn from, 10 % val, 20 %
            test, stratified by class.

    Returns:
        Columns `x` and, if there are targets, `y`. Of x floats become float32, integers int64 and bytes of images (at
        least two dimensions besides the rows) float32 in [0, 1]. Integers as y, of one dimension, are classes; floats
        are quantities, float32 [n, K].

    Raises:
        ValueError: it is none of these, the lengths differ, or there are too few rows to split.
    """
    if isinstance(given, Splits):
        return given
    if isinstance(given, Source):
        raise ValueError("data: a source says nothing of its splits: hand over trivium.data.source.Splits")
    if isinstance(given, Mapping):
        if set(given) != {"train", "val", "test"}:
            raise ValueError(f"data: a dict must hold train, val and test; holds {', '.join(map(str, given))}")
        parts = {name: _columns(part) for name, part in given.items()}
        for name in ("val", "test"):
            if torch.equal(parts["train"]["x"], parts[name]["x"]):
                raise ValueError(f"data: {name} has the rows of train; a model is judged on rows that it has not seen")
    else:
        parts = _split(_columns(given))
    train, val, test = (Tensors(**parts[name]) for name in ("train", "val", "test"))
    return Splits(train, val, test, _signature(parts))


def _columns(given: Any) -> dict[str, Tensor]:
    if isinstance(given, TensorDataset):
        given = given.tensors
    elif isinstance(given, Dataset):
        if not hasattr(given, "__len__"):
            raise ValueError("data: a Dataset must have a length: each row is read in every epoch")
        items = [given[i] for i in range(len(given))]
        if not items:
            raise ValueError("data: the Dataset has no rows")
        given = default_collate(items)
    pair = given if isinstance(given, tuple | list) and len(given) <= 2 else (given,)
    if not all(isinstance(part, np.ndarray | Tensor) for part in pair) or not pair:
        what = [f"{type(part).__module__}.{type(part).__name__}" for part in pair]
        raise ValueError(f"data: must be arrays or tensors (x, y), a Dataset, or Splits; is {', '.join(what)}")
    columns = {"x": _inputs(torch.as_tensor(pair[0]))}
    if len(pair) == 2:
        columns["y"] = _targets(torch.as_tensor(pair[1]))
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"data: x has {lengths['x']} rows and y {lengths['y']}")
    return columns


def _inputs(x: Tensor) -> Tensor:
    if x.ndim < 1:
        raise ValueError("data: x must have rows; it is a single number")
    if x.dtype == torch.uint8 and x.ndim >= 3:
        return x.float() / 255
    return x.float() if x.is_floating_point() or x.dtype in (torch.bool, torch.uint8) else x.long()


def _targets(y: Tensor) -> Tensor:
    if y.is_floating_point():
        return y.float().reshape(len(y), -1)
    return y.long()


def _split(columns: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    classes = columns["y"] if "y" in columns and not columns["y"].is_floating_point() else None
    strata = classes.tolist() if classes is not None and classes.ndim == 1 else None
    try:
        index = split_rows(len(columns["x"]), val_fraction=VAL, test_fraction=TEST, split_seed=0, strata=strata)
    except ValueError as error:
        raise ValueError(f"data: {error}; hand over train, val and test yourself") from error

    def part(index: np.ndarray) -> dict[str, Tensor]:
        chosen = torch.from_numpy(np.sort(index))
        return {name: column[chosen] for name, column in columns.items()}

    return {name: part(rows) for name, rows in index._asdict().items()}


def _signature(parts: Mapping[str, Mapping[str, Tensor]]) -> Signature:
    x, y = parts["train"]["x"], parts["train"].get("y")
    offers: dict[str, Any] = {"input_shape": tuple(x.shape[1:])}
    preparation: dict[str, Any] = {"kind": "image", "scale": 255} if x.ndim >= 3 and x.is_floating_point() else {}
    if not x.is_floating_point():
        offers["vocab_size"] = 1 + max(int(part["x"].max()) for part in parts.values())
    if y is None:
        return Signature(offers=offers, preparation=preparation)
    if y.is_floating_point():
        mean, std = y.double().mean(0), y.double().std(0, correction=0)
        offers |= {"num_outputs": y.shape[1], "target_mean": tuple(mean.tolist())}
        offers["target_std"] = tuple(torch.where(std > 0, std, 1.0).tolist())
        return Signature(task="regression", offers=offers, preparation=preparation)
    number = 1 + max(int(part["y"].max()) for part in parts.values())
    offers |= {"num_outputs": number, "class_names": tuple(map(str, range(number)))}
    if y.ndim == 1:
        offers["class_counts"] = tuple(y.bincount(minlength=number).tolist())
    return Signature(task="classification" if y.ndim == 1 else "", offers=offers, preparation=preparation)
