"""What a Ray that is started for a run needs, and whether it is still there: without a Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from trivium.cli import errors
from trivium.config.errors import ConfigError
from trivium.on_ray import cluster


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short wherever pytest keeps its own."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="s") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster.sys, "platform", "linux")


def test_a_path_may_be_as_long_as_a_sockets() -> None:
    most = cluster.LONGEST - len(cluster.IN_FOLDER)
    assert len("/session_2026-10-12_01-41-37_123456_4194304/sockets/plasma_store") == len(cluster.IN_FOLDER)
    taken = {n: cluster._takes_sockets("/tmp", "r" * (n - len("/tmp/"))) for n in (most, most + 1)}
    assert taken == {most: True, most + 1: False}
    assert not cluster._takes_sockets("/tmp", "é" * (most - len("/tmp/"))), "bytes count, not letters"


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_ray_chooses_where_it_can(name: str, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(short))
    with cluster._folder() as folder:
        assert folder is None
    (short / "ray").mkdir()
    with cluster._folder() as folder:
        assert folder is None


def test_elsewhere_it_gets_a_short_folder_which_is_gone_afterwards(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short / "file").touch()
    long = short / ("d" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    for unusable in (str(long), f"{short}/missing", f"{short}/file", "relative"):
        monkeypatch.setenv("TMPDIR", unusable)
        with cluster._folder() as folder:
            assert folder is not None
            assert os.path.dirname(folder) == str(short)
            assert len(folder + cluster.IN_FOLDER) <= cluster.LONGEST
            (Path(folder) / "session").mkdir()
        assert not os.path.exists(folder)
    with pytest.raises(KeyError), cluster._folder() as folder:
        raise KeyError
    assert not os.path.exists(str(folder))


def test_another_users_folder_is_not_written(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short / "ray").mkdir()
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr(cluster.os, "access", lambda path, mode: not str(path).endswith("/ray"))
    with cluster._folder() as folder:
        assert folder is not None


def test_nowhere_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/long")
    monkeypatch.setattr(cluster, "_takes_sockets", lambda *_: False)
    with pytest.raises(ConfigError) as error, cluster._folder():
        pass
    (line,) = error.value.errors
    assert line.startswith("/long: ")
    assert "RAY_TMPDIR=" in line


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """What could be those of a Ray that was started here."""
    started = {name: subprocess.Popen(["sleep", "60"]) for name in ("gcs_server", "raylet")}
    monkeypatch.setattr(cluster, "_parts", {name: psutil.Process(part.pid) for name, part in started.items()})
    monkeypatch.setattr(cluster, "_lost", "")
    yield started
    for part in started.values():
        part.kill()
        part.wait()


@pytest.mark.parametrize("reaped", [False, True])
def test_a_ray_is_lost_with_each_of_its_parts(parts: dict[str, subprocess.Popen[bytes]], reaped: bool) -> None:
    assert cluster.lost() == ""
    parts["raylet"].kill()
    while not reaped and psutil.Process(parts["raylet"].pid).status() != psutil.STATUS_ZOMBIE:
        pass
    if reaped:
        parts["raylet"].wait()
    assert cluster.lost() == "raylet"
    cluster.kill()
    assert parts["gcs_server"].wait(timeout=10) == -9
    assert cluster.lost() == "raylet", "not what was ended in consequence"


def test_another_ray_is_not_looked_after() -> None:
    assert cluster.lost() == ""
    cluster.kill()


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise ValueError("the current node\n  timed out")

    ray = SimpleNamespace(is_initialized=lambda: False, init=fails)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(cluster.WorkersLost, match=r"^no Ray can be started here: the current node timed out$"),
        cluster.joined(1, import_from_here=True),
    ):
        pass
    assert errors.described(cluster.WorkersLost("it is lost"), trace=False)[1:] == (["it is lost"], 1, True)
