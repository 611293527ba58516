"""What is told of this machine is true, and told quickly."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path

import pytest

from trivium.run_folder import environment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("1000 100000\n", 1),
        ("", None),
        ("x", None),
    ],
)
def test_a_containers_quota(tmp_path: Path, text: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert environment.quota(tmp_path / "cpu.max") == expected
    assert environment.quota(tmp_path / "none") is None


def test_describe_is_json() -> None:
    told = environment.describe()
    assert json.loads(json.dumps(told)) == told
    assert told["packages"]["torch"]
    assert told["cores"] >= 1


def test_the_git_revision_says_when_files_differ(tmp_path: Path) -> None:
    assert environment.git_revision() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    Path("a").write_text("1")
    for arguments in (["init", "-q"], ["add", "a"], ["commit", "-q", "-m", "a", "--no-verify"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    clean = environment.git_revision()
    assert clean is not None
    assert len(clean) == 40
    Path("a").write_text("2")
    assert environment.git_revision() == clean + "+"


def test_a_package_that_is_missing_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["no-such-package>=1", "numpy<1", "torch>=2.6", 'other>=3; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    missing, old = environment._requirements()
    assert missing.startswith("no-such-package is not installed")
    assert "Trivium needs <1" in old


def test_problems_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")  # closed again: nothing answers
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "9999")
    monkeypatch.setattr("trivium.run_folder.environment._compiler", lambda: None)
    problems = "\n".join(environment.doctor()[1])
    assert f"no Ray answers at RAY_ADDRESS=127.0.0.1:{port}" in problems
    assert "RAY_AUTH_MODE is not" in problems
    assert "OMP_NUM_THREADS=9999 is more than" in problems
    assert "no C++ compiler" in problems


def test_a_ray_that_answers_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert environment.reachable(f"ray://127.0.0.1:{port}") is True
        assert environment.reachable(f"http://127.0.0.1:{port}/") is True
    assert environment.reachable("auto") is None


def test_the_doctor_does_not_wait_for_a_name_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivium.run_folder.environment.ANSWER_S", 0.1)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("trivium.tracking.wandb_process.choose_mode", lambda: time.sleep(5))
    monkeypatch.setattr("trivium.tracking.wandb_process.logged_in", lambda: True)
    started = time.monotonic()
    assert environment._wandb() == (True, "offline", "logged in: runs are written offline")
    assert time.monotonic() - started < 2
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert environment._wandb() == (True, "disabled", "disabled by WANDB_MODE")
