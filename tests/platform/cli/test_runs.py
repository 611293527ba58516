"""`trivium runs` and `trivium watch`."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import yaml

from trivium.cli import main
from trivium.run_folder import lock


def made(folder: Path, name: str, *, accuracy: float | None = None, state: str = "finished") -> Path:
    dir = folder / name
    dir.mkdir(parents=True)
    (dir / "config.yaml").write_text(yaml.safe_dump({"name": name, "budget": {"updates": 4}}))
    (dir / "metrics.jsonl").write_text(json.dumps({"step": 10, "updates": 1, "train/loss": 2.0}) + "\n")
    if accuracy is not None:
        result = {"state": state, "metrics": {"test/accuracy": accuracy, "test/loss": 1.0}, "updates": 4}
        (dir / "result.json").write_text(json.dumps(result))
    return dir


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made(tmp_path, "a", accuracy=0.5)
    made(tmp_path, "b", accuracy=0.9)
    made(tmp_path, "c")
    made(tmp_path, "d", accuracy=0.1, state="failed")
    return tmp_path


def names(capsys: pytest.CaptureFixture[str], *typed: str) -> list[str]:
    assert main(["runs", *typed, "--json"]) == 0
    return [row["name"] for row in json.loads(capsys.readouterr().out)]


def test_sorted_and_filtered(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert names(capsys, str(runs), "--sort", "test/accuracy") == ["b", "a", "d", "c"]
    assert names(capsys, str(runs), "--sort", "name", "--reverse") == ["d", "c", "b", "a"]
    assert names(capsys, str(runs), "--state", "killed") == ["c"]
    assert names(capsys, str(runs / "a"), str(runs), "--name", "a", "--sort", "name")[0] == "a"
    assert main(["runs", str(runs), "--sort", "test/accuracy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "age", "progress", "test/accuracy"]
    assert lines[1].split()[1] == "finished"
    assert lines[1].split()[-1] == "0.9"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["{folder}", "--sort", "test/banana"], "no run has such a metric; valid: age, name, state, test/accuracy"),
        (["{folder}/nowhere"], "there is no run folder"),
        (["{folder}", "--state", "tired"], "tired"),
    ],
)
def test_mistakes(runs: Path, typed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", *(part.format(folder=runs) for part in typed)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_is_followed_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dir = made(tmp_path, "a")

    def train() -> None:
        with lock.alone_in(dir):
            ready.set()
            time.sleep(0.3)
            with (dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": 20, "updates": 2, "eval/loss": 0.25, "time/step_ms": 3}) + "\n")
            (dir / "result.json").write_text(json.dumps({"state": "finished", "updates": 4, "metrics": {}}))

    ready = threading.Event()
    thread = threading.Thread(target=train)
    thread.start()
    ready.wait(5)
    assert main(["watch", str(dir)]) == 0
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["10", "train/loss", "2"],
        ["20", "eval/loss", "0.25"],
        ["finished", "100%", "of", "4", "updates"],
    ]
    assert main(["watch", str(dir), "--rows", "1", "--metric", "time/step_ms"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["20", "time/step_ms", "3"]
    assert main(["watch", str(tmp_path / "nowhere")]) == 2
