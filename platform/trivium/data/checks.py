"""Whether a data set is one, found out once, when a learner is built: a training step checks nothing.

What is wrong begins with `data: `, by which the builder knows to name the function that made the data set.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from trivium.borrowed import generators_kept
from trivium.data.source import Batch, Signature, Source, Splits, Tensors

SAMPLED = 256  # rows that are looked at of a source whose rows are not all in memory
SPLITS = ("train", "val", "test")


def checked(data: Any, device: torch.device) -> Splits:
    """A data set on a device, after a look at all rows that are in memory and at some of those that are not.

    Raises:
        ValueError: it is no `Splits`, a split has no rows, the splits differ in their columns, the inputs are not
            there, or a number is NaN or infinite.
    """
    if not isinstance(data, Splits):
        raise ValueError(f"data: must be trivium.data.source.Splits, three sources and a signature; is {_what(data)}")
    for name in SPLITS:
        split = getattr(data, name)
        if not isinstance(split, Source):
            raise ValueError(f"data: {name} must be a source of rows, such as Tensors(x=..., y=...); is {_what(split)}")
        if len(split) < 1:
            raise ValueError(f"data: {name} has no rows")
    if not isinstance(data.signature, Signature):
        raise ValueError(f"data: the signature must be trivium.data.source.Signature; is {_what(data.signature)}")
    moved: Splits = data.to(device)
    train = _one_row(moved.train, "train", device)
    absent = [name for name in data.signature.inputs if name not in train]
    if absent or not data.signature.inputs:
        wanted = ", ".join(map(str, data.signature.inputs)) or "none"
        raise ValueError(f"data: the signature's inputs are {wanted}; the columns are {', '.join(train)}")
    for name in SPLITS:
        _check_split(name, getattr(moved, name), train, data.signature, device)
    return moved


def rows_of(source: Source, device: torch.device) -> Batch:
    """The rows of a source that are looked at: all that are in memory as they are, else `SAMPLED`, evenly spaced."""
    if isinstance(source, Tensors):
        return source.columns
    index = torch.linspace(0, len(source) - 1, min(SAMPLED, len(source)), device=device).round().long()
    with generators_kept(device):
        return source.batch(index)


def require_range(data: Splits, column: str, low: float, high: float, *, device: torch.device) -> None:
    """For learners whose loss has no meaning outside of a range.

    Raises:
        ValueError: a column is not there, is not float32, or holds a number outside [low, high].
    """
    for name in SPLITS:
        source: Source = getattr(data, name)
        rows = rows_of(source, device)
        if column not in rows:
            raise ValueError(f"data: {name} has no column {column}; it has {', '.join(rows)}")
        values = rows[column]
        if values.dtype != torch.float32:
            raise ValueError(f"data: {name}'s {column} is {str(values.dtype).removeprefix('torch.')}; must be float32")
        least, most = (float(extreme) for extreme in values.aminmax())
        if least < low or most > high:
            raise ValueError(f"data: {name}'s {column} must lie in [{low:g}, {high:g}]; it holds {least:g} to {most:g}")


def _one_row(source: Source, name: str, device: torch.device) -> Batch:
    """The first row of a source, as a batch of one."""
    try:
        with generators_kept(device):
            row: Any = source.batch(torch.zeros(1, dtype=torch.int64, device=device))
    except Exception as error:  # the source may be the user's own
        raise ValueError(f"data: {name}.batch fails: {type(error).__name__}: {error}") from error
    if not isinstance(row, dict) or not all(isinstance(values, Tensor) for values in row.values()):
        held = {key: _what(values) for key, values in row.items()} if isinstance(row, dict) else _what(row)
        raise ValueError(f"data: {name}.batch must return a dict of tensors; it returns {held}")
    wrong = {key: list(values.shape) for key, values in row.items() if values.ndim < 1 or len(values) != 1}
    if wrong or not row:
        raise ValueError(
            f"data: {name}.batch must return columns as long as the index, 1; it returns {wrong or 'none'}"
        )
    return row


def _check_split(name: str, source: Source, train: Batch, signature: Signature, device: torch.device) -> None:
    """The columns are those of the training split, of the shape that is offered, and finite."""
    row, offered = _one_row(source, name, device), signature.offers.get("input_shape")
    here, there = (", ".join(f"{key} {_kind(value)}" for key, value in columns.items()) for columns in (row, train))
    if here != there:
        raise ValueError(f"data: {name} has the columns {here}; train has {there}")
    shape = list(row[signature.inputs[0]].shape[1:])
    if offered is not None and list(offered) != shape:
        what = f"{name}'s {signature.inputs[0]} has rows of the shape {shape}"
        raise ValueError(f"data: {what}; the signature offers input_shape={list(offered)}")
    for column, values in rows_of(source, device).items():
        if values.is_floating_point() and not _all_finite(values):
            bad = values.isfinite().reshape(len(values), -1).all(1).int().argmin()
            raise ValueError(f"data: {name}'s {column} holds NaN or infinity, first in row {int(bad)}")


def _all_finite(values: Tensor) -> bool:
    """Without a second tensor of that size: the least and the greatest value are NaN where any is."""
    return not values.numel() or all(bool(extreme.isfinite()) for extreme in values.aminmax())


def _kind(values: Tensor) -> str:
    """The dtype and the number of dimensions; the lengths of sequences may differ from row to row."""
    return f"{str(values.dtype).removeprefix('torch.')} of {values.ndim} dimensions"


def _what(thing: Any) -> str:
    """What something is that should be something else."""
    kind = type(thing)
    if thing is None:
        return "None"
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}, a torch Dataset" if isinstance(thing, TorchDataset) else name
