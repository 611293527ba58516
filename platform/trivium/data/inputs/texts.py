"""The inputs of a model from texts, as its training's data prepared them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trivium.data.texts.vocabulary import PAD, encoded


def of_texts(texts: Sequence[str], preparation: Mapping[str, Any]) -> dict[str, Tensor]:
    """Texts that a model classifies, of which only the first `max_length` tokens are read.

    Returns:
        `x`, int64 [n, max_length], padded at the end, and `length`, int64 [n].

    Raises:
        ValueError: a text has no token; names it by its number, from 1.
    """
    rows = [encoded(text, preparation)[: preparation["max_length"]] for text in texts]
    return _padded(rows, preparation["max_length"])


def of_sources(texts: Sequence[str], preparation: Mapping[str, Any]) -> dict[str, Tensor]:
    """Texts for which a model writes others: `source`, int64 [n, S], padded at the end.

    Raises:
        ValueError: a text has no token, or one that the training's texts do not have; names it.
    """
    rows = []
    for i, text in enumerate(texts, start=1):
        try:
            rows.append(encoded(text, preparation))
        except ValueError as error:
            raise ValueError(f"text {i}: {error}") from error
    return {"source": _padded(rows, max(map(len, rows), default=1))["x"]}


def of_sequences(sequences: Sequence[Sequence[str]], preparation: Mapping[str, Any], context: int) -> dict[str, Tensor]:
    """Sequences of tokens that a model tags, each of at most `context`: `x`, int64 [n, context], and `length`,
    int64 [n]. Unknown tokens are number 1."""
    number = {name: i for i, name in enumerate(preparation["vocabulary"])}
    return _padded([[number.get(token, 1) for token in sequence] for sequence in sequences], context)


def _padded(rows: Sequence[Sequence[int]], length: int) -> dict[str, Tensor]:
    if empty := [i for i, row in enumerate(rows, start=1) if not row]:
        raise ValueError(f"text {empty[0]} is empty")
    x = torch.full((len(rows), length), PAD)
    for i, row in enumerate(rows):
        x[i, : len(row)] = torch.tensor(row)
    return {"x": x, "length": torch.tensor([len(row) for row in rows])}
