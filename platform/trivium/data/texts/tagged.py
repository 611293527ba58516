"""Sequences with a class for each of their steps."""

from __future__ import annotations

import io
import keyword
import tokenize
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from trivium.boundary.places import find_data
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count, CountOrZero, Range, Seed
from trivium.data.source import UNSCORED, Sequences, Signature, Splits
from trivium.data.splitting import split_rows
from trivium.data.texts.text import standard_library
from trivium.data.texts.vocabulary import PAD, UNKNOWN

KINDS = ("space", "name", "keyword", "number", "string", "comment", "operator")

Sentence = tuple[list[str], list[str]]
"""Tokens, and a tag for each."""


@checks_keywords
def tagged(
    *,
    path: str | None = None,
    max_length: Count = 64,
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.2,
    split_seed: Seed = 0,
    folds: Annotated[int, Range(ge=2)] | None = None,
    fold: CountOrZero = 0,
) -> Splits:
    """Sequences of tokens with a tag each, from a file with one token, white space and its tag on a line and an empty
    line between two sequences (the columns of CoNLL: the first and the last one count).

    Args:
        path: the file, UTF-8, see `find_data`; None: lines of Python's standard library, each character with the kind
            of token that it belongs to.
        max_length: longer sequences are cut there.
        val_fraction, test_fraction: of the sequences; each above 0, together below 1.
        split_seed: which sequences go where; not the run's seed.
        folds, fold: of a cross-validation, see `trivium.data.splitting.split_rows`.

    Returns:
        Columns `x`, int64 [n, T] (padded with 0; 1 is a token that the training split does not hold), `length`,
        int64 [n], and `y`, int64 [n, T], `UNSCORED` at padding.

    Raises:
        ValueError: the file can't be read, a line has no tag, or there are too few sequences; names file and line.
    """
    sentences = _standard_library() if path is None else _read(find_data(path), path)
    parts = split_rows(
        len(sentences), val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed, folds=folds,
        fold=fold, rows="sequences", names=f"path={path}: ",
    )  # fmt: skip
    vocabulary = ["<pad>", UNKNOWN, *sorted({t for i in parts[0] for t in sentences[i][0]})]
    tags = sorted({tag for _, own in sentences for tag in own}) if path is not None else list(KINDS)

    def source(part: np.ndarray) -> Sequences:
        tokens_of, tags_of = ({name: i for i, name in enumerate(names)} for names in (vocabulary, tags))
        x = torch.full((len(part), max_length), PAD)
        y = torch.full((len(part), max_length), UNSCORED)
        length = torch.zeros(len(part), dtype=torch.int64)
        for row, i in enumerate(part):
            words, own = (items[:max_length] for items in sentences[i])
            length[row] = len(words)
            x[row, : len(words)] = torch.tensor([tokens_of.get(word, 1) for word in words])
            y[row, : len(words)] = torch.tensor([tags_of[tag] for tag in own])
        return Sequences({"x": length, "y": length}, x=x, length=length, y=y)

    signature = Signature(
        task="tagging",
        inputs=("x", "length"),
        offers={
            "vocab_size": len(vocabulary), "num_outputs": len(tags), "class_names": tuple(tags), "context": max_length,
        },
        preparation={"kind": "tagged", "vocabulary": vocabulary},
    )  # fmt: skip
    return Splits(source(parts.train), source(parts.val), source(parts.test), signature)


def _read(place: Path, path: str) -> list[Sentence]:
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"path={path} can't be read as UTF-8 text: {error}") from error
    sentences: list[Sentence] = [([], [])]
    for number, line in enumerate(lines, start=1):
        columns = line.split()
        if not columns:
            sentences.append(([], []))
        elif len(columns) == 1:
            raise ValueError(f"{place}, line {number}: {line!r} must be a token, white space and its tag")
        else:
            sentences[-1][0].append(columns[0])
            sentences[-1][1].append(columns[-1])
    return [sentence for sentence in sentences if sentence[0]]


def _standard_library() -> list[Sentence]:
    """Each different line of code, without its indent, and the kind of each of its characters."""
    text = standard_library()
    lines = text.splitlines()
    kinds = [["space"] * len(line) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(text + "\n").readline):
        kind = _kind(token)
        if kind is None:
            continue
        for row in range(token.start[0] - 1, token.end[0]):
            start = token.start[1] if row == token.start[0] - 1 else 0
            end = token.end[1] if row == token.end[0] - 1 else len(lines[row])
            kinds[row][start:end] = [kind] * (end - start)
    found: dict[tuple[str, ...], Sentence] = {}  # a line that occurs twice would be in two splits
    for line, own in zip(lines, kinds, strict=True):
        indent = len(line) - len(line.lstrip())
        if line.strip():
            found.setdefault((line[indent:], *own[indent:]), (list(line[indent:]), own[indent:]))
    return list(found.values())


def _kind(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else "name"
    named = {
        tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.COMMENT: "comment", tokenize.OP: "operator",
    }  # fmt: skip
    if tokenize.tok_name[token.type].startswith("FSTRING"):  # Python 3.12 and later take f-strings apart
        return "string"
    return named.get(token.type)
