"""`trivium judge`: samples in the features of a classifier that was trained by Trivium, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import trivium
from trivium.cli import main
from trivium.data.digits import digits
from trivium.generative.gans.gan import GAN

ALWAYS = ["threads=1", "tracking.wandb=false", "--quiet"]


def train(dir: Path, *typed: str) -> Path:
    assert main(["train", *typed, *ALWAYS, "--dir", str(dir)]) == 0
    return dir


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("judge") / "classifier", "experiment=lenet_digits", "budget.epochs=10")


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = ["model.width=4", "model.discriminator_width=4", "learner.batch_size=32", "budget.updates=2"]
    typed = ["learner=gan", "model=dcgan", "data=digits", "learner.conditional=true", "name=gan", *small]
    return train(tmp_path_factory.mktemp("judged") / "gan", *typed)


def judge(run: Path, classifier: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["judge", str(run), "--classifier", str(classifier), "--json", *options]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_samples_of_a_model_that_has_learnt_nothing_are_bad(
    gan: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = judge(gan, classifier, capsys, "--num", "200")
    metrics = result["metrics"]
    assert metrics["frechet"] > 10 * metrics["frechet_real"]
    assert metrics["frechet_noise"] > 10 * metrics["frechet_real"]
    assert metrics["kernel"] > 10 * abs(metrics["kernel_real"])
    assert metrics["precision"] < 0.5 < metrics["precision_real"]
    assert metrics["coverage"] < 0.5 < metrics["coverage_real"]
    assert metrics["class_agreement"] < 0.5
    assert sum(result["class_shares"]) == pytest.approx(1)
    judged_by = result["classifier"]
    assert (judged_by["name"], judged_by["dir"], judged_by["features"]) == ("lenet_digits", str(classifier), 84)
    assert judged_by["accuracy"] > 0.8
    assert len(judged_by["sha256"]) == 12
    assert json.loads((gan / "judged.json").read_text()) == result
    assert judge(gan, classifier, capsys, "--num", "200") == result
    assert judge(gan, classifier, capsys, "--num", "200", "--seed", "1") != result


def test_real_images_are_as_good_as_they_can_be(
    gan: Path, classifier: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator that copies training images of the class asked for: perfect, but for being copies."""
    rows = digits().train.batch(torch.arange(len(digits().train)))

    def copies(self: GAN, num: int, *, generator: torch.Generator, label_N: Any = None) -> torch.Tensor:
        order = [torch.nonzero(rows["y"] == k).flatten() for k in range(10)]
        return torch.stack([rows["x"][order[i % 10][i // 10]] for i in range(num)])

    monkeypatch.setattr(GAN, "sample", copies)
    metrics = judge(gan, classifier, capsys, "--num", "300")["metrics"]
    assert metrics["class_agreement"] > 0.8
    assert metrics["frechet"] < 3 * metrics["frechet_real"]
    assert metrics["nearest_train"] < 0.01
    assert metrics["least_class"] > 0.5
    assert metrics["most_class"] < 2


def test_restored_and_translated_images(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = train(tmp_path / "vae", "experiment=vae_digits", "budget.updates=2")
    metrics = judge(vae, classifier, capsys, "--num", "100")["metrics"]
    assert metrics["restored_agreement"] < 0.8
    assert metrics["restored_frechet"] > 10 * metrics["frechet_real"]
    assert "class_agreement" not in metrics
    small = ["model.width=4", "model.blocks=1", "model.discriminator_width=4", "model.discriminator_layers=1"]
    typed = ["learner=cyclegan", "model=cyclegan", "data=transformed_halves", "name=c", "learner.batch_size=16", *small]
    metrics = judge(train(tmp_path / "c", *typed, "budget.updates=1"), classifier, capsys)["metrics"]
    assert list(metrics) == ["translated_agreement"]
    assert metrics["translated_agreement"] < 0.8


def test_mistakes_are_one_line(gan: Path, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, named in (
        ([str(gan), "--classifier", str(gan)], "sorts nothing into classes"),
        ([str(classifier), "--classifier", str(classifier)], "samples, restores and translates nothing"),
        ([str(gan), "--classifier", str(classifier), "--guidance", "2"], "guidance"),
        ([str(gan), "--classifier", "nowhere"], "nowhere"),
    ):
        assert main(["judge", *options]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert named in lines[0]


def test_the_same_from_python(gan: Path, classifier: Path) -> None:
    assert trivium.judge(gan, classifier=classifier, num=50)["samples"] == 50
