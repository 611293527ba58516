"""`trivium reconstruct`, `encode`, `anomaly`, `translate` and `upscale` on a user's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from trivium.cli import main

TRAINED = {
    "autoencoder": ["learner=autoencoder", "model=mlp_coder", "data=digits", "learner.lr=3e-3", "budget.updates=150"],
    "vq_vae": ["learner=vq_vae", "model=code_map_coder", "data=digits", "model.channels=[4,8]", "budget.updates=2"],
    "cyclegan": [
        "learner=cyclegan",
        "model=cyclegan",
        "data=transformed_halves",
        "model.width=4",
        "model.discriminator_layers=1",
        "budget.updates=2",
    ],
    "srgan": ["learner=srgan", "model=srresnet", "data=digits", "model.width=4", "budget.updates=2"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    for name, typed in TRAINED.items():
        both = [*typed, f"name={name}", "threads=1", "tracking.wandb=false", "--dir", str(folder / name), "--quiet"]
        assert main(["train", *both]) == 0
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five digits, in two folders."""
    for i, image in enumerate(load_digits().images[:5]):
        place = tmp_path / "mine" / ("even" if i % 2 == 0 else "odd") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(place)
    return tmp_path / "mine"


def told(capsys: pytest.CaptureFixture[str], *typed: str) -> dict[str, Any]:
    assert main([*typed, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def pixels_of(file: str | Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def test_reconstructions_lie_below_their_originals(
    runs: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = told(capsys, "reconstruct", str(runs / "autoencoder"), str(images))
    assert result["files"] == [str(runs / "autoencoder" / "reconstructions.png")]
    assert result["error"] < 0.05
    assert pixels_of(result["files"][0]).shape[0] > pixels_of(result["files"][0]).shape[1]  # four rows of three
    told(capsys, "reconstruct", str(runs / "autoencoder"), str(images), "--out", "again.npy")
    again = np.load("again.npy")
    assert again.shape == (5, 1, 8, 8)
    assert np.corrcoef(again[0].ravel(), load_digits().images[0].ravel())[0, 1] > 0.8
    one = told(capsys, "reconstruct", str(runs / "autoencoder"), str(images / "odd" / "1.png"), "--out", "single/")
    assert one["files"] == ["single/000.png"]


def test_codes_are_a_table_or_an_array(runs: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = told(capsys, "encode", str(runs / "autoencoder"), str(images))
    table = pd.read_csv(result["files"][0])
    assert list(table)[:2] == ["file", "code_0"]
    assert table.shape == (5, 33)
    told(capsys, "encode", str(runs / "vq_vae"), str(images), "--out", "codes.npy")
    codes = np.load("codes.npy")
    assert (codes.shape, codes.dtype) == ((5, 2, 2), np.int64)


def test_anomalies_score_higher(runs: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = images.parent / "noise"
    noise.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(noise / f"{i}.png")
    told_of = told(capsys, "anomaly", str(runs / "autoencoder"), str(images), "--anomalies", str(noise))
    assert told_of["roc_auc"] == 1
    table = pd.read_csv(told_of["files"][0])
    assert table["score"].is_monotonic_decreasing
    assert table["anomaly"].tolist() == [True] * 3 + [False] * 5
    assert list(pd.read_csv(told(capsys, "anomaly", str(runs / "autoencoder"), str(images))["files"][0])) == [
        "file",
        "score",
    ]


def test_translations_both_ways(runs: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more in {"forth": (), "back": ("--back",)}.items():
        result = told(capsys, "translate", str(runs / "cyclegan"), str(images), "--out", f"{name}.npy", *more)
        assert result["images"] == 5
    forth, back = np.load("forth.npy"), np.load("back.npy")
    assert forth.shape == back.shape == (5, 1, 8, 8)
    assert not np.array_equal(forth, back)
    told(capsys, "translate", str(runs / "cyclegan"), str(images))
    assert (runs / "cyclegan" / "translations.png").exists()


def test_images_of_any_size_are_enlarged(runs: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 20), "red").save(images / "wide.jpg")
    result = told(capsys, "upscale", str(runs / "srgan"), str(images), "--out", "large")
    assert sorted(result["files"]) == ["large/even/0.png", "large/even/2.png", "large/even/4.png", "large/odd/1.png",
                                       "large/odd/3.png", "large/wide.png"]  # fmt: skip
    assert pixels_of("large/wide.png").shape == (40, 60)
    assert pixels_of("large/odd/1.png").shape == (16, 16)


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["reconstruct", "cyclegan", "mine"], "can't reconstruct; it can translate"),
        (["upscale", "autoencoder", "mine"], "can't upscale"),
        (["encode", "autoencoder", "nowhere"], "nowhere: there is no such file or folder"),
        (["encode", "autoencoder", "mine", "--out", "codes.txt"], "codes.txt: must end in .csv or .parquet"),
        (["reconstruct", "autoencoder", "mine", "--out", "a.jpg"], "a.jpg"),
        (["anomaly", "autoencoder", "mine", "--anomalies", "nothing"], "nothing: there is no such file"),
    ],
)
def test_mistakes_are_one_line(
    runs: Path, images: Path, typed: list[str], named: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(images.parent)
    command, run, *rest = typed
    assert main([command, str(runs / run), *rest]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert named in lines[0]
