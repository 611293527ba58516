from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trivium.data.source import OfLengths, Sequences, Signature, Splits, Tensors


def test_a_batch_is_the_rows_of_an_index_of_every_column() -> None:
    source = Tensors(x=torch.arange(8).view(4, 2), y=torch.arange(4) * 10)
    batch = source.batch(torch.tensor([3, 0, 3]))
    assert {name: column.tolist() for name, column in batch.items()} == {
        "x": [[6, 7], [0, 1], [6, 7]],
        "y": [30, 0, 30],
    }
    assert len(source) == 4


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'x': 2, 'y': 3"):
        Tensors(x=torch.zeros(2), y=torch.zeros(3))
    with pytest.raises(ValueError, match="there is none"):
        Tensors()


@pytest.mark.parametrize("column", [np.zeros(2), [1, 2], None, torch.tensor(1.0)])
def test_a_column_that_is_no_tensor_of_rows_is_refused(column: Any) -> None:
    with pytest.raises(ValueError, match="the column x of a source must be a tensor of rows"):
        Tensors(x=column)


def test_splits_move_as_a_whole() -> None:
    rows = Tensors(x=torch.zeros(2, 1), y=torch.zeros(2, dtype=torch.int64))
    signature = Signature("classification", offers={"class_names": ("a",)})
    moved = Splits(rows, rows, rows, signature).to(torch.device("meta"))
    assert {t.device.type for part in moved[:3] for t in part.columns.values()} == {"meta"}  # type: ignore[union-attr]
    assert moved.signature is signature


def test_sequences_are_shortened_to_the_longest_of_a_batch() -> None:
    x, y = torch.arange(12).view(3, 4), torch.arange(15).view(3, 5)
    source = Sequences({"x": torch.tensor([1, 4, 2]), "y": torch.tensor([3, 0, 0])}, x=x, y=y, kind=torch.arange(3))
    assert isinstance(source, OfLengths)
    assert source.lengths.tolist() == [4, 4, 2]
    short = source.shortened(torch.tensor([2, 0]))
    assert {name: list(column.shape) for name, column in short.items()} == {"x": [2, 2], "y": [2, 3], "kind": [2]}
    assert short["x"].tolist() == [[8, 9], [0, 1]]
    assert source.batch(torch.tensor([2, 0]))["x"].shape == (2, 4)
    assert list(source.shortened(torch.tensor([1]))["y"].shape) == [1, 1]  # never nothing at all


@pytest.mark.parametrize("lengths", [[1, 2], [1, 2, 5], [-1, 2, 3]])
def test_lengths_that_do_not_fit_their_sequences_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^x: 3 lengths from 0 to 4 are needed$"):
        Sequences({"x": torch.tensor(lengths)}, x=torch.zeros(3, 4))
