"""`trivium predict` and `trivium sample` on texts and series: what each task says of files, and texts continued."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trivium.cli import main

QUIET = ["threads=1", "tracking.wandb=false", "--quiet"]
SMALL = ["model=recurrent", "model.hidden_size=16", "model.embedding=8"]


def trained(dir: Path, *typed: str) -> Path:
    assert main(["train", "learner=supervised", "name=x", *typed, "--dir", str(dir / "run"), *QUIET]) == 0
    return dir / "run"


def predicted(run: Path, file: Path, tmp_path: Path) -> pd.DataFrame:
    out = tmp_path / "out.csv"
    assert main(["predict", str(run), str(file), "--out", str(out)]) == 0
    return pd.read_csv(out)


def error_of(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    capsys.readouterr()
    assert main(list(typed)) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned "abcabc..."."""
    dir = tmp_path_factory.mktemp("writer")
    (dir / "abc.txt").write_text("abc" * 400)
    typed = ["data=text", f"data.path={dir / 'abc.txt'}", "data.context=8", "model.per_step=true", *SMALL]
    run = trained(dir, *typed, "budget.epochs=4", "learner.lr=0.02", "learner.batch_size=16")
    (dir / "abc.txt").unlink()
    return run


def test_a_text_is_continued(writer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["predict", str(writer), "--prompt", "bca", "--length", "7", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "bcabcabcab\n"
    assert main(["sample", str(writer), "--prompt", "ca", "--num", "2", "--length", "3", "--top-k", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == ["cabca"] * 2
    texts = []
    for num in ("1", "3"):
        assert main(["sample", str(writer), "--num", num, "--temperature", "5", "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["texts"])
    assert texts[0][0] == texts[1][0]
    assert len(set(texts[1])) == 3
    assert len(texts[0][0]) == 200
    assert "'z' does not occur" in error_of(capsys, "predict", str(writer), "--prompt", "abz")
    assert "temperature=-1.0" in error_of(capsys, "predict", str(writer), "--prompt", "a", "--temperature", "-1")
    assert "either a file" in error_of(capsys, "predict", str(writer))


def test_labelled_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"good": ["fine", "great"], "bad": ["poor", "awful"]}
    rows = [(f"{words[kind][i % 2]} film", kind) for i in range(30) for kind in words]
    frame = pd.DataFrame([(f"{text} {i}", kind) for i, (text, kind) in enumerate(rows)], columns=["text", "label"])
    frame.to_csv(tmp_path / "reviews.csv", index=False)
    typed = ["data=labelled_text", f"data.path={tmp_path / 'reviews.csv'}", "data.tokens=words", "data.max_length=4"]
    run = trained(tmp_path, *typed, *SMALL, "budget.epochs=20", "learner.lr=0.02", "learner.batch_size=10")
    pd.DataFrame({"n": [1, 2], "text": ["awful film", "great film 3"]}).to_csv(tmp_path / "new.csv", index=False)
    table = predicted(run, tmp_path / "new.csv", tmp_path)
    assert list(table) == ["n", "text", "prediction", "probability"]
    assert list(table["prediction"]) == ["bad", "good"]
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"poor film\n\nfine film\n")))
    assert main(["predict", str(run), "-", "--out", "-"]) == 0
    assert [line.split(",")[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["poor film", "bad"],
        ["fine film", "good"],
    ]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("awful film")
    assert list(predicted(run, tmp_path / "texts", tmp_path)["prediction"]) == ["bad"]
    (tmp_path / "texts" / "a.txt").write_text(" ")
    assert "text 1 is empty" in error_of(capsys, "predict", str(run), str(tmp_path / "texts"))


def test_pairs(tmp_path: Path) -> None:
    """To copy letters."""
    letters = [a + b for a in "abcdefghijkl" for b in "abcdefghijkl"]
    pd.DataFrame({"source": letters, "target": letters}).to_csv(tmp_path / "pairs.csv", index=False)
    typed = ["data=pairs", f"data.path={tmp_path / 'pairs.csv'}", "model=attention_rnn", "model.hidden_size=32"]
    run = trained(tmp_path, *typed, "budget.epochs=80", "learner.lr=0.01", "learner.batch_size=25")
    (tmp_path / "new.txt").write_text("ad\nca\n")
    table = predicted(run, tmp_path / "new.txt", tmp_path)
    assert list(table["prediction"]) == ["ad", "ca"]
    (tmp_path / "new.txt").write_text("ad\na!\n")
    table = predicted(run, tmp_path / "new.txt", tmp_path)  # an unknown character
    assert table["prediction"][0] == "ad"


def test_tags(tmp_path: Path) -> None:
    lines = ["the DET", "cat NOUN", "", "a DET", "dog NOUN", ""] * 20
    (tmp_path / "tags.txt").write_text("\n".join(lines))
    typed = ["data=tagged", f"data.path={tmp_path / 'tags.txt'}", "data.max_length=3", "model.per_step=true", *SMALL]
    run = trained(tmp_path, *typed, "budget.epochs=30", "learner.lr=0.03", "learner.batch_size=10")
    (tmp_path / "new.txt").write_text("a\ncat\n\nthe\nmouse\nthe\ncat\n")
    table = predicted(run, tmp_path / "new.txt", tmp_path)
    assert list(table["sequence"]) == [1, 1, 2, 2, 2, 3]
    assert list(table["token"]) == ["a", "cat", "the", "mouse", "the", "cat"]
    known = table[table["token"] != "mouse"]
    assert [tag == "NOUN" for tag in known["prediction"]] == [token == "cat" for token in known["token"]]


def test_forecasts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = np.arange(400)
    frame = pd.DataFrame({"a": 100 + 10 * (day % 2), "b": 5.0 - day % 2})
    frame.to_csv(tmp_path / "series.csv", index=False)
    typed = ["data=series", f"data.path={tmp_path / 'series.csv'}", "data.history=4", "data.horizon=3", "model=mlp"]
    run = trained(tmp_path, *typed, "budget.epochs=20", "learner.lr=0.01")
    table = predicted(run, tmp_path / "series.csv", tmp_path)
    assert list(table) == ["step", "a", "b"]
    assert table["a"].to_numpy() == pytest.approx(np.array([100, 110, 100]), abs=1)
    assert table["b"].to_numpy() == pytest.approx(np.array([5, 4, 5]), abs=0.1)
    frame.iloc[:3].to_csv(tmp_path / "short.csv", index=False)
    assert "has 3 rows; the model needs the last 4" in error_of(
        capsys, "predict", str(run), str(tmp_path / "short.csv")
    )
    frame["b"] = frame["b"].astype(object)
    frame.loc[398, "b"] = "x"
    frame.to_csv(tmp_path / "wrong.csv", index=False)
    assert "row 399, column b" in error_of(capsys, "predict", str(run), str(tmp_path / "wrong.csv"))
