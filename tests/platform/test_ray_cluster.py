"""Where a Ray that is started for a run has its sockets: without a Ray."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trivium import ray_cluster
from trivium.config import ConfigError


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short wherever pytest keeps its own."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="s") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray_cluster.sys, "platform", "linux")


def test_a_path_may_be_as_long_as_a_sockets() -> None:
    most = ray_cluster.LONGEST - len(ray_cluster.IN_FOLDER)
    assert len("/session_2026-10-12_01-41-37_123456_4194304/sockets/plasma_store") == len(ray_cluster.IN_FOLDER)
    taken = {n: ray_cluster._takes_sockets("/tmp", "r" * (n - len("/tmp/"))) for n in (most, most + 1)}
    assert taken == {most: True, most + 1: False}
    assert not ray_cluster._takes_sockets("/tmp", "é" * (most - len("/tmp/"))), "bytes count, not letters"


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_ray_chooses_where_it_can(name: str, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(short))
    with ray_cluster._folder() as folder:
        assert folder is None
    (short / "ray").mkdir()
    with ray_cluster._folder() as folder:
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
        with ray_cluster._folder() as folder:
            assert folder is not None
            assert os.path.dirname(folder) == str(short)
            assert len(folder + ray_cluster.IN_FOLDER) <= ray_cluster.LONGEST
            (Path(folder) / "session").mkdir()
        assert not os.path.exists(folder)
    with pytest.raises(KeyError), ray_cluster._folder() as folder:
        raise KeyError
    assert not os.path.exists(str(folder))


def test_another_users_folder_is_not_written(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short / "ray").mkdir()
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr(ray_cluster.os, "access", lambda path, mode: not str(path).endswith("/ray"))
    with ray_cluster._folder() as folder:
        assert folder is not None


def test_nowhere_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/long")
    monkeypatch.setattr(ray_cluster, "_takes_sockets", lambda *_: False)
    with pytest.raises(ConfigError) as error, ray_cluster._folder():
        pass
    (line,) = error.value.errors
    assert line.startswith("/long: ")
    assert "RAY_TMPDIR=" in line
