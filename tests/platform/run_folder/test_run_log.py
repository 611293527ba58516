"""log.txt holds what a run printed and warned, and is never a reason to fail."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

import forked
import pytest

from trivium.run_folder import log as run_log
from trivium.run_folder.log import Lines, RunLog, recording
from trivium.tracking.progress import Display, Status


def kept(dir: Path) -> list[str]:
    """The lines of log.txt without their times."""
    lines = (dir / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    return [line[20:] for line in lines]


def test_what_is_printed_and_warned_is_kept_and_shown_also_from_before_there_was_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    stdout, handlers = sys.stdout, list(logging.getLogger().handlers)
    with recording() as log, log.streams():
        print("early")
        logging.getLogger("any").warning("of %s", "many")
        logging.getLogger("any").info("not this")
        log.open(tmp_path)
        print("one", end=" ")
        print("whole", file=sys.stderr)
        print("line\nand another")
        print("begun", end="")
    assert kept(tmp_path) == ["early", "warning: of many", "whole", "one line", "and another", "begun"]
    shown = capsys.readouterr()
    assert shown.out == "early\none line\nand another\nbegun"
    assert shown.err == "whole\n"
    assert caplog.messages == ["of many"]
    assert sys.stdout is stdout
    assert logging.getLogger().handlers == handlers


def test_warnings_that_nothing_handles_are_shown_once_and_kept_once(tmp_path: Path) -> None:
    code = """
import logging, pathlib, warnings
from trivium.run_folder.log import recording
with recording() as log, log.streams():
    log.open(pathlib.Path())
    logging.getLogger("any").warning("careful")
    warnings.warn("slippery")
logging.getLogger("any").warning("after")
"""
    done = forked.run(code, folder=tmp_path / "out")
    assert done.stderr == "careful\n<string>:7: UserWarning: slippery\nafter\n"
    assert kept(tmp_path) == ["warning: careful", "<string>:7: UserWarning: slippery"]


def test_of_a_progress_bar_the_last_state_is_a_line() -> None:
    lines: list[str] = []
    pieces = Lines(lines.append)
    for i in range(1000):
        pieces.write(f"\r{i / 10:.0f}%")
    assert len(pieces._begun) < 10
    pieces.write("\rdone\r\nnext")
    assert lines == ["done"]
    pieces.end()
    pieces.end()
    assert lines == ["done", "next"]


def test_what_is_printed_without_end_fills_neither_disk_nor_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "MAX_BYTES", 1000)
    log = RunLog()
    for i in range(run_log.MAX_EARLY + 10):
        log.line(f"early {i}")
    assert len(log._early) <= run_log.MAX_EARLY
    log.open(tmp_path)
    for i in range(100):
        log.line(f"line {i}")
    log.line("failed\nIndexError", last=True)
    log.close()
    assert (tmp_path / "log.txt").stat().st_size < 1300
    assert kept(tmp_path)[-3:] == ["what follows is not kept, but how the run ends", "failed", "IndexError"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("elsewhere", path)])
def test_a_log_that_can_not_be_written_is_done_without(tmp_path: Path, make: object) -> None:
    make(tmp_path / "log.txt")  # type: ignore[operator]
    log = RunLog()
    log.open(tmp_path)
    log.line("lost")
    log.close()
    assert not Path("elsewhere").exists()
    full = RunLog()
    full._file = open("/dev/full", "ab", buffering=0)  # type: ignore[assignment]  # noqa: SIM115
    full.line("lost")
    full.close()


def test_where_python_crashed_is_in_the_log(tmp_path: Path) -> None:
    code = """
import ctypes, pathlib
from trivium.run_folder.log import RunLog
log = RunLog()
log.open(pathlib.Path())
def reach_for_nothing():
    ctypes.string_at(0)
reach_for_nothing()
"""
    done = forked.run(code, folder=tmp_path / "out")
    assert done.returncode < 0
    assert "in reach_for_nothing" in (tmp_path / "log.txt").read_text()


def test_a_display_keeps_what_is_said_and_statuses_the_less_often_the_longer_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    display = Display(quiet=True)
    display.keep = lines.append
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    display.say("training")
    for second in range(3000):
        now = float(second)
        fraction = second / 3000
        display.show(Status("r", fraction, "samples", second, 1.0, now, None, {"train/loss": 1.0}, is_row=True))
        display.show(Status("r", fraction, "samples", second, 1.0, now, None, {"train/loss": 1.0}))
    assert lines[0] == "training"
    assert 500 < len(lines) < 1000
    assert " 1,998 samples " in "".join(lines[-200:])
    display.close()
    assert "2,999 samples" in lines[-1]
