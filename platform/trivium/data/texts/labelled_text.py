"""Texts with a class each: reviews, messages, snippets of programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from trivium.boundary.places import find_data
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count, CountOrZero, Range, Seed
from trivium.data.inputs.texts import of_texts
from trivium.data.source import Sequences, Signature, Splits
from trivium.data.splitting import split_rows
from trivium.data.table import read_frame
from trivium.data.texts.text import standard_library_modules
from trivium.data.texts.vocabulary import UNKNOWN, Tokens, fitted, size


@checks_keywords
def labelled_text(
    *,
    path: str | None = None,
    text: str = "text",
    target: str = "label",
    tokens: Tokens = "bytes",
    vocab_size: int = 20_000,
    max_length: int = 128,
    train_per_class: Count | None = None,
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.2,
    split_seed: Seed = 0,
    folds: Annotated[int, Range(ge=2)] | None = None,
    fold: CountOrZero = 0,
) -> Splits:
    """A table with a column of texts and one of their classes; or a folder of .txt files for each class. A text that
    occurs more than once goes to one split.

    Args:
        path: a .csv or .parquet file, or a folder, see `find_data`; None: snippets of Python's standard library, whose
            class is the module that they are from.
        text, target: the columns of a table.
        tokens: see `trivium.data.texts.vocabulary.fitted`. With `bytes` the tokens are those of `masked_text` with
            `bytes`, so that a model trained there can be fine-tuned here.
        vocab_size: the most tokens, the most frequent ones of the training split. Other tokens count as unknown.
        max_length: T, tokens of a text; of longer ones only the beginning is read.
        train_per_class: how many texts of each class are learned from, >= 1; None: all of the training split.
        val_fraction, test_fraction, split_seed, folds, fold: see `trivium.data.splitting.split_rows`.

    Returns:
        Columns `x`, int64 [n, T], padded at the end, `length`, int64 [n], and `y`, int64 [n].

    Raises:
        ValueError: the file, a column or a text can't be used, or a class has fewer than 3 texts; names them.
    """
    if path is None:
        texts, labels = _snippets(max_length)
    elif (place := find_data(path)).is_dir():
        texts, labels = _of_folder(place)
    else:
        texts, labels = _of_table(place, path, text, target)
    index = split_rows(
        len(texts), val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed, strata=labels,
        groups=texts if len(set(texts)) < len(texts) else None, folds=folds, fold=fold, rows="texts", names="path: ",
    )  # fmt: skip
    train = index.train
    if train_per_class is not None:
        of = np.array(labels)[train]
        train = np.concatenate([train[of == name][:train_per_class] for name in sorted(set(labels))])
    vocabulary = fitted((texts[i] for i in train), tokens, vocab_size=vocab_size, first=("<pad>", UNKNOWN))
    preparation = {
        "kind": "labelled_text", "tokens": tokens, "vocabulary": vocabulary, "max_length": max_length, "text": text,
    }  # fmt: skip
    names = sorted(set(labels))
    number = {name: i for i, name in enumerate(names)}

    def source(part: np.ndarray) -> Sequences:
        columns = of_texts([texts[i] for i in part], preparation)
        padded = {"x": columns["length"]}
        return Sequences(padded, **columns, y=torch.tensor([number[labels[i]] for i in part]))

    signature = Signature(
        task="classification",
        inputs=("x", "length"),
        offers={
            "vocab_size": size(tokens, vocabulary, special=1), "num_outputs": len(names), "class_names": tuple(names),
            "class_counts": tuple(sum(labels[i] == name for i in train) for name in names), "context": max_length,
        },
        preparation=preparation,
    )  # fmt: skip
    return Splits(source(train), source(index.val), source(index.test), signature)


def _of_table(place: Path, path: str, text: str, target: str) -> tuple[list[str], list[str]]:
    frame = read_frame(place)
    for keyword, column in (("text", text), ("target", target)):
        if column not in frame:
            raise ValueError(f"{keyword}={column}: {path} has no such column; it has {', '.join(map(str, frame))}")
    frame = frame.dropna(subset=[target])
    if (missing := np.flatnonzero(frame[text].isna() | (frame[text].astype(str).str.strip() == ""))).size:
        raise ValueError(f"{path}, row {frame.index[missing[0]] + 1}, column {text}: there is no text")
    return [str(value) for value in frame[text]], [str(value) for value in frame[target]]


def _of_folder(folder: Path) -> tuple[list[str], list[str]]:
    texts, labels = [], []
    for file in sorted(folder.glob("*/*.txt")):
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} can't be read as UTF-8 text: {error}") from error
        if not texts[-1].strip():
            raise ValueError(f"{file} is empty")
        labels.append(file.parent.name)
    if len(set(labels)) < 2:
        raise ValueError(f"path={folder} must hold a folder of .txt files for each of at least two classes")
    return texts, labels


def _snippets(length: int) -> tuple[list[str], list[str]]:
    texts, labels = [], []
    for name, source in standard_library_modules().items():
        code = source.encode()
        for start in range(0, len(code) - length, length):
            snippet = code[start : start + length].decode(errors="ignore")
            if snippet.strip():
                texts.append(snippet)
                labels.append(name)
    return texts, labels
