"""`trivium data check`: what a data set is taken to be, before anything is trained."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trivium.cli import main
from trivium.data.table import table
from trivium.python.arrays import as_splits


def found(capsys: pytest.CaptureFixture[str], *typed: str) -> Any:
    capsys.readouterr()
    assert main(["data", "check", *typed, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def homes(tmp_path: Path) -> Path:
    n = 100
    frame = pd.DataFrame({"size": np.arange(n) + 0.5, "town": ["Ulm", "Bonn"] * (n // 2)})
    frame.loc[::10, "size"] = None
    frame.loc[3, "town"] = None
    frame["price"] = frame.index * 2.5
    frame.to_csv(tmp_path / "homes.csv", index=False)
    return tmp_path / "homes.csv"


def test_a_table(homes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = found(capsys, str(homes), "data.target=price")
    assert (said["task"], said["rows"]) == ("regression", {"train": 70, "val": 10, "test": 20})
    assert said["features"]["size"]["missing"] == 10
    assert said["features"]["town"] == {"kind": "category", "values": 2, "first": ["Bonn", "Ulm"], "missing": 1}
    assert said["target"]["price"]["least"] == 0
    assert said["target"]["price"]["most"] == 247.5
    original = pd.read_csv(homes)
    for example in said["examples"]:
        row = original[original["price"] == example["price"]].iloc[0]
        assert example["town"] == (None if pd.isna(row["town"]) else row["town"])
        assert example["size"] == (None if pd.isna(row["size"]) else row["size"])
    assert said["repeated"] == {"val": 2, "test": 1}  # rows of one town without a size are alike
    assert main(["data", "check", str(homes), "data.target=price"]) == 0
    assert "number, mean" in capsys.readouterr().out


def test_classes_by_split_and_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = found(capsys, "data=digits", "--out", str(tmp_path / "grid.png"))
    assert said["classes"]["0"] == [124, 18, 36]
    assert sum(sum(counts) for counts in said["classes"].values()) == 1797
    with Image.open(said["pictures"]) as grid:
        assert grid.width > 500
    said = found(capsys, "data=dates", "data.num_samples=10")
    assert said["vocabulary"]["size"] == 44
    assert all(example["target"] == example["y"] for example in said["examples"])
    assert said["examples"][0]["source"] == "May 11, 1998"
    said = found(capsys, "experiment=lstm_python_tags")
    assert said["examples"][0]["y"].split()[0] in said["classes"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["{homes}"], "choose the column to predict, data.target=<size, town, price>"),
        (["{homes}", "data.target=prise"], "data.target=prise"),
        (["nowhere.csv"], "nowhere.csv: there is no such file or folder"),
        (["{folder}/homes.pdf"], "valid are a folder of images, or files"),
        ([], "name a file or a folder"),
        (["experiment=ppo_cartpole"], "the config names no data set"),
    ],
)
def test_mistakes(homes: Path, typed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (homes.parent / "homes.pdf").write_text("")
    assert main(["data", "check", *(part.format(homes=homes, folder=homes.parent) for part in typed)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_target_among_the_features_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": range(30), "cost": [float(i) ** 2 for i in range(30)]})
    frame["price"] = frame["cost"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="target=price: the same as cost"):
        table(path=str(tmp_path / "t.csv"), target="price")
    table(path=str(tmp_path / "t.csv"), target="price", ignore=["cost"])


def test_rows_in_two_splits_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"a": [i // 2 for i in range(60)], "y": [float(i // 2) ** 2 for i in range(60)]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with caplog.at_level(logging.WARNING):
        table(path=str(tmp_path / "t.csv"), target="y")
    assert "occur in an earlier split too" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        frame["key"] = frame["a"]
        frame.to_csv(tmp_path / "t.csv", index=False)
        table(path=str(tmp_path / "t.csv"), target="y", group="key")
    assert not caplog.text


def test_splits_that_are_the_same_are_refused() -> None:
    x, y = np.random.default_rng(0).normal(size=(8, 2)), np.arange(8) % 2
    with pytest.raises(ValueError, match="test has the rows of train"):
        as_splits({"train": (x, y), "val": (x + 1, y), "test": (x, y)})
    as_splits({"train": (x, y), "val": (x + 1, y), "test": (x + 1, y)})
