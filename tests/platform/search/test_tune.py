"""Searches on a real Ray: early stopping, a sampler, and a search that is killed and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trivium.cli import main

pytestmark = pytest.mark.ray

SHORT = [
    "experiment=mlp_digits",
    "learner.lr=loguniform(1e-4,1e-1)",
    "evaluation.every_updates=23",
    "tracking.wandb=false",
]


def records(dir: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in (dir / "trials").glob("[!.]*.json")}


def test_a_search_that_is_killed_continues_where_it_was(tmp_path: Path) -> None:
    arguments = ["tune", *SHORT, "budget.epochs=4", "search=asha", "search.num_trials=5", "--dir", "search", "--quiet"]
    command = [sys.executable, "-m", "trivium", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as killed:
        until = time.monotonic() + 120
        while not any(each["state"] == "finished" for each in records(tmp_path / "search").values()):
            assert killed.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        os.kill(killed.pid, signal.SIGKILL)
    before = {name: each for name, each in records(tmp_path / "search").items() if each["state"] == "finished"}
    rows = {name: (tmp_path / f"search/trials/{name}/metrics.jsonl").read_text() for name in before}
    time.sleep(2)  # Ray's processes end with their driver
    again = [sys.executable, "-m", "trivium", "tune", "--resume", "search", "--json"]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    after = records(tmp_path / "search")
    assert len(after) == 5
    assert {each["state"] for each in after.values()} <= {"finished", "stopped"}
    assert rows == {name: (tmp_path / f"search/trials/{name}/metrics.jsonl").read_text() for name in before}
    assert result["best"]["scores"] == min(each["scores"] for each in after.values())
    assert (tmp_path / "search/best.yaml").is_file()


@pytest.mark.slow
def test_a_sampler_finds_better_settings_and_a_failing_trial_does_not_end_the_search(tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(
        "from torch import nn\n\n\ndef net(*, input_shape, num_outputs, width=8):\n"
        "    if width == 7:\n        raise RuntimeError('seven is too much')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_outputs))\n"
    )
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/picky.yaml").write_text("_target_: picky.net\n_partial_: true\nwidth: 8\n")
    typed = ["tune", *SHORT, "model=picky", "model.width=integers(7,8)", "budget.epochs=2", "search=bayes"]
    typed += ["search.num_trials=6", "--config-dir", "conf", "--dir", "search", "--json"]
    done = subprocess.run([sys.executable, "-m", "trivium", *typed], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = records(tmp_path / "search").values()
    assert {each["state"] for each in found} == {"finished", "failed"}
    assert all("seven is too much" in str(each["reason"]) for each in found if each["state"] == "failed")


@pytest.mark.slow
def test_a_population_that_is_killed_continues(tmp_path: Path) -> None:
    typed = [*SHORT, "budget.epochs=8", "search=pbt", "search.num_trials=3", "--dir", "search", "--quiet"]
    kept = tmp_path / "search/population.json"
    with subprocess.Popen([sys.executable, "-m", "trivium", "tune", *typed], cwd=tmp_path) as killed:
        until = time.monotonic() + 180
        while not (kept.exists() and any(each["begun"] >= 2 for each in json.loads(kept.read_text()))):
            assert killed.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        os.kill(killed.pid, signal.SIGKILL)
    before = json.loads(kept.read_text())
    time.sleep(2)
    again = [sys.executable, "-m", "trivium", "tune", "--resume", "search", "--json"]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {each["state"] for each in records(tmp_path / "search").values()} == {"finished"}
    for earlier, later in zip(before, json.loads(kept.read_text()), strict=True):
        assert later["history"][: len(earlier["history"])] == earlier["history"]
        assert later["parents"][: len(earlier["parents"])] == earlier["parents"]


def test_trials_that_need_more_than_the_machine_has_are_refused(
    joined_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *SHORT, "search.cpus_per_trial=1000", "--dir", "search"]) == 2
    assert "search.cpus_per_trial=1000" in capsys.readouterr().err
