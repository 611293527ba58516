"""`trivium predict`: tables and images of the user's own, without the training data, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trivium.cli import main

QUIET = ["threads=1", "tracking.wandb=false", "--quiet"]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A classifier of a table that is gone, and a file of rows that it has not seen."""
    dir = tmp_path_factory.mktemp("homes")
    n = 120
    size = np.linspace(-1, 1, n)
    frame = pd.DataFrame(
        {"size": size, "town": ["Ulm", "Bonn"] * (n // 2), "kind": np.where(size > 0, "house", "flat")}
    )
    frame.to_csv(dir / "homes.csv", index=False)
    typed = ["learner=supervised", "model=mlp", "data=table", f"data.path={dir / 'homes.csv'}", "data.target=kind"]
    typed += ["name=homes", "budget.epochs=60", "learner.batch_size=20", "learner.lr=0.01"]
    assert main(["train", *typed, "--dir", str(dir / "run"), *QUIET]) == 0
    (dir / "homes.csv").unlink()
    new = pd.DataFrame({"note": ["a", "b", "c"], "town": ["Kiel", "Ulm", None], "size": [-0.9, 0.9, 0.8]})
    new.to_csv(dir / "new.csv", index=False, sep=";")
    return dir / "run", dir / "new.csv"


def test_predictions_stand_beside_the_columns(
    homes: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, new = homes
    assert main(["predict", str(run), str(new), "--json", "--scores"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["file"]) == (3, str(run / "predictions.csv"))
    table = pd.read_csv(run / "predictions.csv")
    assert list(table) == ["note", "town", "size", "prediction", "probability", "probability_flat", "probability_house"]
    assert list(table["prediction"]) == ["flat", "house", "house"]
    assert (table["probability_flat"] + table["probability_house"]).to_numpy() == pytest.approx(np.ones(3), abs=1e-5)
    assert (table["probability"] == table[["probability_flat", "probability_house"]].max(axis=1)).all()
    assert main(["evaluate", str(run)]) == 2  # for which there must be data
    assert "homes.csv: must be a file or folder that exists" in capsys.readouterr().err
    assert main(["predict", str(run), str(new), "--out", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "note,town,size,prediction,probability"
    assert len(lines) == 4
    assert main(["predict", str(run), str(new), "--out", str(tmp_path / "a" / "p.parquet")]) == 0
    assert list(pd.read_parquet(tmp_path / "a" / "p.parquet")["prediction"]) == ["flat", "house", "house"]


def test_images_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Black and white squares, larger and in another mode than the training's."""
    for name, shade in (("dark", 20), ("light", 235)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (8, 8), shade + i).save(tmp_path / "data" / name / f"{i}.png")
    typed = ["learner=supervised", "model=mlp", "data=image_folder", f"data.path={tmp_path / 'data'}", "name=squares"]
    typed += ["data.normalize=true", "budget.epochs=40", "learner.batch_size=8", "learner.lr=0.01"]
    assert main(["train", *typed, "--dir", str(tmp_path / "run"), *QUIET]) == 0
    (tmp_path / "new" / "below").mkdir(parents=True)
    Image.new("RGB", (20, 16), (240, 240, 240)).save(tmp_path / "new" / "below" / "a.jpg")
    Image.new("L", (8, 8), 10).save(tmp_path / "new" / "b.png")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new"), "--out", str(tmp_path / "p.csv")]) == 0
    table = pd.read_csv(tmp_path / "p.csv")
    found = {Path(file).name: name for file, name in zip(table["file"], table["prediction"], strict=True)}
    assert found == {"a.jpg": "light", "b.png": "dark"}
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new" / "b.png"), "--out", "-"]) == 0
    assert "dark" in capsys.readouterr().out
    (tmp_path / "new" / "c.png").write_text("no picture")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new")]) == 2
    assert "c.png can't be decoded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("size\n1\n", "lacks town"),
        ("size,town\nbig,Ulm\n", "column size, row 0: 'big' is no number"),
        ("size,town\n1,Ulm\n2,Ulm,3\n", "line 3"),
        ("size,town,prediction\n1,Ulm,x\n", "column prediction already"),
        ("", "can't be read as a table"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(
    homes: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, part: str
) -> None:
    (tmp_path / "wrong.csv").write_text(content)
    assert main(["predict", str(homes[0]), str(tmp_path / "wrong.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
    assert "wrong.csv" in line


def test_mistakes_of_the_command(homes: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, new = homes
    for typed, part in (
        ([str(run), "nowhere.csv"], "nowhere.csv: there is no such file"),
        ([str(run), str(new), "--out", "a.txt"], "must end in .csv or .parquet"),
        ([str(run), str(new), "--out", "-", "--json"], "standard output is for --json"),
    ):
        assert main(["predict", *typed]) == 2
        said = capsys.readouterr()
        assert part in said.err + said.out
