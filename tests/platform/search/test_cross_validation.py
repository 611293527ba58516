"""`trivium cross-validate`: every row is tested once, and a killed one ends with the same bits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from killing import assert_same_bits, finish

from trivium.cli import main
from trivium.search import cross_validation

TYPED = ["experiment=mlp_breast_cancer", "budget.epochs=2", "tracking.wandb=false", "threads=1"]


def command(overrides: Sequence[str], dir: Path) -> int:
    return main(["cross-validate", *overrides, "--folds", "3", "--dir", str(dir), "--quiet"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dir = tmp_path_factory.mktemp("whole") / "cv"
    assert finish(TYPED, dir, main=command) == 0
    return dir


def summary(dir: Path) -> Any:
    return json.loads((dir / cross_validation.NAME).read_text())


def test_each_row_is_tested_in_one_fold(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = summary(whole)
    assert [of["fold"] for of in said["folds"]] == [0, 1, 2]
    values = [of["metrics"]["test/accuracy"] for of in said["folds"]]
    assert said["metrics"]["test/accuracy"]["mean"] == pytest.approx(sum(values) / 3)
    rows = [json.loads((whole / f"fold-{fold}" / "signature.json").read_text())["data"]["rows"] for fold in range(3)]
    assert sum(of["test"] for of in rows) == 569
    assert main(["cross-validate", *TYPED, "--folds", "3", "--dir", str(whole), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == said["metrics"]


def test_killed_in_the_second_fold_it_goes_on(whole: Path, tmp_path: Path) -> None:
    dir = tmp_path / "cv"
    updates = 2 * (569 * 6 // 10 // 32)  # about so many in a fold
    kill = ("trivium.supervised.learner", "Supervised.step", updates + updates // 2)
    assert finish(TYPED, dir, kill_at=kill, main=command) == -9
    assert sorted(path.name for path in dir.iterdir()) == ["fold-0", "fold-1"]
    assert finish(TYPED, dir, main=command) == 0
    assert [of["metrics"] for of in summary(dir)["folds"]] == [of["metrics"] for of in summary(whole)["folds"]]
    for fold in range(3):
        assert_same_bits(dir / f"fold-{fold}", whole / f"fold-{fold}")


def test_by_hand() -> None:
    assert cross_validation.together([{"a": 1.0, "b": 0.0}, {"a": 3.0}]) == {
        "a": {"mean": 2.0, "std": pytest.approx(2**0.5), "min": 1.0, "max": 3.0}
    }


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["experiment=ppo_cartpole"], "accepts no folds"),
        (["experiment=lstm_adding"], "trivium.data.made_up.adding.adding accepts no folds"),
        ([*TYPED, "--folds", "1"], "--folds 1: must be at least 2"),
        ([*TYPED, "learner.lr=0.1", "--folds", "3"], "was trained with other settings"),
        ([*TYPED, "learner.lr=x"], "learner.lr=x"),
    ],
)
def test_mistakes(whole: Path, typed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cross-validate", *typed, "--dir", str(whole)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
