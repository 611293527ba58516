"""What happens around a run: folders, results, and what a stranger's folder may not do."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trivium
from trivium import cli
from trivium.config.errors import ConfigError
from trivium.run_folder import lock
from trivium.schedules import scheduled
from trivium.supervised.learner import Supervised
from trivium.tracking.tracker import read_rows

SHORT = ["tracking.wandb=false", "threads=1", "budget.epochs=null", "budget.updates=20", "evaluation.every_updates=10"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    trivium.train(*SHORT, dir=folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    import shutil

    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("trivium: error: ")]


def test_python_gets_metrics_folder_and_learner(tmp_path: Path) -> None:
    result = trivium.train(*SHORT, dir=tmp_path / "run")
    assert result.metrics["test/accuracy"] > 0.5
    assert result.dir == tmp_path / "run"
    assert result.learner.counters()["samples"] == 20 * 64
    evaluated = trivium.evaluate(result.dir)
    assert evaluated["checkpoint"] == result.checkpoint
    assert evaluated["metrics"]["test/accuracy"] == result.metrics["test/accuracy"]
    assert trivium.resume(result.dir).learner.evaluate(final=True)["accuracy"] == result.metrics["test/accuracy"]


def test_a_larger_budget_stretches_the_schedule_that_was_tied_to_it(tmp_path: Path) -> None:
    every_update = ["tracking.wandb=false", "threads=1", "budget.epochs=1", "log.every_updates=1"]
    trivium.train(*every_update, dir=tmp_path / "run")
    before = read_rows(tmp_path / "run" / "metrics.jsonl")[:20]
    assert before[-1]["train/lr"] == 0.0
    trivium.resume(tmp_path / "run", "budget.epochs=2")
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "train/lr" in row]
    assert rows[:20] == before
    assert len(rows) == 40
    for row in rows[20:]:
        expected = scheduled(row["step"], peak=3e-3, decay=2 * 1257)
        assert row["train/lr"] == pytest.approx(expected, rel=1e-6)
    assert rows[20]["train/lr"] > 1.3e-3 > 0 == rows[-1]["train/lr"]


def test_a_folder_with_files_in_it_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("hi")
    assert cli.main(["train", *SHORT, "--dir", str(tmp_path / "mine")]) == 2
    assert errors(capsys) == [f"trivium: error: --dir: {tmp_path / 'mine'} exists and is not an empty folder"]
    assert (tmp_path / "mine" / "precious").read_text() == "hi"


def test_what_turns_out_impossible_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *SHORT, "monitor.metric=eval/nope", "--dir", str(tmp_path / "run")]) == 2
    assert "no eval/nope; valid: eval/accuracy, eval/loss" in errors(capsys)[0]
    assert not (tmp_path / "run").exists()


def test_overrides_that_turn_out_impossible_leave_the_run_as_it_was(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def contents() -> tuple[str, dict[str, object]]:
        result = json.loads((run / "result.json").read_text())
        return (run / "config.yaml").read_text(), {k: v for k, v in result.items() if k != "dir"}

    before = contents()
    assert cli.main(["resume", str(run), "monitor.metric=eval/nope", "budget.updates=40", "--quiet"]) == 2
    assert "no eval/nope" in errors(capsys)[0]
    assert contents() == before


def test_a_target_or_monitor_that_is_changed_forgets_what_was_found_by_the_old_one(tmp_path: Path) -> None:
    first = trivium.train(*SHORT, "budget.target=eval/accuracy>=0.1", dir=tmp_path / "run")
    assert (first.updates, first.reason) == (10, "target eval/accuracy>=0.1 reached")
    again = trivium.resume(tmp_path / "run", "budget.target=eval/accuracy>=1.1", "monitor.metric=eval/accuracy")
    assert (again.updates, again.reason) == (20, "20 updates")


def test_an_impossible_config_leaves_nothing_that_was_not_there(tmp_path: Path) -> None:
    mine, file = tmp_path / "mine", tmp_path / "file"
    mine.mkdir(), file.touch()
    for folder in (mine, tmp_path / "new" / "deep" / "run"):
        for overrides in (
            [f"storage=file://{file}/runs"],
            ["launch=ray", "launch.workers=3", "learner.batch_size=64"],
            ["launch=ray", "launch.workers=1", "launch.gpus_per_worker=1"],
        ):
            with pytest.raises(ConfigError):
                trivium.train(*SHORT, *overrides, dir=folder)
    assert {*tmp_path.rglob("*")} == {mine, file}


def test_only_one_process_trains_in_a_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(run / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(["resume", str(run), "budget.updates=40", "--quiet"]) == 2
    assert errors(capsys) == [f"trivium: error: {run} is being trained by another process"]
    assert cli.main(["resume", str(run), "budget.updates=25", "--quiet"]) == 0


@pytest.mark.parametrize("name", [".result.json", "metrics.jsonl", "figures/confusion.png", "checkpoints"])
def test_a_strangers_links_are_not_followed(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bashrc").write_text("mine")
    path = run / name
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "bashrc")
    for command in (["resume", str(run), "budget.updates=30"], ["evaluate", str(run)]):
        assert cli.main(command) == 2
        assert "is a link out of the run folder" in errors(capsys)[0]
    assert (tmp_path / "bashrc").read_text() == "mine"


def test_a_strangers_result_holds_numbers_only(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "_trusted": ["*"], "metrics": {"test/a": "x"}}))
    from trivium.run_folder.folder import read_result

    assert read_result(run) is None
    (run / "result.json").write_text(json.dumps({**result, "_trusted": ["*"]}))
    read = read_result(run)
    assert read is not None
    assert read._task is None


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32(0.5)])
def test_whatever_an_evaluation_comes_to_the_run_is_whole_and_its_files_are_strict_json(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Supervised, "evaluate", lambda self, *, final=False: {"loss": value, "accuracy": 0.5})
    result = trivium.train(*SHORT, "checkpoint.every_updates=10", "monitor.metric=eval/loss", dir=tmp_path / "run")
    assert result.checkpoint == f"step-{20 * 64:012d}"
    texts = [(result.dir / "result.json").read_text(), *(result.dir / "metrics.jsonl").read_text().splitlines()]
    for text in texts:
        json.loads(text, parse_constant=pytest.fail)
    for command in (["resume"], ["evaluate", "--checkpoint", "best"]):
        assert cli.main([*command, str(result.dir), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)
        assert printed["metrics"]["test/loss"] == (value if math.isfinite(value) else None)
    assert "<h1>mlp_digits</h1>" in (result.dir / "report.html").read_text(), "finished, and reported as such"


def test_a_run_of_a_device_that_is_not_here_can_be_evaluated(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("device: auto", "device: cuda:7"))
    assert trivium.evaluate(run)["metrics"]["test/accuracy"] > 0.5


def test_tracking_that_fails_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trivium.tracking import wandb_sink

    def broken(*_: object, **__: object) -> None:
        raise OSError("no processes left")

    monkeypatch.setattr(wandb_sink.subprocess, "Popen", broken)
    result = trivium.train(*SHORT[1:], dir=tmp_path / "run")
    assert result.updates == 20
    assert "tracking failed (OSError: no processes left); the run goes on" in caplog.text


def test_a_run_folder_that_can_not_be_written_is_not_resumed(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, *_: Any, **__: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    before = sorted(path.name for path in run.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda *_: False)
        assert cli.main(["resume", str(run), "budget.updates=99", "--quiet"]) == 2
    assert capsys.readouterr().err == f"trivium: error: the run folder {run} can't be written\n"
    with monkeypatch.context() as patched:
        patched.setattr("os.open", refuse)
        with (
            pytest.raises(ConfigError, match=f"the run folder {run} can't be written: Read-only file system"),
            lock.alone_in(run),
        ):
            pass
    assert sorted(path.name for path in run.iterdir()) == before
