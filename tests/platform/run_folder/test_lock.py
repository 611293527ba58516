"""One process at a time has a run folder, and takes away no more than it made."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trivium import cli, launch
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.run_folder import folder, lock
from trivium.run_folder.task import Task
from trivium.tracking.progress import Display

SHORT = ["tracking.wandb=false", "threads=1", "budget.epochs=null", "budget.updates=2"]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has the lock of `run`."""
    code = """
import sys
from pathlib import Path
from trivium.run_folder import lock
with lock.alone_in(Path("run"), sys.argv[1]):
    print("has it", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, lock.RUN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        yield process
        process.communicate()


def task(dir: Path = Path("run")) -> Task:
    return Task(compose(SHORT), dir.absolute())


def files(dir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(dir)): path.read_bytes() for path in dir.rglob("*") if path.is_file()}


def test_who_is_refused_leaves_alone_what_is_the_others(
    other: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(Path("run"))
    assert lock.is_held(Path("run"))
    assert lock.is_held(Path("run"), lock.RUN)
    assert not lock.is_held(Path("run"), lock.RANK_0)
    assert cli.main(["train", *SHORT, "--dir", "run", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert f"{Path('run').absolute()} is being trained by another process ({other.pid} on " in said
    assert files(Path("run")) == before
    other.kill()
    other.wait()
    assert not lock.is_held(Path("run")), "the system frees it"
    assert cli.main(["train", *SHORT, "--dir", "run", "--quiet"]) == 0


def test_a_folder_that_another_run_has_had_since_it_was_looked_at_is_left_alone() -> None:
    """What a second process finds that was as quick to look as the first, and gets the lock once it has ended."""
    with folder.new(task()):
        pass
    before = files(Path("run"))
    with pytest.raises(ConfigError, match="holds a run already"), folder.new(task()):
        pass
    assert files(Path("run")) == before


def impossible(run: Path, *others: str) -> None:
    with folder.new(task(run)):
        for name in others:
            (run / name).write_text("of the user's")
        raise ConfigError(["impossible"])


def test_only_what_was_made_is_taken_away() -> None:
    Path("above").mkdir()
    run = Path("above/between/run")
    with pytest.raises(ConfigError, match="impossible"):
        impossible(run)
    assert list(Path("above").iterdir()) == []
    with pytest.raises(ConfigError, match="impossible"):
        impossible(run, "notes.txt")
    assert list(files(Path("above"))) == ["between/run/notes.txt"]
    (run / "notes.txt").unlink()
    with pytest.raises(ConfigError, match="impossible"):
        impossible(run)
    assert list(run.iterdir()) == []


def test_a_run_that_was_killed_as_it_began_leaves_no_folder_that_is_refused() -> None:
    Path("run").mkdir()
    for name in (".lock", ".config.yaml"):
        (Path("run") / name).write_text("")
    with folder.new(task()):
        assert (Path("run") / "config.yaml").exists()


def test_a_lock_that_was_taken_away_with_its_folder_is_none() -> None:
    """Who gets a lock whose file was removed meanwhile is not alone: the next process makes another file."""
    run = Path("run").absolute()
    with lock.alone_in(run):
        (run / lock.RUN).unlink()
        with lock.alone_in(run):
            assert lock.is_held(run)
    outdated = os.open(run / lock.RUN, os.O_RDWR)
    (run / lock.RUN).unlink()
    assert not lock._is_at(outdated, run / lock.RUN)
    os.close(outdated)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_lock_that_is_no_file_is_refused_in_a_line(make: Any) -> None:
    Path("run").mkdir()
    make(Path("run") / lock.RUN)
    with pytest.raises(ConfigError, match="can't be written"), lock.alone_in(Path("run")):
        pass
    assert not lock.is_held(Path("run"))


def _train(barrier: Any, answers: Any) -> None:
    barrier.wait()
    try:
        with folder.new(task()):
            answers.put("trains")
            barrier.wait()
    except ConfigError as error:
        answers.put(str(error))
        barrier.wait()


def test_of_processes_that_begin_at_once_one_trains() -> None:
    task()  # what it imports is there when the others begin
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.SimpleQueue()
    processes = [context.Process(target=_train, args=(barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    said = sorted(answers.get() for _ in processes)
    for process in processes:
        process.join()
    assert said.count("trains") == 1
    assert all("is being trained by another process" in line for line in said if line != "trains")
    assert sorted(files(Path("run"))) == [".lock", "config.yaml", "environment.json"]


def test_what_a_kill_kept_from_a_finished_run_is_written_when_it_is_resumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = launch.train(compose(SHORT), dir=Path("run"), display=Display(quiet=True))
    report = result.dir / "report.html"
    written = report.stat().st_mtime_ns
    assert cli.main(["resume", "run"]) == 0
    assert report.stat().st_mtime_ns == written, "all is there"
    report.unlink()
    assert cli.main(["resume", "run"]) == 0
    assert report.exists()
    os.utime(report, ns=(0, 0))  # of before the run was continued
    launch.resume("run")
    assert report.stat().st_mtime_ns > 0
    # Another process that has the run may be about to write it.
    report.unlink()
    monkeypatch.setattr(lock, "is_held", lambda dir: True)
    launch.resume("run")
    assert not report.exists()
