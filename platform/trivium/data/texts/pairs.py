"""Pairs of texts, of which one is to be written for the other: translation, correction, conversion."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch

from trivium.boundary.places import find_data
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, CountOrZero, Range, Seed
from trivium.data.source import Sequences, Signature, Splits
from trivium.data.splitting import split_rows
from trivium.data.table import read_frame
from trivium.data.texts.vocabulary import BEGIN, END, PAD, SPECIAL, UNKNOWN, encoded, fitted


@checks_keywords
def pairs(
    *,
    path: str,
    source: str = "source",
    target: str = "target",
    tokens: Literal["characters", "words"] = "characters",
    vocab_size: int = 20_000,
    max_length: int = 64,
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.2,
    split_seed: Seed = 0,
    folds: Annotated[int, Range(ge=2)] | None = None,
    fold: CountOrZero = 0,
) -> Splits:
    """A table with two columns of texts, which share one vocabulary. Sources that occur more than once all go to one
    split.

    Args:
        path: a .csv (or tab-separated) or .parquet file, see `trivium.data.table.read_frame`.
        source, target: the columns: what is read and what is to be written.
        tokens: `characters`, or `words`, which white space separates.
        vocab_size: the most tokens, the most frequent ones of the training split.
        max_length: tokens of a source and of a target, at most; longer ones are refused.
        val_fraction, test_fraction, split_seed, folds, fold: see `trivium.data.splitting.split_rows`.

    Returns:
        Columns `source`, int64 [n, S]; `target`, int64 [n, T], begins with `BEGIN`; `y`, int64 [n, T], the same
        shifted by one, ends with `END`; all padded with `PAD` at their ends.

    Raises:
        ValueError: the file or a column can't be used, or a text is empty or too long; names the column and the row.
    """
    frame = read_frame(find_data(path))
    for keyword, column in (("source", source), ("target", target)):
        if column not in frame:
            raise ValueError(f"{keyword}={column}: {path} has no such column; it has {', '.join(map(str, frame))}")
        if (missing := np.flatnonzero(frame[column].isna())).size:
            raise ValueError(f"{path}, row {missing[0] + 1}, column {column}: there is no text")
    texts = [[str(text) for text in frame[column]] for column in (source, target)]
    index = split_rows(
        len(frame), val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed, groups=texts[0],
        folds=folds, fold=fold, rows="pairs", names=f"path={path}: ",
    )  # fmt: skip
    learnt = (text for column in texts for text in (column[i] for i in index.train))
    vocabulary = fitted(learnt, tokens, vocab_size=vocab_size, first=(*SPECIAL, UNKNOWN))
    preparation = {"kind": "pairs", "tokens": tokens, "vocabulary": vocabulary, "source": source}
    numbers = [[encoded(text, preparation) for text in column] for column in texts]
    for column, rows in zip((source, target), numbers, strict=True):
        for i, row in enumerate(rows, start=1):
            if not 0 < len(row) <= max_length:
                what = f"{len(row)} tokens; must be 1 to max_length={max_length}"
                raise ValueError(f"max_length={max_length}: {path}, row {i}, column {column}: the text has {what}")
    lengths = [max(map(len, rows)) for rows in numbers]

    def of(part: np.ndarray) -> Sequences:
        read, written = torch.full((len(part), lengths[0]), PAD), torch.full((len(part), lengths[1] + 2), PAD)
        for row, i in enumerate(part):
            read[row, : len(numbers[0][i])] = torch.tensor(numbers[0][i])
            with_ends = [BEGIN, *numbers[1][i], END]
            written[row, : len(with_ends)] = torch.tensor(with_ends)
        target_NT = written[:, :-1].masked_fill(written[:, :-1] == END, PAD)
        y = written[:, 1:].clone()
        padded = {name: (column != PAD).sum(1) for name, column in (("source", read), ("target", y), ("y", y))}
        return Sequences(padded, source=read, target=target_NT, y=y)

    signature = Signature(
        task="sequence_to_sequence",
        inputs=("source", "target"),
        offers={"vocab_size": len(vocabulary), "max_length": lengths[1] + 1},
        preparation=preparation,
    )
    return Splits(of(index.train), of(index.val), of(index.test), signature)
