"""Texts with classes, pairs of texts, and the vocabularies of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from trivium.data.source import Source, Tensors
from trivium.data.texts.labelled_text import labelled_text
from trivium.data.texts.masked_text import masked_text
from trivium.data.texts.pairs import pairs
from trivium.data.texts.text import text
from trivium.data.texts.vocabulary import BEGIN, END, PAD, decoded, encoded, fitted, size


def columns(source: Source) -> dict[str, Any]:
    assert isinstance(source, Tensors)
    return source.columns


@pytest.mark.parametrize(
    ("tokens", "written", "expected"),
    [
        ("characters", "abca", [1, 2, 0, 1]),
        ("words", "b a", [2, 1]),
        ("bytes", "aé", [97, 195, 169]),
    ],
)
def test_tokens_have_numbers(tokens: Any, written: str, expected: list[int]) -> None:
    vocabulary = fitted(["c c c", "a a b"] if tokens == "words" else ["ab", "c"], tokens, vocab_size=None, first=())
    if tokens == "characters":
        vocabulary = ["c", *vocabulary[:-1]]
    elif tokens == "words":
        assert vocabulary == ["a", "b", "c"]
        vocabulary = ["c", "a", "b"]
    preparation = {"tokens": tokens, "vocabulary": vocabulary}
    assert encoded(written, preparation) == expected
    assert decoded(expected, preparation) == written


def test_the_most_frequent_tokens_are_kept_and_others_are_unknown() -> None:
    vocabulary = fitted(["a a a b b c"], "words", vocab_size=4, first=("<pad>", "<unknown>"))
    assert vocabulary == ["<pad>", "<unknown>", "a", "b"]
    assert encoded("c a d", {"tokens": "words", "vocabulary": vocabulary}) == [1, 2, 1]
    with pytest.raises(ValueError, match="the word 'd' does not occur"):
        encoded("a d", {"tokens": "words", "vocabulary": ["a"]})
    with pytest.raises(ValueError, match="vocab_size=2 must be above 2"):
        fitted(["a"], "words", vocab_size=2, first=("<pad>", "<unknown>"))


def test_byte_pairs_write_any_text() -> None:
    vocabulary = fitted(["the cat and the hat", "the rat"] * 5, "bpe", vocab_size=280, first=("<pad>", "<unknown>"))
    preparation = {"tokens": "bpe", "vocabulary": vocabulary}
    for written in ("the cat", "über 3 €"):
        assert decoded(encoded(written, preparation), preparation) == written
    assert len(encoded("the cat", preparation)) < 5
    assert 258 <= size("bpe", vocabulary) <= 280
    with pytest.raises(ValueError, match="vocab_size=100 must be at least 256"):
        fitted(["a"], "bpe", vocab_size=100)
    with pytest.raises(ValueError, match="no tokenizer"):
        encoded("a", {"tokens": "bpe", "vocabulary": "{}"})
    data = text(tokens="bpe", vocab_size=300, context=16)
    assert data.signature.offers["vocab_size"] == 300
    row = data.train.batch(torch.tensor([0]))["x"][0].tolist()
    assert decoded(row, data.signature.preparation).startswith("# Author: Steven")


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    frame = pd.DataFrame({"text": [f"good film {i}" if i % 2 else f"a bad one {i}" for i in range(40)]})
    frame["label"] = ["good" if i % 2 else "bad" for i in range(40)]
    frame.to_csv(tmp_path / "reviews.csv", index=False)
    return tmp_path / "reviews.csv"


def test_a_table_of_texts(reviews: Path) -> None:
    data = labelled_text(path=str(reviews), tokens="words", max_length=3, train_per_class=5)
    assert [len(source) for source in data[:3]] == [10, 4, 8]
    assert data.signature.offers["class_names"] == ("bad", "good")
    train = columns(data.train)
    names = data.signature.preparation["vocabulary"]
    assert names[:2] == ["<pad>", "<unknown>"]
    assert {"good", "film", "bad"} <= set(names)
    for x, length, y in zip(train["x"], train["length"], train["y"], strict=True):
        words = [names[i] for i in x[:length]]
        assert words[:2] == (["good", "film"] if y else ["a", "bad"])


def test_bytes_are_those_of_hidden_texts() -> None:
    data, hidden = labelled_text(max_length=32), masked_text(tokens="bytes", copies=1)
    assert data.signature.offers["vocab_size"] == hidden.signature.offers["vocab_size"] == 257
    assert data.signature.offers["class_names"] == ("argparse", "ast", "inspect", "statistics", "textwrap", "typing")
    seen = [{bytes(row.tolist()) for row in columns(source)["x"]} for source in data[:3]]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_folders_of_texts(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i}.txt").write_text(f"{name} {i}")
    data = labelled_text(path=str(tmp_path), tokens="characters")
    assert sum(len(source) for source in data[:3]) == 20
    (tmp_path / "dog" / "a.txt").write_text(" ")
    with pytest.raises(ValueError, match=r"a\.txt is empty"):
        labelled_text(path=str(tmp_path))
    (tmp_path / "dog" / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.txt can't be read as UTF-8"):
        labelled_text(path=str(tmp_path))


def test_pairs_in_a_table(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"source": [f"{i:02}" for i in range(30)], "target": [f"{i:02}"[::-1] + "!" for i in range(30)]}
    )
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    frame = pd.concat([frame, frame])  # each twice: both in one split
    frame["source"] = "a" + frame["source"]
    frame.to_parquet(tmp_path / "pairs.parquet")
    data = pairs(path=str(tmp_path / "pairs.parquet"))
    assert sum(len(source) for source in data[:3]) == 60
    preparation = data.signature.preparation
    read = [{decoded(row.tolist(), preparation) for row in columns(source)["source"]} for source in data[:3]]
    assert sum(map(len, read)) == len(set.union(*read)) == 30
    train = columns(data.train)
    source, target, y = (decoded(train[name][0].tolist(), preparation) for name in ("source", "target", "y"))
    assert y == source[:0:-1] + "!"
    assert train["target"][0, 0] == BEGIN
    assert train["target"][0, 1:].tolist() == train["y"][0, :-1].tolist()
    assert target == "" or target == y  # `decoded` leaves the beginning out
    assert train["y"][0].tolist()[-1] == END
    assert PAD not in train["y"][0]
    with pytest.raises(ValueError, match=r"target=wrong: .* has no such column; it has source, target"):
        pairs(path=str(tmp_path / "pairs.csv"), target="wrong")
    with pytest.raises(ValueError, match=r"max_length=2: .*row 1, column target: the text has 3 tokens"):
        pairs(path=str(tmp_path / "pairs.parquet"), max_length=2, source="target", target="target")
