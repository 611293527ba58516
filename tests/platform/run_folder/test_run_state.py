"""How runs go, as `trivium status` tells it: from their folders, whatever is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trivium import cli
from trivium.run_folder import lock
from trivium.run_folder.state import describe, progress, runs_below


def make(dir: Path, *, end: dict[str, Any] | None = None, rows: str = "") -> Path:
    dir.mkdir(parents=True)
    (dir / "config.yaml").write_text("budget: {updates: 40, epochs: null}\n")
    (dir / "metrics.jsonl").write_text(rows)
    if end is not None:
        (dir / "result.json").write_text(json.dumps(end))
    return dir


ROWS = '{"step": 640, "updates": 10}\n{"step": 1280, "updates": 20}\n{"step": 19'


@pytest.mark.parametrize(
    ("budget", "row", "end", "said"),
    [
        ({"epochs": 4, "updates": 1000}, {"step": 640, "updates": 10, "epochs": 1.0}, {}, "25% of 4 epochs"),
        ({"env_steps": 2e6}, {"step": 500_000}, {}, "25% of 2,000,000 env steps"),
        ({"updates": 10}, {"updates": 5}, {"updates": 7}, "70% of 10 updates"),
        ({"epochs": 2}, {"epochs": 0.5}, {"counters": {"epochs": 1.5}}, "75% of 2 epochs"),
        ({"epochs": 1}, {"epochs": 0.5}, {}, "50% of 1 epoch"),
        ({"minutes": 10}, {"time/elapsed_s": 30.0}, {}, "5% of 10 minutes"),
        ({"minutes": 10}, {"time/elapsed_s": 30.0}, {"elapsed_s": 60}, "10% of 10 minutes"),
        ({"updates": 3}, {"updates": 6}, {}, "100% of 3 updates"),
        ({"updates": 0, "epochs": True, "samples": "3", "other": 5}, {"updates": 6, "epochs": 1, "step": 3}, {}, None),
        ({"updates": 10**400}, {"updates": 6}, {}, None),
        ({"updates": 3}, {"updates": [1]}, {"counters": 5, "elapsed_s": "x"}, None),
        ([], {}, {}, None),
    ],
)
def test_progress_is_of_what_is_nearest_to_spent(
    budget: Any, row: dict[str, Any], end: dict[str, Any], said: str | None
) -> None:
    assert progress(budget, row, end) == said


def test_runs_are_found_where_they_are(tmp_path: Path) -> None:
    first, second = make(tmp_path / "runs/b/1"), make(tmp_path / "runs/a/b/2")
    make(first / "checkpoints")  # in a run there is none
    make(tmp_path / "runs/.hidden/3")
    (tmp_path / "runs/link").symlink_to(tmp_path / "runs")
    (tmp_path / "runs/empty").mkdir()
    assert runs_below(tmp_path / "runs") == [second, first]
    assert runs_below(first) == [first]
    assert runs_below(tmp_path / "runs/empty") == runs_below(tmp_path / "nowhere") == []


def test_a_run_is_described_by_its_last_row_and_its_end(tmp_path: Path) -> None:
    failed = {"state": "failed", "error": "ValueError: x", "place": "a.py:3 in f", "updates": 23, "step": 1472}
    found = describe(make(tmp_path / "failed", end=failed, rows=ROWS))
    assert found == {
        "dir": str(tmp_path / "failed"),
        "state": "failed",
        "updates": 23,
        "step": 1472,
        "progress": "57% of 40 updates",
        "checkpoint": None,
        "error": "ValueError: x",
        "place": "a.py:3 in f",
    }
    killed = describe(make(tmp_path / "killed", rows=ROWS))
    assert (killed["state"], killed["updates"], killed["step"], killed["error"]) == ("killed", 20, 1280, None)
    assert describe(make(tmp_path / "young"))["progress"] is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "result.json"])
def test_what_is_no_file_hangs_nothing(tmp_path: Path, name: str) -> None:
    run = make(tmp_path / "run", end={}, rows=ROWS)
    (run / name).unlink()
    os.mkfifo(run / name)
    assert describe(run)["state"] == "killed"


def test_status_tells_programs_and_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(Path("runs/x/1"), end={"state": "failed", "error": "ValueError: \x1b[31m\nmore"}, rows=ROWS)
    make(Path("runs/x/2"), end={"state": "stopped"}, rows=ROWS)
    make(Path("runs/y/3"), rows=ROWS)
    make(Path("runs/y/4"), rows=ROWS)
    with lock.alone_in(Path("runs/y/3")):
        assert cli.main(["status"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "runs/x/1  failed  50% of 40 updates  ValueError: \\x1b[31m",
            "runs/x/2  stopped  50% of 40 updates",
            "runs/y/3  running  50% of 40 updates",
            "runs/y/4  killed  50% of 40 updates",
        ]
        assert cli.main(["status", "runs/y", "--json"]) == 0
        assert [run["state"] for run in json.loads(capsys.readouterr().out)] == ["running", "killed"]
    assert cli.main(["status", "nowhere"]) == 2
    assert capsys.readouterr().err == "trivium: error: status: nowhere: there is no run folder\n"
