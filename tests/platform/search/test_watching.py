"""What a search shows while it runs: a table in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from trivium.search import watching
from trivium.search.settings import Search, check
from trivium.search.watching import Watching, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def search() -> Search:
    return check(["experiment=mlp_digits", "model=choice(mlp,lenet)", "learner.lr=uniform(0.001,1)"])[0]


def record(dir: Path, name: str, state: str, *scores: float, **values: str) -> dict[str, Any]:
    began = time.time() - 30
    ended = None if state == "running" else began + 12
    reason = "it diverged" if state == "failed" else None
    record = {
        "values": values,
        "scores": list(scores),
        "state": state,
        "reason": reason,
        "began": began,
        "ended": ended,
    }
    return {**record, "name": name, "dir": str(dir / name)}


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    (tmp_path / "now").mkdir()
    (tmp_path / "now/metrics.jsonl").write_text("".join(json.dumps({"eval/loss": loss}) + "\n" for loss in (3, 0.25)))
    return [
        record(tmp_path, "worse", "finished", 2.0, model="mlp"),
        record(tmp_path, "lost", "failed", model="lenet"),
        record(tmp_path, "better", "stopped", 1.0, **{"learner.lr": "0.123456"}),
        record(tmp_path, "now", "running", model="mlp"),
    ]


def test_the_table_has_what_runs_then_the_best(search: Search, records: list[dict[str, Any]]) -> None:
    counts, headings, *rows = table(search, records, 9, rows=10)
    assert counts == "3 of 9 trials have ended, 1 running, 1 without a score"
    assert headings.split() == ["trial", "model", "learner.lr", "eval/loss", "age", "state"]
    assert [row.split()[0] for row in rows] == ["now", "better", "worse", "lost"]
    assert rows[0].split() == ["now", "mlp", "0.25", "30", "s", "running"]  # its last evaluation
    assert rows[1].split() == ["better", "0.1235", "1", "12", "s", "stopped"]
    assert rows[3].endswith("failed: it diverged")
    assert len(table(search, records, 9, rows=2)) == 4


def test_on_a_terminal_the_table_is_drawn_over_itself(
    search: Search, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    shown = Watching(search, terminal)
    shown.show(records, 9)
    first = terminal.getvalue()
    assert first.count("\n") == 6
    assert "\x1b" not in first
    shown.show(records, 9)
    assert terminal.getvalue() == first  # not twice a second
    monkeypatch.setattr(watching, "EVERY_S", 0.0)
    shown.show(records[:1], 9)
    assert terminal.getvalue()[len(first) :].startswith("\x1b[6F\x1b[J")
    shown.say("a line")
    shown.close()
    assert terminal.getvalue().endswith("\x1b[3F\x1b[Ja line\n")


def test_elsewhere_each_trial_that_has_ended_has_a_line(search: Search, records: list[dict[str, Any]]) -> None:
    stream = io.StringIO()
    shown = Watching(search, stream)
    for _ in range(2):
        shown.show(records, 9)
    assert [line.split()[:2] for line in stream.getvalue().splitlines()] == [["trial", f"{i}/9"] for i in (1, 2, 3)]
    assert "model=mlp  2  12 s  finished" in stream.getvalue()
    quiet = io.StringIO()
    Watching(search, quiet, quiet=True).show(records, 9)
    assert quiet.getvalue() == ""


def test_a_pickled_copy_shows_nothing(search: Search, records: list[dict[str, Any]], capsys: Any) -> None:
    copy = pickle.loads(pickle.dumps(Watching(search, Terminal())))
    copy.say("a line")
    copy.show(records, 9)
    assert capsys.readouterr() == ("", "")
