"""Printing never fails, and never reaches a file that it is not meant for."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from trivium import cli
from trivium.boundary import output
from trivium.boundary.output import Lasting
from trivium.supervised.learner import Supervised

SHORT = ["tracking.wandb=false", "threads=1", "budget.epochs=null", "budget.updates=2"]


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", buffering=1)  # noqa: SIM115
    yield stream
    output.failure(stream)
    stream.close()


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A file on a full disk."""
    stream = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    yield stream
    output.failure(stream)
    stream.close()


def test_what_can_not_be_shown_is_kept(unread: TextIO, full: TextIO) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, unread, full):
        kept: list[str] = []
        lasting = Lasting(stream, kept.append)
        for text in ("one\n", "two\n"):
            print(text, end="", file=lasting, flush=True)
        lasting.writelines(["three\n", "four\n"])
        assert "".join(kept) == "one\ntwo\nthree\nfour\n"
        assert not lasting.isatty()


def test_what_is_shown_without_being_kept_and_what_the_stream_can_not_encode() -> None:
    content, kept = io.BytesIO(), list[str]()
    lasting = Lasting(io.TextIOWrapper(content, encoding="ascii"), kept.append)
    lasting.write("é\n")
    lasting.show("live")
    assert content.getvalue() == b"\\xe9\nlive"
    assert kept == ["é\n"]
    assert lasting.encoding == "ascii"
    assert lasting.buffer is not None


def test_a_disk_that_has_room_again_is_written_again(tmp_path: Path) -> None:
    class Filling(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    stream = Filling()
    lasting = Lasting(stream)
    lasting.write("lost")
    stream.full = False
    lasting.write("shown")
    assert stream.getvalue() == "shown"


def test_a_process_without_standard_streams_writes_what_it_prints_into_no_file(tmp_path: Path) -> None:
    code = """
import os, sys
from trivium.boundary import output
output.open_missing()
file = open("rows", "w")
assert file.fileno() > 2, file.fileno()
os.write(1, b"out"), os.write(2, b"err")
print("out", flush=True), print("err", file=sys.stderr, flush=True), sys.stdin.read()
"""
    assert subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL).returncode == 0
    shell = f"exec {sys.executable} -c '{code}' <&- >&- 2>&-"
    assert subprocess.run(shell, shell=True, timeout=60).returncode == 0
    assert Path("rows").read_text() == ""


def test_a_run_does_not_need_that_anybody_reads_of_it(unread: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", unread)
    monkeypatch.setattr(sys, "stdout", unread)
    assert cli.main(["train", *SHORT, "--dir", "run"]) == 0
    assert cli.main(["resume", "run", "--json"]) == 0
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["train", *SHORT, "--dir", "another"]) == 0
    for run in (Path("run"), Path("another")):
        assert (run / "result.json").exists()
        assert (run / "report.html").exists()


def test_what_is_printed_to_nobody_is_no_success(unread: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", unread)
    assert cli.main(["list", "models"]) == 141


@pytest.mark.parametrize("command", [["list", "models"], ["train", *SHORT, "--dir", "run", "--quiet"]])
def test_a_result_that_can_not_be_written_is_told(
    command: list[str], full: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    assert cli.main(command) == 1
    assert capsys.readouterr().err == "trivium: error: standard output: No space left on device\n"


@pytest.mark.parametrize("flush", [False, True])
def test_a_model_may_print_though_nobody_reads(
    flush: bool, unread: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Supervised.step

    def chatty(learner: Supervised) -> object:
        print("a step" * 5000, flush=flush)
        return step(learner)

    monkeypatch.setattr(Supervised, "step", chatty)
    monkeypatch.setattr(sys, "stdout", unread)
    assert cli.main(["train", *SHORT, "--dir", "run", "--quiet", "--json"]) == 0
    assert capsys.readouterr().err == ""
    assert Path("run/log.txt").read_text().count("a stepa step") > 2


def test_a_pipe_of_the_runs_own_that_breaks_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(Supervised, "step", broken)
    assert cli.main(["train", *SHORT, "--dir", "run", "--quiet"]) == 1
    assert "BrokenPipeError" in capsys.readouterr().err
