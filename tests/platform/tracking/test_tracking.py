"""metrics.jsonl, the pictures, W&B's offline files (read back) and TensorBoard's."""

from __future__ import annotations

import http.server
import io
import json
import logging
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from PIL import Image

import trivium
from trivium.tracking import wandb_process
from trivium.tracking.tracker import RunTracker, TensorBoard, read_rows, save_picture
from trivium.tracking.wandb_identity import identity
from trivium.tracking.wandb_process import choose_mode, history, logged_in, records, wandb_files
from trivium.tracking.wandb_sink import WandbSink


def row(step: int, **metrics: float) -> dict[str, Any]:
    return {"step": step, "updates": step // 10, **(metrics or {"train/loss": 1.0 / step})}


# ----------------------------------------------------------------------------------------------- metrics.jsonl


def test_a_full_disk_ends_the_run_and_names_the_file(tmp_path: Path) -> None:
    """Full, because no file of this process may be longer; the row that did not fit is no row of the resumed run."""
    tracker = RunTracker(tmp_path)
    tracker.log(row(10))
    state, limits = tracker.state_dict(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (tracker.path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match=r"the run stops here; trivium resume continues .*metrics\.jsonl"):
            tracker.log(row(20))
        tracker.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resumed = RunTracker(tmp_path)
    resumed.load_state_dict(state)
    resumed.log(row(20))
    resumed.finish()
    assert [r["step"] for r in read_rows(tracker.path)] == [10, 20]


def test_rows_are_there_at_once_and_are_cut_back_on_resume(tmp_path: Path) -> None:
    tracker = RunTracker(tmp_path)
    tracker.log(row(10))
    state = tracker.state_dict()
    tracker.log(row(20))
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [10, 20]
    tracker.finish()

    resumed = RunTracker(tmp_path)
    resumed.load_state_dict(state)
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [10]
    resumed.log(row(30))
    resumed.finish()
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [10, 30]


def test_a_row_is_strict_json_whatever_the_value(tmp_path: Path) -> None:
    tracker = RunTracker(tmp_path)
    tracker.log({"step": 1, "updates": 1, "eval/a": float("inf"), "eval/b": float("nan"), "eval/c": 0.1 + 0.2})
    tracker.finish()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    read = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read == {"step": 1, "updates": 1, "eval/a": None, "eval/c": 0.1 + 0.2}


def test_a_torn_last_line_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2, "tr')
    assert read_rows(tmp_path / "m.jsonl") == [{"step": 1}]
    assert read_rows(tmp_path / "none.jsonl") == []


def test_pictures_and_videos(tmp_path: Path) -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    path = save_picture(tmp_path / "figures" / "a", picture)
    assert path.name == "a.png"
    assert np.array_equal(np.asarray(Image.open(path)), picture)
    video = np.stack([np.full((8, 8, 3), 60 * i, np.uint8) for i in range(4)])
    path = save_picture(tmp_path / "figures" / "v", video)
    with Image.open(path) as gif:
        assert (path.name, gif.n_frames, gif.size) == ("v.gif", 4, (8, 8))


def test_tensorboard_holds_each_row_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoard(tmp_path, resumed_step=None)
    for step in (10, 20, 30):
        first.log(row(step))
    first.figures(30, {"a": save_picture(tmp_path / "a", np.zeros((4, 4, 3), np.uint8))})
    first.finish(failed=False)
    time.sleep(1.1)  # event files are named by the second
    second = TensorBoard(tmp_path, resumed_step=20)
    for step in (30, 40):
        second.log(row(step))
    second.finish(failed=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("train/loss")] == [
        (step, round(1 / step, 6)) for step in (10, 20, 30, 40)
    ]


def test_tensorboard_keeps_names_and_folders_as_they_are(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    dir = tmp_path / "s3:[1]*?#"
    dir.mkdir()
    board = TensorBoard(dir, resumed_step=None)
    names = ["eval/a b", "eval/a_b", "eval/a[0]?", "/eval/ä"]
    board.log({"step": 1, "updates": 1, **{name: float(i) for i, name in enumerate(names)}})
    board.finish(failed=False)
    events = EventAccumulator(str(dir / "tensorboard"))
    events.Reload()
    assert {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]} == {
        name: i for i, name in enumerate(names)
    }


def test_tensorboard_holds_pictures_and_videos_that_move(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path, resumed_step=None)
    pictures = {"a": np.zeros((4, 6, 3), np.uint8), "v": np.arange(144, dtype=np.uint8).reshape(3, 4, 4, 3)}
    board.figures(30, {name: save_picture(tmp_path / name, picture) for name, picture in pictures.items()})
    board.finish(failed=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name, size, frames in (("a", (6, 4), 1), ("v", (4, 4), 3)):
        (event,) = events.Images(name)
        assert (event.step, event.width, event.height) == (30, *size)
        with Image.open(io.BytesIO(event.encoded_image_string)) as image:
            assert (image.size, getattr(image, "n_frames", 1)) == (size, frames)


# ----------------------------------------------------------------------------------------------- W&B


def sink(dir: Path, **config: Any) -> WandbSink:
    return WandbSink(dir, run_id="run1", name="test/run1", project="trivium", config=config)


def all_rows(dir: Path) -> list[dict[str, Any]]:
    return [r for file in wandb_files(dir, "run1") for r in history(file)]


def test_what_is_logged_stands_in_the_offline_file(tmp_path: Path) -> None:
    tracker = RunTracker(tmp_path, open_sinks=lambda: [sink(tmp_path, agent={"lr": 0.1}, environment={"cores": 2})])
    tracker.log(row(10, **{"train/loss": 0.5, "time/step_ms": 3.0}))
    tracker.figures(20, {"samples": np.zeros((4, 4, 3), np.uint8), "play": np.zeros((3, 4, 4, 3), np.uint8)})
    tracker.log(row(20, **{"train/loss": 0.25, "eval/accuracy": 0.9}))
    tracker.log({"step": 20, "updates": 2, "test/accuracy": 0.8})
    tracker.figures(20, {"confusion": np.zeros((4, 4, 3), np.uint8)})
    tracker.finish()

    (file,) = wandb_files(tmp_path, "run1")
    rows = [{k: v for k, v in r.items() if k[0] != "_" or k == "_step"} for r in history(file)]
    assert rows[0] == {"_step": 10, "updates": 1, "train/loss": 0.5, "time/step_ms": 3.0}
    assert rows[1]["eval/accuracy"] == 0.9
    assert rows[1]["figures/samples"]["_type"] == "image-file"
    assert rows[1]["figures/play"]["_type"] == "video-file"
    assert (file.parent / "files" / rows[1]["figures/play"]["path"]).stat().st_size > 0
    assert rows[2]["figures/confusion"]["_type"] == "image-file"
    assert [r["_step"] for r in rows] == [10, 20, 21]
    kinds = [record.WhichOneof("record_type") for record in records(file)]
    assert kinds[-1] in ("exit", "final") or "exit" in kinds
    run = next(record.run for record in records(file) if record.WhichOneof("record_type") == "run")
    assert (run.run_id, run.project, run.display_name) == ("run1", "trivium", "test/run1")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["agent"] == {"lr": 0.1}
    assert config["environment"] == {"cores": 2}
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records(file)
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert summary["test/accuracy"] == 0.8


@pytest.mark.kill
def test_what_a_run_is_described_by_and_its_model_stand_in_the_offline_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    typed = ["experiment=mlp_digits", "budget.epochs=null", "budget.updates=2", "tracking.group=mine"]
    typed += ["tracking.tags=[a,b]", "tracking.job_type=try", "tracking.notes=a note", "tracking.entity=team"]
    dir = trivium.train(*typed, "tracking.artifacts=true", "threads=1", dir=tmp_path / "run", quiet=True).dir
    (file,) = wandb_files(dir, json.loads((dir / "wandb/run.json").read_text())["id"])
    found = {record.WhichOneof("record_type"): record for record in records(file)}
    run, artifact = found["run"].run, found["artifact"].artifact
    assert (run.run_group, run.job_type, run.notes, run.entity) == ("mine", "try", "a note", "team")
    assert sorted(run.tags) == ["a", "b"]
    assert (artifact.type, sorted(artifact.aliases)) == ("model", ["best", "latest"])
    said = json.loads(artifact.metadata)
    assert (said["name"], said["checkpoint"], said["parent"]) == ("mlp_digits", "step-000000000128", None)
    # The files themselves are not copied.
    assert {Path(entry.local_path).parent for entry in artifact.manifest.contents} == {
        dir / "checkpoints" / said["checkpoint"]
    }


def test_a_resumed_run_is_the_same_run_without_duplicated_or_missing_steps(tmp_path: Path) -> None:
    first = RunTracker(tmp_path, open_sinks=lambda: [sink(tmp_path)])
    first.log(row(10))
    state = first.state_dict()
    first.log(row(20))
    first.finish(failed=True)
    with open(tmp_path / "metrics.jsonl", "a") as file:  # W&B had not got this one when the run was killed ...
        file.write(json.dumps(row(30)) + "\n")
    later = {"metrics_bytes": (tmp_path / "metrics.jsonl").stat().st_size}

    second = RunTracker(tmp_path, open_sinks=lambda: [sink(tmp_path)])
    second.load_state_dict(later)  # ... and the checkpoint stands behind it
    second.log(row(40))
    second.finish(failed=True)
    third = RunTracker(tmp_path, open_sinks=lambda: [sink(tmp_path)])
    third.load_state_dict(state)  # all but the first are made again
    for step in (20, 30, 40, 50):
        third.log(row(step))
    third.finish()
    assert len(wandb_files(tmp_path, "run1")) == 3
    assert [r["_step"] for r in all_rows(tmp_path)] == [10, 20, 30, 40, 50]


HARD_NAME = "12:30 a[b]*c? #1; it's, 50% \\ ünï\ncode"


def test_a_run_folder_of_any_name_is_tracked_once_over_a_resume(tmp_path: Path) -> None:
    dir = tmp_path / HARD_NAME
    dir.mkdir()

    def opened() -> WandbSink:
        known = identity(dir, name=f"mlp/{dir.name}")
        return WandbSink(dir, run_id=known.id, name=known.name, project="trivium", config={"dir": str(dir)})

    pictures = {"a/b [1]": np.zeros((4, 4, 3), np.uint8), "play?*": np.zeros((3, 4, 4, 3), np.uint8)}
    for step in (10, 20):  # the second time resumed
        tracker = RunTracker(dir, open_sinks=lambda: [opened()])
        tracker.load_state_dict({"metrics_bytes": tracker.path.stat().st_size if step > 10 else 0})
        tracker.figures(step, pictures)
        tracker.log(row(step))
        tracker.finish()
    run_id = identity(dir, name="another").id
    rows = [r for file in wandb_files(dir, run_id) for r in history(file)]
    assert [r["_step"] for r in rows] == [10, 20]
    assert set(rows[0]) > {f"figures/{name}" for name in pictures}
    assert not list((dir / "wandb").glob(".figures-*")), "no copy of a picture is left"
    started = next(r.run for r in records(wandb_files(dir, run_id)[0]) if r.WhichOneof("record_type") == "run")
    assert started.display_name == f"mlp/{HARD_NAME}"


def test_copies_of_pictures_do_not_outlive_a_w_and_b_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "wandb.py").write_text("raise RuntimeError('no service')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    (tmp_path / "wandb" / ".figures-killed").mkdir(parents=True)
    (tmp_path / "wandb" / ".figures-killed" / "1.png").touch()
    tracker = RunTracker(tmp_path, open_sinks=lambda: [sink(tmp_path)])
    tracker.figures(10, {"a": np.zeros((4, 4, 3), np.uint8)})
    tracker.finish()
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == [".lock"]


def test_the_users_variables_for_wandb_count_or_are_said_to_have_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What would be refused (a project with a slash, a console that is none) ends no tracking."""
    for variable, value in {
        "WANDB_ENTITY": "team",
        "WANDB_RUN_GROUP": "group",
        "WANDB_JOB_TYPE": "job",
        "WANDB_TAGS": "a,b",
        "WANDB_NOTES": "why",
        "WANDB_PROJECT": "no/project",
        "WANDB_RUN_ID": "x:y",
        "WANDB_NAME": "another",
        "WANDB_DIR": str(tmp_path / "elsewhere"),
        "WANDB_CONSOLE": "bogus",
    }.items():
        monkeypatch.setenv(variable, value)
    tracked = sink(tmp_path)
    tracked.log(row(1))
    tracked.finish(failed=False)
    (file,) = wandb_files(tmp_path, "run1")
    run = next(record.run for record in records(file) if record.WhichOneof("record_type") == "run")
    assert (run.entity, run.run_group, run.job_type, list(run.tags)) == ("team", "group", "job", ["a", "b"])
    assert (run.run_id, run.display_name, run.project, run.notes) == ("run1", "test/run1", "trivium", "why")
    assert [line.partition(":")[0] for line in caplog.messages] == ["WANDB_CONSOLE=bogus is ignored"]


KILLED = """
import os, signal, time
from pathlib import Path
from trivium.tracking.tracker import RunTracker
from trivium.tracking.wandb_sink import WandbSink
dir = Path({dir!r})
tracker = RunTracker(dir, open_sinks=lambda: [WandbSink(dir, run_id="run1", name="r", project="p", config={{}})])
tracker.log({{"step": 1, "train/loss": 1.0}})
while not list(dir.glob("wandb/*/run-run1.wandb")):
    time.sleep(0.05)
for step in range(2, 6):
    tracker.log({{"step": step, "train/loss": 1.0}})
time.sleep({wait_s})
os.{kill}
"""


@pytest.mark.parametrize(
    ("wait_s", "kill"),
    [
        (0.1, "kill(os.getpid(), signal.SIGKILL)"),
        (2.0, "kill(tracker._sinks[0]._process.pid, signal.SIGKILL) or os.kill(os.getpid(), signal.SIGKILL)"),
    ],
    ids=["the training process alone", "W&B's process too"],
)
def test_a_kill_loses_no_row_older_than_two_seconds(tmp_path: Path, wait_s: float, kill: str) -> None:
    code = KILLED.format(dir=str(tmp_path), wait_s=wait_s, kill=kill)
    assert forked.run(code, folder=tmp_path / "out").returncode == -signal.SIGKILL
    again = sink(tmp_path)  # waits for the process of the run that was killed, and has nothing to add
    again.finish(failed=False)
    assert [r["_step"] for r in all_rows(tmp_path)] == [1, 2, 3, 4, 5]
    first = wandb_files(tmp_path, "run1")[0]
    assert [r["_step"] for r in history(first)] == [1, 2, 3, 4, 5]


def test_logging_costs_a_step_nothing_to_speak_of(tmp_path: Path) -> None:
    """Not a benchmark, which is in benchmarks/: only that a row is handed over, not written, by the caller. In time of
    the calling thread's own, which does not grow with what else the machine does."""
    tracked = sink(tmp_path)
    began = time.thread_time()
    for step in range(1, 1001):
        tracked.log(row(step))
    handed_over = time.thread_time() - began
    tracked.finish(failed=False)
    assert handed_over < 0.5
    assert len(all_rows(tmp_path)) == 1000


class TestMode:
    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def test_what_the_user_asks_for_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for mode in ("offline", "disabled"):
            monkeypatch.setenv("WANDB_MODE", mode)
            assert choose_mode() == mode

    def test_not_logged_in_is_offline(self) -> None:
        assert not logged_in()
        assert choose_mode() == "offline"

    @pytest.mark.parametrize("listening", [False, True], ids=["refuses connections", "takes them and says nothing"])
    def test_a_server_that_does_not_answer_is_offline_within_seconds(
        self, listening: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wandb_process, "ANSWER_S", 0.5)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            if listening:
                server.listen()
            monkeypatch.setattr(wandb_process, "_base_url", lambda: f"http://127.0.0.1:{server.getsockname()[1]}")
            began = time.monotonic()
            assert choose_mode() == "offline"
            assert time.monotonic() - began < 2

    def test_logged_in_and_reachable_is_online(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A server that answers, if only that it knows no such page."""
        with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
            threading.Thread(target=server.handle_request, daemon=True).start()
            monkeypatch.setattr(wandb_process, "_base_url", lambda: f"http://127.0.0.1:{server.server_port}")
            (tmp_path / "netrc").write_text(f"machine 127.0.0.1:{server.server_port} login user password key\n")
            assert logged_in()
            assert choose_mode() == "online"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WANDB_MODE", "bogus", "WANDB_MODE=bogus is none of online, offline, disabled"),
        ("WANDB_BASE_URL", "nowhere", "WANDB_BASE_URL=nowhere is no address; writing offline files"),
    ],
)
def test_what_wandb_refuses_of_the_environment_is_told_and_the_run_is_tracked(
    name: str, value: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv(name, value)
    tracked = sink(tmp_path)
    tracked.log(row(1))
    tracked.finish(failed=False)
    assert told in caplog.text
    assert [r["_step"] for r in all_rows(tmp_path)] == [1]


def test_a_server_that_answers_but_opens_no_run_ends_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    wandb.teardown()  # it keeps the settings of an earlier test
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setattr(wandb_process, "_answers", lambda url: True)
        monkeypatch.setattr(wandb_process, "INIT_S", 2.0)
        messages = [{"dir": str(tmp_path), "id": "run1", "name": "r", "project": "p", "config": {}}]
        messages += [{"row": row(1)}, {"row": row(2)}, {"finish": 0}]
        wandb_process.main(map(json.dumps, messages))
        wandb.teardown()
    assert "W&B can't be reached (" in caplog.text
    assert [r["_step"] for r in all_rows(tmp_path) if "train/loss" in r][-2:] == [1, 2]


def test_when_wandb_fails_the_run_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process has no wandb to import: an empty module stands before it on the path."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "wandb.py").write_text("raise RuntimeError('no service')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    tracker = RunTracker(tmp_path, open_sinks=lambda: [sink(tmp_path)])
    for step in (10, 20):
        tracker.log(row(step))
    tracker.finish()
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [10, 20]
    assert "W&B tracking stopped (RuntimeError: no service)" in caplog.text


def test_a_wandb_process_that_dies_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracked = sink(tmp_path)
    tracked._process.kill()
    tracked._process.wait()
    with caplog.at_level(logging.WARNING):
        tracked.log(row(10))
        tracked.finish(failed=False)
    assert "W&B's process has gone" in caplog.text
