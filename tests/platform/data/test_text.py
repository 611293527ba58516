from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trivium.data.made_up.reversal import LETTERS, reversal
from trivium.data.texts.text import Windows, text
from trivium.data.texts.vocabulary import BEGIN, END, PAD


def test_windows_by_hand() -> None:
    windows = Windows(torch.arange(10), context=3, stride=3)
    assert len(windows) == 3
    batch = windows.batch(torch.tensor([0, 2]))
    assert batch["x"].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert batch["y"].tolist() == [[1, 2, 3], [7, 8, 9]]
    assert len(Windows(torch.arange(10), context=3, stride=1)) == 7
    with pytest.raises(ValueError, match="context=10 needs a text of more tokens; this one has 10"):
        Windows(torch.arange(10), context=10, stride=1)


def test_a_file_becomes_characters_split_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdé" * 20, encoding="utf-8")
    data = text(path=str(tmp_path / "a.txt"), context=4, val_fraction=0.2, test_fraction=0.3)
    assert data.signature.offers == {"vocab_size": 5, "context": 4}
    assert data.signature.preparation["vocabulary"] == ["a", "b", "c", "d", "é"]
    assert [len(source.tokens) for source in data[:3]] == [50, 20, 30]  # type: ignore[attr-defined]
    assert data.val.batch(torch.tensor([0]))["x"].tolist() == [[0, 1, 2, 3]]
    raw = text(path=str(tmp_path / "a.txt"), context=4, tokens="bytes")
    assert raw.signature.offers["vocab_size"] == 256
    assert raw.train.batch(torch.tensor([0]))["y"].tolist() == [[*b"bcd", 0xC3]]
    assert raw.val is raw.test


def test_pythons_own_source_needs_no_file() -> None:
    data = text()
    assert len(data.train) > 2000
    assert {"d", "e", "f", " ", "\n"} <= set(data.signature.preparation["vocabulary"])


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=f"path={tmp_path / name} can't be read as UTF-8 text"):
            text(path=str(tmp_path / name))


def test_words_and_their_reversals() -> None:
    data = reversal(num_samples=200, max_length=5, val_samples=20)
    rows = data.train.batch(torch.arange(200))
    for source, target, y in zip(*(rows[name].tolist() for name in ("source", "target", "y")), strict=True):
        word = [token for token in source if token != PAD]
        assert 1 <= len(word) <= 5
        assert source == word + [PAD] * (5 - len(word))
        assert y == [*reversed(word), END] + [PAD] * (5 - len(word))
        assert target == [BEGIN, *reversed(word)] + [PAD] * (5 - len(word))
    assert rows["source"].max() < 3 + len(LETTERS)
    assert {len([t for t in s if t]) for s in rows["source"].tolist()} == {1, 2, 3, 4, 5}
