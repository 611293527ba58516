"""Names, files and shapes of data that a stranger may have written."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from special_files import special

from trivium.boundary import untrusted
from trivium.boundary.untrusted import (
    Refused,
    check_folder,
    inside,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    require,
)
from trivium.run_folder import lock


@pytest.mark.parametrize("name", ["a", "figures/a.png", "a/b/c", "..a/b..", "ü.png", "a b"])
def test_a_name_that_stays_inside(name: str) -> None:
    assert str(inside(name)) == name


@pytest.mark.parametrize(
    "name", ["", "/", "/a", "..", "../a", "a/..", "a/../../b", "a//b", "./a", "a/", "a\0b", "a\nb"]
)
def test_a_name_that_leads_out(name: str) -> None:
    with pytest.raises(Refused, match="leads out"):
        inside(name)


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device", "loop"])
def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path: Path, kind: str) -> None:
    special(tmp_path / "x", kind)
    began = time.monotonic()
    with pytest.raises((Refused, OSError)):
        read_bytes(tmp_path / "x", 100)
    assert time.monotonic() - began < 2


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(Refused, match="has 5 bytes, at most 4 are read"):
        read_bytes(tmp_path / "x", 4)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(Refused, match="1,000,000,000,000 bytes"):
        read_json(tmp_path / "sparse")


def repr_of(text: str) -> str:
    """A short id."""
    return repr(text[:20])


DEEP = untrusted.MAX_DEPTH
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join([f'*{m}'] * 9)}]\n" for m, n in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, r"x:2: holds an alias, \*a"),
        ("a: &a [*a]", "holds an alias"),
        ("[" * (DEEP + 1) + "]" * (DEEP + 1), f"nested deeper than {DEEP} levels"),
        ("[" * 100_000, "nested deeper"),
        ("{a: " * 100_000, "nested deeper"),
        ("- " * 1_000 + "x", "nested deeper"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: 2020-99-99", "not valid YAML"),
        ("a: " + "9" * 5_000, "not valid YAML"),
        ("a: 2020-01-01", "holds a date"),
        ("a: !!set {b, c}", "holds a set"),
        ("a: !!binary aGk=", "holds a bytes"),
        ("? [a]\n: b", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: [", "x:1: is not valid YAML|x:2: is not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
    ids=repr_of,
)
def test_yaml_that_is_no_plain_data_is_one_line(content: str, said: str) -> None:
    with pytest.raises(Refused, match=said) as error:
        parse_yaml(content.encode(), "x")
    assert len(str(error.value).splitlines()) == 1


def test_yaml_that_is_plain_data_is_read() -> None:
    assert parse_yaml(b"a: [1, 2.5, x, null, true]\nb: {c: {}}\n1: d", "x") == {
        "a": [1, 2.5, "x", None, True],
        "b": {"c": {}},
        1: "d",
    }
    assert parse_yaml(("[" * DEEP + "]" * DEEP).encode(), "x")
    with pytest.raises(Refused, match="utf-8"):
        parse_yaml(b"a: \xff", "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "not valid JSON"),
        ("[" * (DEEP + 2) + "]" * (DEEP + 2), "nested deeper"),
        ('{"a":' * (DEEP + 2) + "1" + "}" * (DEEP + 2), "nested deeper"),
        ("9" * 5_000, "not valid JSON"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
    ],
    ids=repr_of,
)
def test_json_that_is_deep_or_none_is_one_line(content: str, said: str) -> None:
    with pytest.raises(Refused, match=said) as error:
        parse_json(content.encode(), "x")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "loop"])
@pytest.mark.parametrize("name", ["config.yaml", "figures/a.png", "x"])
def test_a_run_folder_holds_files_and_folders_only(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "figures").mkdir()
    check_folder(tmp_path)
    special(tmp_path / name, kind)
    with pytest.raises(Refused, match=f"{name} is a (pipe|socket|device|link)"):
        check_folder(tmp_path)


def test_the_locks_are_among_the_files() -> None:
    assert lock.NAMES == untrusted.LOCKS
    assert set(lock.NAMES) < set(untrusted.FILES)


@pytest.mark.parametrize("name", untrusted.FILES)
def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(Refused, match=f"{name} is a folder, not a file"):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", untrusted.FOLDERS)
def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(Refused, match=f"{name} is a file, not a folder"):
        check_folder(tmp_path)


def test_links_may_stay_inside_and_not_lead_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "a").mkdir(parents=True)
    (run / "checkpoints" / "last").symlink_to("a")
    (run / "checkpoints" / "best").symlink_to("gone")
    (run / "circle").symlink_to(".")
    check_folder(run)
    (tmp_path / "run-too").mkdir()
    for target in ("..", "/etc", "../run-too", "checkpoints/../../run-too", "/nowhere"):
        (run / "out").symlink_to(target)
        with pytest.raises(Refused, match="is a link out of the run folder"):
            check_folder(run)
        (run / "out").unlink()
    (run / "a").symlink_to("b")
    (run / "b").symlink_to("a")
    with pytest.raises(Refused, match="in a circle"):
        check_folder(run)


def test_folders_that_are_nested_deeply_are_refused_and_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):  # beyond Python's recursion and the system's longest path
        os.mkdir("folder")
        os.chdir("folder")
    try:
        with pytest.raises(Refused, match="nested deeper"):
            check_folder(tmp_path)
        (tmp_path / "file").write_text("")
        assert list(untrusted.files_below(tmp_path)) == [tmp_path / "file"]
    finally:
        for _ in range(1500):  # which pytest could not remove
            os.chdir("..")
            os.rmdir("folder")


SHAPE = {"a": untrusted.count, "b": {"c": untrusted.optional(untrusted.text)}, "d": untrusted.by_name(untrusted.finite)}
GOOD: dict[str, Any] = {"a": 3, "b": {"c": None, "more": 1}, "d": {"x": 0.5}, "more": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a": -1}, "x.a is -1, not a whole number >= 0"),
        ({"a": True}, "x.a is True, not a whole"),
        ({"a": 2.0}, "x.a is 2.0, not a whole"),
        ({"a": 2**64}, "x.a is 18446744073709551616, not a whole"),
        ({"a": None}, "x.a is None, not a whole"),
        ({"b": []}, "x.b is a list, not a dict"),
        ({"b": {}}, "x.b.c is missing"),
        ({"b": {"c": 1}}, "x.b.c is 1, not a text of one line, without control characters or null"),
        ({"d": {"x": float("nan")}}, "x.d is a dict, not a group of which each key has a finite number"),
        ({"d": {1: 1.0}}, "x.d is a dict, not a group"),
    ],
)
def test_a_value_of_another_shape_is_named_with_what_belongs_there(change: dict[str, Any], said: str) -> None:
    require(GOOD, SHAPE, "x")
    with pytest.raises(Refused) as error:
        require({**GOOD, **change}, SHAPE, "x")
    assert str(error.value).startswith(said)
