"""What somebody removes while a run trains is written again, or told at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trivium import cli
from trivium.checkpoints import kept_files
from trivium.checkpoints.kept_files import GrowingFile, KeptFiles
from trivium.run_folder import lock
from trivium.supervised.learner import Supervised
from trivium.tracking import tracker
from trivium.tracking.tracker import read_rows

SHORT = ["tracking.wandb=false", "threads=1", "budget.epochs=null", "budget.updates=20", "log.every_updates=1"]
RUN = Path("run")


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something before the 13th update."""

    def install(what: Callable[[], object]) -> None:
        step, made = Supervised.step, iter(range(1, 10_000))

        def interfered(learner: Supervised) -> dict[str, torch.Tensor]:
            if next(made) == 13:
                what()
            return step(learner)

        monkeypatch.setattr(Supervised, "step", interfered)

    return install


def train(*overrides: str) -> int:
    return cli.main(["train", *SHORT, *overrides, "--dir", "run", "--quiet"])


def steps() -> list[int]:
    return [row["step"] for row in read_rows(RUN / "metrics.jsonl")]


WHOLE = [*range(64, 1281, 64), 1280]


def replace_rows() -> None:
    (RUN / "other").write_text('{"step": 1}\n')
    (RUN / "other").replace(RUN / "metrics.jsonl")


@pytest.mark.parametrize(
    "remove",
    [
        lambda: (RUN / "metrics.jsonl").unlink(),
        lambda: (RUN / "config.yaml").unlink(),
        lambda: (RUN / "environment.json").unlink(),
        lambda: shutil.rmtree(RUN),
        lambda: RUN.rename("elsewhere"),
        replace_rows,
    ],
)
def test_what_is_removed_is_written_again_and_the_run_ends_as_it_would_have(
    remove: Callable[[], object], during: Callable[[Callable[[], object]], None], caplog: pytest.LogCaptureFixture
) -> None:
    during(remove)
    assert train("checkpoint.every_updates=5") == 0
    assert steps() == WHOLE
    for name in ("config.yaml", "environment.json", "result.json", "report.html"):
        assert (RUN / name).stat().st_size > 0
    assert "written again" in caplog.text
    assert cli.main(["resume", "run", "budget.updates=22", "--quiet"]) == 0, "it can be resumed"


def test_a_kill_after_something_was_removed_loses_no_row(during: Callable[..., None]) -> None:
    """Not only at the end, and at checkpoints: about every second."""
    seen: list[list[int]] = []
    during(lambda: (RUN / "metrics.jsonl").unlink())
    looked = tracker.RunTracker._look

    def look(self: tracker.RunTracker) -> None:
        looked(self)
        seen.append(steps())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tracker, "LOOK_S", 0.0)
        patched.setattr(tracker.RunTracker, "_look", look)
        assert train("checkpoint.every_updates=null") == 0
    assert WHOLE[:12] in seen


def test_rows_that_can_not_be_brought_back_are_told_at_the_end(
    during: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    during(lambda: os.truncate(RUN / "metrics.jsonl", 100))
    assert train() == 1
    assert json.loads((RUN / "result.json").read_text())["state"] == "finished"
    (lost,) = json.loads((RUN / "result.json").read_text())["lost"]
    assert str(RUN.absolute() / "metrics.jsonl") in lost
    assert f"trivium: error: {lost}\n" in capsys.readouterr().err
    assert steps() == [], "of a line that was cut nothing is a row"


@pytest.mark.parametrize("everything", [False, True])
def test_checkpoints_that_are_removed_are_saved_again_or_told(
    everything: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best one, and just before the end all of them."""
    evaluate, made = Supervised.evaluate, iter(range(1, 100))
    losses = {1: 0.1, 2: 0.5, 3: 0.6, 4: 0.7}  # the first is the best

    def interfered(learner: Supervised, *, final: bool = False) -> dict[str, float]:
        n = next(made)
        if n == 4:
            shutil.rmtree(RUN / "checkpoints" if everything else RUN / "checkpoints" / "step-000000000320")
        values = evaluate(learner, final=final)
        return values if final else {**values, "loss": losses[n]}

    monkeypatch.setattr(Supervised, "evaluate", interfered)
    assert train("evaluation.every_updates=5", "monitor.metric=eval/loss") == 1
    assert "the best checkpoint, step-000000000320, is gone" in capsys.readouterr().err
    assert json.loads((RUN / "result.json").read_text())["checkpoint"] == "step-000000001280"
    assert cli.main(["evaluate", "run", "--checkpoint", "last"]) == 0


def test_a_folder_that_another_run_has_taken_over_is_left_to_it(
    during: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    locks = []

    def take_over() -> None:
        shutil.rmtree(RUN)
        for name in lock.NAMES:
            locks.append(lock.alone_in(RUN, name))
            locks[-1].__enter__()
        (RUN / "config.yaml").write_text("another's")

    during(take_over)
    assert train() == 1
    assert "is another run's now" in capsys.readouterr().err
    assert sorted(path.name for path in RUN.iterdir()) == [".lock", ".lock-rank-0", "config.yaml"]
    assert (RUN / "config.yaml").read_text() == "another's"
    for each in locks:
        each.__exit__(None, None, None)


# ------------------------------------------------------------------------------------------- the parts


def test_a_growing_file_is_what_was_written_whatever_happens_to_its_name(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    path.parent.mkdir()
    path.write_bytes(b"0123456789")
    file = GrowingFile(path)
    assert file.size == 10
    file.truncate(4)
    file.write(b"ab")
    shutil.rmtree(path.parent)
    file.write(b"cd")
    file.look()
    file.write(b"ef")
    file.look()
    file.flush_to_disk()
    assert path.read_bytes() == b"0123abcdef"
    assert (file.size, file.lost) == (10, [])
    assert os.listdir(path.parent) == ["file"]
    with open(path, "ab") as other:
        other.write(b"foreign")
    file.look()
    assert (file.size, len(file.lost)) == (17, 1)
    file.look()
    assert len(file.lost) == 1, "told once"
    file.close()


def test_what_can_not_be_written_again_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("a: 1")
    kept = KeptFiles(tmp_path, ("config.yaml", "environment.json"))
    kept.look()
    assert os.listdir(tmp_path) == ["config.yaml"], "what was not there is not missed"
    (tmp_path / "config.yaml").unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(kept_files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            kept.look()
    kept.look()
    assert (tmp_path / "config.yaml").read_text() == "a: 1"
    (tmp_path / "config.yaml").write_text("a: 2")
    kept.read()
    (tmp_path / "config.yaml").unlink()
    kept.look()
    assert (tmp_path / "config.yaml").read_text() == "a: 2"
