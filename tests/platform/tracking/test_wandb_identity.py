"""Which W&B run a run folder is."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path

import pytest

from trivium.tracking.wandb_identity import KEPT, Identity, identity, is_id, say_overridden

VARIABLES = ("WANDB_RUN_ID", "WANDB_NAME", "WANDB_PROJECT", "WANDB_DIR", "WANDB_RESUME")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_folders_of_the_same_name_are_different_runs(tmp_path: Path) -> None:
    one, other = (identity(folder(tmp_path / parent / "run1"), name="mlp/run1") for parent in "AB")
    assert one.id != other.id
    assert one.name == other.name == "mlp/run1"
    assert set(one.id) <= set(string.hexdigits)


def test_a_folder_stays_the_run_that_it_is(tmp_path: Path) -> None:
    first = identity(folder(tmp_path / "a"), name="mlp/a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert identity(tmp_path / "b", name="mlp/b") == first


def test_the_users_id_is_that_of_a_new_run_and_their_name_that_of_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = identity(folder(tmp_path / "a"), name="mlp/a")
    monkeypatch.setenv("WANDB_RUN_ID", "mine-1")
    monkeypatch.setenv("WANDB_NAME", "My run: the 2nd")
    assert identity(tmp_path / "a", name="mlp/a") == (first.id, "My run: the 2nd")
    assert identity(folder(tmp_path / "b"), name="mlp/b") == ("mine-1", "My run: the 2nd")
    monkeypatch.delenv("WANDB_NAME")
    assert identity(tmp_path / "a", name="mlp/a") == (first.id, "My run: the 2nd"), "and is kept"


@pytest.mark.parametrize(
    "text", ["", " ", "a:b", "a;b", "a,b", "a#b", "a?b", "a/b", "a'b", "a b", "a\nb", "x" * 129, "\ud800"]
)
def test_an_id_that_w_and_b_refuses_is_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_id(text)
    if text not in ("", "\ud800"):
        monkeypatch.setenv("WANDB_RUN_ID", text)
        assert is_id(identity(folder(tmp_path / "a"), name="a").id)


def test_a_folders_name_that_is_no_text_gives_a_name_that_is_one(tmp_path: Path) -> None:
    dir = folder(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff[")))
    assert identity(dir, name=f"mlp/{dir.name}").name == "mlp/?["


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"id": 1, "name": "a"}',
        '{"id": "../x", "name": "a"}',
        '{"id": "a"}',
        "[" * 9000,
        "x" * 20_000,
    ],
)
def test_what_a_strangers_folder_keeps_is_an_id_or_nothing(tmp_path: Path, content: str) -> None:
    path = folder(tmp_path / "a" / "wandb") / "run.json"
    path.write_text(content)
    made = identity(tmp_path / "a", name="a")
    assert is_id(made.id)
    assert json.loads(path.read_text()) == {"id": made.id, "name": "a"}


def test_nothing_is_read_or_written_through_a_link_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text('{"id": "stolen", "name": "a"}')
    path = folder(tmp_path / "a" / "wandb") / "run.json"
    path.symlink_to(tmp_path / "outside")
    assert identity(tmp_path / "a", name="a").id != "stolen"
    assert "stolen" in (tmp_path / "outside").read_text()
    path.unlink()
    os.mkfifo(path)
    assert is_id(identity(tmp_path / "a", name="a").id)


def test_what_has_no_effect_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    known = Identity("id1", "name1")
    for variable, value in zip(VARIABLES, ("id1", "name1", "mine", "", "allow"), strict=True):
        monkeypatch.setenv(variable, value)
    say_overridden(known, project="mine")
    assert not caplog.messages
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "other")
    say_overridden(known, project="mine")
    said = [message.partition("=")[0] for message in caplog.messages]
    assert said == ["WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR", "WANDB_RESUME"]
    assert str(KEPT) in caplog.text
