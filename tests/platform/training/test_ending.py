"""A run that does not finish leaves a trace: people and programs can tell how it went, and how far."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import finish

from trivium import cli, launch
from trivium.checkpoints.folder import Checkpoints
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.run_folder import folder, lock
from trivium.run_folder.state import state_of
from trivium.supervised.learner import Supervised
from trivium.tracking.progress import Display
from trivium.training.ends import failure
from trivium.training.loop import Interrupted

SHORT = ["tracking.wandb=false", "threads=1", "budget.epochs=null", "budget.updates=20", "log.every_updates=5"]
RUN = Path("run")


def train(*overrides: str) -> Any:
    return launch.train(compose([*SHORT, *overrides]), dir=RUN, display=Display(quiet=True))


def end() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RUN / "result.json").read_text())
    return content


@pytest.fixture
def at_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Do something in the n-th update, in place of it if it raises."""

    def install(n: int, what: Callable[[], object]) -> None:
        step, made = Supervised.step, iter(range(1, 10_000))

        def interfered(learner: Supervised) -> dict[str, torch.Tensor]:
            if next(made) == n:
                what()
            return step(learner)

        monkeypatch.setattr(Supervised, "step", interfered)

    return install


def fall() -> None:
    raise RuntimeError("fell from the roof")


def warn_and_fall() -> None:
    print("about to fall")
    logging.getLogger("somewhere").warning("no rail")
    fall()


def test_a_failed_run_says_what_where_and_how_far_and_goes_on(at_update: Callable[..., None]) -> None:
    at_update(13, warn_and_fall)
    with pytest.raises(RuntimeError, match="fell from the roof"):
        train("checkpoint.every_updates=4")
    assert state_of(RUN) == "failed"
    ended = end()
    assert ended["state"] == "failed"
    assert ended["error"] == "RuntimeError: fell from the roof"
    assert ended["place"] == f"{__file__}:{fall.__code__.co_firstlineno + 1} in fall"
    assert (ended["updates"], ended["step"]) == (12, 12 * 64)
    assert ended["counters"]["samples"] == 12 * 64
    assert ended["metrics"]["train/loss"] > 0
    assert ended["checkpoint"] == "step-000000000768"
    assert ended["elapsed_s"] > 0
    kept = (RUN / "log.txt").read_text()
    for said in ("training mlp_digits in ", "about to fall\n", "no rail\n", "in fall\n"):
        assert said in kept
    assert kept.splitlines()[-1].endswith(" RuntimeError: fell from the roof")
    html = (RUN / "report.html").read_text()
    assert "<span class='state open'>failed</span>" in html
    assert "RuntimeError: fell from the roof" in html
    assert "<dt>Progress</dt><dd>60% of 20 updates</dd>" in html
    assert "trivium resume" in html
    assert folder.read_result(RUN) is None, "it has not finished"

    result = launch.resume(RUN, display=Display(quiet=True))
    assert result.updates == 20
    assert state_of(RUN) == end()["state"] == "finished"
    assert "failed" not in (RUN / "report.html").read_text()
    again = (RUN / "log.txt").read_text()
    assert again.startswith(kept)
    assert "resuming from step-000000000768\n" in again
    assert again.endswith(" finished\n")


@pytest.mark.parametrize("code", [0, None, "enough"])
def test_code_that_leaves_the_program_has_failed(
    at_update: Callable[..., None], code: object, capsys: pytest.CaptureFixture[str]
) -> None:
    at_update(3, lambda: sys.exit(code))  # type: ignore[arg-type]
    assert cli.main(["train", *SHORT, "--dir", "run", "--quiet"]) == 1
    assert f"SystemExit({code!r})" in end()["error"]
    assert f"{__file__}:" in end()["place"]


