"""The learning-rate and batch-size finders: what they suggest, and that they leave nothing behind."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from trivium.cli import main
from trivium.search.finders import Rate, smoothed, suggested

TYPED = ["experiment=mlp_digits", "threads=1"]


def test_smoothed_by_hand() -> None:
    assert smoothed([4.0]) == pytest.approx(4)
    assert smoothed([4.0, 2.0]) == pytest.approx((0.9 * 4 + 2) / 1.9)


def test_the_suggestion_is_a_tenth_of_the_best_rate() -> None:
    rates = [Rate(0.001, 3, 3), Rate(0.01, 2, 2.5), Rate(0.1, 1, 1.5), Rate(1.0, 9, 5)]
    assert suggested(rates) == pytest.approx(0.01)
    assert suggested(rates[:1]) is None
    assert suggested([rates[2], rates[3]]) is None
    assert suggested([]) is None


def test_a_rate_is_found_and_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    out = tmp_path / "lr.png"
    assert main(["find-lr", *TYPED, "--updates", "80", "--highest", "100", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e-4 < found["suggestion"] < 0.1
    assert len(found["rates"]) < 80  # it has diverged
    assert found["rates"][0]["lr"] == pytest.approx(1e-6)
    rates = [of["lr"] for of in found["rates"]]
    assert all(b / a == pytest.approx(rates[1] / rates[0]) for a, b in itertools.pairwise(rates))
    with Image.open(out) as picture:
        assert picture.width == 800
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]


def test_a_batch_size_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-batch-size", *TYPED, "--smallest", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    sizes = [of["batch_size"] for of in found["sizes"]]
    assert sizes == [64, 128, 256, 512, 1024]  # of 1,258 samples
    assert found["suggestion"] in sizes
    best = max(of["samples_per_s"] for of in found["sizes"])
    chosen = next(of for of in found["sizes"] if of["batch_size"] == found["suggestion"])
    assert chosen["samples_per_s"] >= 0.9 * best
    assert all(of["memory"] > 10_000_000 for of in found["sizes"])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["find-lr", "experiment=ppo_cartpole"], "PPO has no optimizer of torch"),
        (["find-lr", *TYPED, "--lowest", "2"], "lowest=2 must be below highest=1"),
        (["find-lr", *TYPED, "learner.lr=x"], "learner.lr=x"),
        (["find-batch-size", *TYPED, "--smallest", "4000"], "batch_size=4000"),
        (["find-batch-size", *TYPED, "--smallest", "40", "--largest", "20"], "smallest=40"),
        (["find-batch-size", "experiment=ppo_cartpole"], "learner"),
    ],
)
def test_mistakes(typed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
