"""What learners read: a `Source` of rows, of which a batch is an index.

A data set is a function that returns `Splits`: three disjoint sources and a `Signature`, which says what their tensors
are. Where the rows of a source live (on the device, in memory, in a file) is its own affair. Since a batch is an index
and the order of the indices is a function of the position (see `trivium.data.batches`), the position is all that there
is to save, and a run resumes exactly whatever it reads from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

Batch = dict[str, Tensor]
"""Named tensors on the device, aligned along their first dimension: usually `x`, the inputs, and `y`, the targets."""


UNSCORED = -1
"""Stands in a column of classes where there is none to predict: at padding, at tokens that were not hidden."""


@runtime_checkable
class Source(Protocol):
    """Rows, of which a batch is an index."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def batch(self, index_B: Tensor) -> Batch:
        """The rows of an index: int64 [B] on the device, each in [0, len(self)). The same index gives the same rows."""
        ...

    def to(self, device: torch.device) -> Source:
        """The same rows, whose batches are on `device`."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A source that reads in the background what is asked for next."""

    def prefetch(self, indices: Sequence[Tensor]) -> None:
        """Begin to read the rows of these indices; `batch` of one of them then waits for less."""
        ...


class Tensors:
    """Rows held as tensors, on the device that they were made on or moved to.

    Args:
        columns: named tensors of the same length, of any shape and dtype.

    Raises:
        ValueError: there is no column, one is no tensor of rows, or the lengths differ.
    """

    def __init__(self, **columns: Tensor) -> None:
        for name, column in columns.items():
            if not isinstance(column, Tensor) or column.ndim < 1:
                what = (
                    "a 0-d tensor"
                    if isinstance(column, Tensor)
                    else f"{type(column).__module__}.{type(column).__name__}"
                )
                raise ValueError(f"the column {name} of a source must be a tensor of rows; it is {what}")
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of a source must be of one length: {lengths or 'there is none'}")
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def batch(self, index_B: Tensor) -> Batch:
        # index_select, because column[index] costs 4 µs more each on a CPU: 3 % of a small network's step.
        return {name: column.index_select(0, index_B) for name, column in self.columns.items()}

    def to(self, device: torch.device) -> Tensors:
        return Tensors(**{name: column.to(device) for name, column in self.columns.items()})


@runtime_checkable
class OfLengths(Protocol):
    """A source of sequences of different lengths, which are padded at their ends."""

    @property
    def lengths(self) -> Tensor:
        """How many steps of each row are no padding, int64 [len(self)] on the device."""
        ...

    def shortened(self, index_B: Tensor) -> Batch:
        """As `batch`, without the steps that are padding in all of these rows."""
        ...


class Sequences(Tensors):
    """Rows of sequences, padded at their ends; see `OfLengths`.

    Args:
        padded: for each padded column, [N, T, ...], how many steps of its rows are no padding, int64 [N].
        columns: see `Tensors`.

    Raises:
        ValueError: as `Tensors`, or lengths are not N numbers from 0 to T.
    """

    def __init__(self, padded: Mapping[str, Tensor], **columns: Tensor) -> None:
        super().__init__(**columns)
        for name, length_N in padded.items():
            column = columns[name]
            if length_N.shape != column.shape[:1] or not bool(((length_N >= 0) & (length_N <= column.shape[1])).all()):
                raise ValueError(f"{name}: {len(column)} lengths from 0 to {column.shape[1]} are needed")
        self.padded = padded

    @property
    def lengths(self) -> Tensor:
        return torch.stack(list(self.padded.values())).sum(0)

    def shortened(self, index_B: Tensor) -> Batch:
        batch = self.batch(index_B)
        for name, length_N in self.padded.items():
            batch[name] = batch[name][:, : max(1, int(length_N.index_select(0, index_B).max()))]
        return batch

    def to(self, device: torch.device) -> Sequences:
        padded = {name: length.to(device) for name, length in self.padded.items()}
        return Sequences(padded, **{name: column.to(device) for name, column in self.columns.items()})


@dataclass(frozen=True)
class Signature:
    """What the tensors of a source are, as plain data: enough to build a model for them, and to use a trained one
    without them.

    Attributes:
        task: what the target means, by the name of a task (`classification`, `regression`, ...); empty if there is
            no target.
        inputs: the names of the tensors that a model is called with, in this order.
        offers: keywords for constructors of models and tasks, which take those that they know: `input_shape`,
            `num_outputs`, `vocab_size`, `class_names`, ...
        preparation: how raw inputs became these tensors (scaling, columns, categories, vocabulary).
    """

    task: str = ""
    inputs: tuple[str, ...] = ("x",)
    offers: Mapping[str, Any] = field(default_factory=dict)
    preparation: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What is written to JSON."""
        return asdict(self)


class Splits(NamedTuple):
    """A data set: `train` is learned from, `val` chooses models, `test` judges them; no row is in two of them."""

    train: Source
    val: Source
    test: Source
    signature: Signature

    def to(self, device: torch.device) -> Splits:
        return Splits(self.train.to(device), self.val.to(device), self.test.to(device), self.signature)