def test_a_stopped_run_is_told_from_a_failed_one(at_update: Callable[..., None]) -> None:
    at_update(7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train("log.every_updates=1")
    assert state_of(RUN) == "stopped"
    assert "error" not in end()
    assert end()["checkpoint"] == f"step-{end()['step']:012d}"
    assert end()["reason"] == f"stopped by signal 15; trivium resume continues from {end()['checkpoint']}"
    assert "<span class='state open'>stopped</span>" in (RUN / "report.html").read_text()


def test_a_running_and_a_killed_run_have_no_result_and_one_of_them_a_lock(at_update: Callable[..., None]) -> None:
    seen = []
    at_update(3, lambda: seen.append((state_of(RUN), (RUN / "result.json").exists())))
    train()
    assert seen == [("running", False)]
    assert state_of(RUN) == "finished"


@pytest.mark.kill
def test_a_killed_run_is_told_from_others(tmp_path: Path) -> None:
    at = ("trivium.supervised.learner", "Supervised.step", 13)
    assert finish(SHORT, tmp_path / "run", kill_at=at) == -signal.SIGKILL
    assert state_of(RUN) == "killed"
    assert not (RUN / "result.json").exists()
    assert finish([], tmp_path / "run") == 0
    assert state_of(RUN) == "finished"


def test_a_run_that_can_not_be_resumed_keeps_the_trace_of_how_it_ended(at_update: Callable[..., None]) -> None:
    at_update(13, fall)
    with pytest.raises(RuntimeError):
        train()
    before = end()
    with pytest.raises(ConfigError, match="eval/nope"):
        launch.resume(RUN, ["monitor.metric=eval/nope"], display=Display(quiet=True))
    assert end() == before


def test_a_finished_run_that_fails_before_it_goes_on_is_still_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    train()
    before, config = end(), (RUN / "config.yaml").read_text()
    monkeypatch.setattr(Checkpoints, "load", lambda *_, **__: fall())
    with pytest.raises(RuntimeError):
        launch.resume(RUN, ["budget.updates=40"], display=Display(quiet=True))
    assert (end(), (RUN / "config.yaml").read_text()) == (before, config)
    assert "fell from the roof" in (RUN / "log.txt").read_text()


def test_a_finished_run_that_fails_as_it_goes_on_has_failed(at_update: Callable[..., None]) -> None:
    train()
    at_update(1, fall)
    with pytest.raises(RuntimeError):
        launch.resume(RUN, ["budget.updates=40"], display=Display(quiet=True))
    assert state_of(RUN) == "failed"
    assert launch.resume(RUN, display=Display(quiet=True)).updates == 40


def test_a_finished_run_that_is_stopped_as_it_goes_on_is_stopped(at_update: Callable[..., None]) -> None:
    """Before its first new row, but with a checkpoint: there is something to go on from."""
    train()
    at_update(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        launch.resume(RUN, ["budget.updates=40", "log.every_updates=1000"], display=Display(quiet=True))
    assert state_of(RUN) == "stopped"
    assert launch.resume(RUN, display=Display(quiet=True)).updates == 40


def test_a_trace_that_can_not_be_written_hides_no_error(
    at_update: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    at_update(3, lambda: 1 / 0)
    monkeypatch.setattr(folder, "write_end", full)
    with pytest.raises(ZeroDivisionError):
        train()
    assert "No space left on device" in caplog.text
    assert "ZeroDivisionError" in (RUN / "log.txt").read_text()


@pytest.mark.parametrize("content", ["", "[]", "null", '{"state": 3}', '{"state": "great"}', "[" * 100_000])
def test_a_result_that_can_not_be_read_is_none(content: str) -> None:
    RUN.mkdir()
    (RUN / "result.json").write_text(content)
    assert state_of(RUN) == "killed"
    with lock.alone_in(RUN):
        assert state_of(RUN) == "running"


# ------------------------------------------------------------------------------------------- what an error says


class TwoArguments(Exception):
    """One of those that can't be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def raised(what: Callable[[], object]) -> BaseException:
    try:
        what()
    except Exception as error:
        return error
    raise AssertionError


def in_a_library() -> None:
    torch.ones(3).view(7)


def translated() -> None:
    try:
        in_a_library()
    except RuntimeError as error:
        raise ValueError("a model of the wrong size") from error


def hidden() -> None:
    try:
        in_a_library()
    except RuntimeError:
        raise ValueError("a model of the wrong size") from None


@pytest.mark.parametrize("what", [in_a_library, translated, hidden])
def test_the_place_is_where_it_began_in_code_that_is_no_librarys(what: Callable[[], None]) -> None:
    place = failure.of(raised(what)).place
    assert place == f"{__file__}:{in_a_library.__code__.co_firstlineno + 1} in in_a_library"


def test_an_error_without_a_trace_or_in_a_circle_has_no_place() -> None:
    assert failure.of(ValueError("x")).place == ""
    first, second = ValueError("x"), ValueError("y")
    first.__cause__, second.__cause__ = second, first
    assert failure.of(first).place == ""
    assert failure.of(ValueError()).error == "ValueError"


def test_what_an_error_says_outlives_its_process() -> None:
    error = raised(in_a_library)
    failure.mark(error, updates=7)
    failure.mark(error, rank=1)
    arrived = pickle.loads(pickle.dumps(error))
    assert arrived.__traceback__ is None
    found = failure.of(arrived)
    assert found.place.endswith(" in in_a_library")
    assert found.progress == {"updates": 7, "rank": 1}
    assert "in in_a_library" in found.trace
    consequence = RuntimeError("lost too often")
    consequence.__cause__ = arrived
    assert failure.of(consequence) == failure.Failure("RuntimeError: lost too often", *list(vars(found).values())[1:])


def test_an_error_that_does_not_travel_has_one_that_does_say_the_same() -> None:
    def fail() -> None:
        raise TwoArguments("a", "b")

    error = raised(fail)
    failure.mark(error, updates=7)
    instead = RuntimeError("TwoArguments: ab")
    failure.pass_on(error, instead)
    found = failure.of(pickle.loads(pickle.dumps(instead)))
    assert (found.error, found.progress) == ("RuntimeError: RuntimeError: TwoArguments: ab"[14:], {"updates": 7})
    assert found.place.endswith(" in fail")
