"""`trivium sample`: grids, images and arrays of a trained run, the same for the same seed, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trivium.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional GAN after two updates."""
    dir = tmp_path_factory.mktemp("sampled") / "run"
    small = ["model.width=4", "model.discriminator_width=4", "learner.batch_size=32", "budget.updates=2", "threads=1"]
    typed = ["learner=gan", "model=dcgan", "data=digits", "learner.conditional=true", "name=gan", *small]
    assert main(["train", *typed, "tracking.wandb=false", "--dir", str(dir), "--quiet"]) == 0
    return dir


def pixels_of(file: Path | str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def sample(run: Path, *options: str) -> int:
    return main(["sample", str(run), *options])


def test_a_grid_an_array_and_single_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--num", "10", "--json") == 0
    (grid,) = json.loads(capsys.readouterr().out)["files"]
    assert grid == str(run / "samples.png")
    assert min(pixels_of(grid).shape[:2]) > 100
    assert sample(run, "--num", "10", "--out", "some/a.npy") == 0
    array = np.load("some/a.npy")
    assert (array.shape, array.dtype) == ((10, 1, 8, 8), np.float32)
    assert sample(run, "--num", "10", "--out", "images/") == 0
    files = sorted(Path("images").iterdir())
    assert [file.name for file in files] == [f"{i:03}.png" for i in range(10)]
    pixels = np.stack([pixels_of(file) for file in files])
    assert np.abs(pixels / 255 - array[:, 0]).max() <= 0.5 / 255 + 1e-6


def test_the_same_seed_gives_the_same_samples_and_a_class_is_chosen(run: Path) -> None:
    names = {"a": ["--seed", "1"], "b": ["--seed", "1"], "c": ["--seed", "2"], "d": ["--seed", "1", "--class", "3"]}
    for name, options in names.items():
        assert sample(run, "--num", "4", "--out", f"{name}.npy", *options) == 0
    a, b, c, d = (np.load(f"{name}.npy") for name in names)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert np.array_equal(a[3], d[3])  # the classes come in turn: the fourth is of class 3
    assert not np.array_equal(a[0], d[0])


def test_ways_between_latents(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--interpolate", "5", "--num", "3", "--out", "ways.npy", "--class", "2") == 0
    ways = np.load("ways.npy").reshape(3, 5, 8, 8)
    assert sample(run, "--interpolate", "3", "--num", "3", "--out", "again.npy", "--class", "2") == 0
    again = np.load("again.npy").reshape(3, 3, 8, 8)
    assert np.allclose(again[:, [0, 2]], ways[:, [0, 4]], atol=1e-5)  # the same ends
    assert np.allclose(again[:, 1], ways[:, 2], atol=1e-5)  # the same middle
    small, large = (np.abs(ways[:, i] - ways[:, 0]).mean() for i in (1, 4))
    assert 0 < small < large
    capsys.readouterr()
    assert sample(run, "--interpolate", "--num", "3", "--out", "ways.gif", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["ways.gif"]
    with Image.open("ways.gif") as film:
        assert 2 <= film.n_frames <= 2 * 8 - 2  # there and back; equal frames are one


def test_along_the_dimensions_that_change_most(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--traverse", "4", "--num", "6", "--out", "along.npy", "--json") == 0
    dimensions = json.loads(capsys.readouterr().out)["dimensions"]
    along = np.load("along.npy").reshape(6, 4, -1)
    assert len(set(dimensions)) == 6
    change = along.std(1).mean(1)
    assert (np.diff(change) <= 0).all()
    assert sample(run, "--traverse", "4", "--num", "6", "--out", "grid.png") == 0
    height, width = pixels_of("grid.png").shape[:2]
    assert height > width  # 6 rows of 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--class", "12"], "label=12"),
        (["--steps", "5"], "steps"),
        (["--truncation", "0.5"], "truncation"),
        (["--out", "a.jpg"], "a.jpg"),
        (["--interpolate", "1"], "--interpolate: 1"),
        (["--interpolate", "--traverse"], "--traverse"),
        (["--traverse", "--guidance", "2"], "guidance"),
        (["--checkpoint", "step-000000000001"], "step-000000000001"),
    ],
)
def test_mistakes_are_one_line(run: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert named in lines[0]


def test_a_classifier_cannot_be_sampled(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["experiment=mlp_digits", "budget.updates=1", "threads=1", "tracking.wandb=false"]
    assert main(["train", *typed, "--dir", "run", "--quiet"]) == 0
    assert sample(Path("run")) == 2
    assert "it can predict" in capsys.readouterr().err
