"""Run folders and buckets of strangers: nothing runs, nothing outside is written or deleted, no command hangs."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from special_files import special

import trivium
from trivium import cli, launch
from trivium.boundary import untrusted
from trivium.boundary.untrusted import Refused
from trivium.checkpoints.folder import Checkpoints
from trivium.checkpoints.storage import Bucket
from trivium.cli.errors import one_line_handler
from trivium.config.composing import apply_overrides, read
from trivium.config.errors import ConfigError
from trivium.learner import Run
from trivium.report.record import repeat_command
from trivium.report.writing import write_report
from trivium.run_folder.folder import read_result
from trivium.run_folder.place import open_run
from trivium.run_folder.task import Task
from trivium.tracking.tracker import Tracker, read_rows
from trivium.training import tracked, worker
from trivium.training.loop import Loop

LAST, BEFORE = "step-000000000256", "step-000000000128"
SHORT = ["tracking.wandb=false", "threads=1", "budget.epochs=null", "checkpoint.every_updates=2", "budget.updates=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    trivium.train(*SHORT, dir=folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run with two checkpoints that has not finished; the working directory is beside it."""
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a YAML or JSON file."""
    content = yaml.safe_load(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.removeprefix("trivium: error: ") for line in capsys.readouterr().err.splitlines()]


# ------------------------------------------------------------------------------------------- storage


def test_a_storage_that_the_user_did_not_type_is_not_written(run: Path, tmp_path: Path) -> None:
    """Nor are the checkpoints tidied that another run has there."""
    home = tmp_path / "home"
    theirs = home / "lib" / "run" / "checkpoints" / "step-000000000001"
    theirs.mkdir(parents=True)
    (theirs / "manifest.json").write_text("{}")
    edit(run / "config.yaml", storage=f"file://{home}", name="lib")
    (run / "planted.py").write_text("")
    trivium.resume(run)
    assert list(home.rglob("*.json")) == [theirs / "manifest.json"]
    assert not list(home.rglob("planted.py"))
    trivium.resume(run, "budget.updates=6")
    trivium.evaluate(run)
    assert list(home.rglob("*.json")) == [theirs / "manifest.json"]


def test_a_run_in_a_bucket_is_kept_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trivium.train(*SHORT, f"storage=file://{tmp_path}/first", dir=tmp_path / "run")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    url = f"file://{tmp_path}/second/mlp_digits/run"
    assert trivium.resume(url, "budget.updates=6").updates == 6
    assert not (tmp_path / "first").exists()
    assert json.loads((tmp_path / "second" / "mlp_digits" / "run" / "result.json").read_text())["updates"] == 6
    assert trivium.resume(url, "budget.updates=8").learner.counters()["samples"] == 8 * 64


def test_a_copy_without_its_checkpoints_says_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trivium.train(*SHORT, f"storage=file://{tmp_path}/bucket", dir=tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    for command in ("resume", "evaluate"):
        assert cli.main([command, str(tmp_path / "run")]) == 2
        assert errors(capsys)[-1].endswith(f"without its checkpoints; open file://{tmp_path}/bucket/mlp_digits/run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_opening_a_bucket_replaces_no_other_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`runs/<name>/<id>` is a run of the user's own, and a bucket's has the same name."""
    mine = tmp_path / "runs" / "mlp_digits" / "x"
    shutil.copytree(run, mine, symlinks=True)
    shutil.copytree(run, tmp_path / "bucket" / "mlp_digits" / "x", symlinks=True)
    (mine / "metrics.jsonl").write_text("mine")
    url = f"file://{tmp_path}/bucket/mlp_digits/x"
    assert cli.main(["resume", url, "--quiet"]) == 2
    assert f"{mine} is not a copy of {url}" in errors(capsys)[0]
    assert (mine / "metrics.jsonl").read_text() == "mine"
    shutil.rmtree(tmp_path / "runs")
    assert cli.main(["resume", url, "--quiet"]) == 0
    assert cli.main(["evaluate", url]) == 0, "the second time it is its own copy"


KEYS = ["../escaped", "figures/../../escaped", "/escaped", "..", "a//b", "figures/a\nb"]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_leads_out_of_the_folder_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    bucket = Bucket(f"file://{tmp_path}/bucket")
    monkeypatch.setattr(bucket, "_files", lambda: [("config.yaml", 1), (key, 1)])
    monkeypatch.setattr(bucket, "_open", lambda path: io.BytesIO(b"x"))
    with pytest.raises(Refused, match="leads out"):
        bucket.pull(tmp_path / "inner" / "run", anew=True)
    assert list(tmp_path.rglob("*")) == []


def test_a_bucket_is_read_as_it_is_and_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named `.gz` is not unpacked, which may take any size; hidden files are not a run's own."""
    import gzip

    there = tmp_path / "there"
    (there / ".git").mkdir(parents=True)
    (there / ".git" / "config").write_text("[core]")
    (there / "rows.gz").write_bytes(gzip.compress(b"0" * 1000))
    bucket = Bucket(f"file://{there}")
    bucket.pull(tmp_path / "here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["rows.gz"]
    assert (tmp_path / "here" / "rows.gz").read_bytes() == (there / "rows.gz").read_bytes()
    with open(there / "huge", "wb") as file:
        file.truncate(10**13)
    with pytest.raises(Refused, match="huge has 10,000,000,000,000 bytes"):
        bucket.pull(tmp_path / "here")


def test_links_in_a_bucket_that_is_a_folder_lead_nowhere(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "precious").write_text("mine")
    (run / "report.html").unlink()
    (run / "report.html").symlink_to("../precious")
    (run / "one").symlink_to(".")
    (run / "two").symlink_to(".")
    assert cli.main(["resume", f"file://{run.parent}/run", "--quiet"]) == 2
    assert "is a link out of the run folder" in errors(capsys)[0]
    assert (run.parent / "precious").read_text() == "mine"
    began = time.monotonic()
    Bucket(f"file://{run}").pull(run.parent / "here")  # Arrow would follow the two circles for ever
    assert time.monotonic() - began < 2


# ------------------------------------------------------------------------------------------- imports


COMMANDS = [
    "trivium train experiment=ppo_cartpole env.id=planted:X-v0",
    "trivium train experiment=ppo_cartpole env=gymnasium 'env.id=planted:X-v0'",
    "trivium train model._target_=planted.Net",
    "trivium train +model.activation._target_=planted.Net",
    "trivium train learner.optimizer._target_=planted.Net",
    "trivium train experiment=../../run/planted",
    "trivium train 'name=${oc.env:HOME}'",
    "trivium train --config-dir .",
    "trivium train " + "[" * 5_000,
]


@pytest.fixture
def planted(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that says when it is imported, where Python would find it."""
    (run.parent / "planted.py").write_text(f"open({str(run.parent / 'ran')!r}, 'w')\nNet = dict\n")
    monkeypatch.syspath_prepend(str(run.parent))
    yield run.parent / "ran"  # type: ignore[misc]
    sys.modules.pop("planted", None)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_recorded_command_imports_nothing(run: Path, planted: Path, command: str) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    repeat_command(config, command)
    assert not planted.exists()
    assert "planted" not in sys.modules


def test_a_resumed_run_imports_nothing_for_its_report(run: Path, planted: Path) -> None:
    edit(run / "environment.json", command=COMMANDS[0])
    trivium.resume(run)
    assert "planted:X-v0" in (run / "report.html").read_text()
    assert not planted.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "ppo_cartpole", "env": {"_target_": "trivium.agents.envs.environment.make", "id": "planted:X-v0"}},
        {"model": {"_target_": "planted.Net"}},
        {"name": "${planted:x}"},
    ],
)
def test_a_config_imports_nothing_for_its_report(run: Path, planted: Path, changes: dict[str, Any]) -> None:
    repeat_command({**yaml.safe_load((run / "config.yaml").read_text()), **changes})
    assert not planted.exists()


def test_what_a_config_refers_to_is_not_looked_up(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may have registered a resolver of its own, `eval` for example."""
    from omegaconf import OmegaConf

    asked: list[str] = []
    OmegaConf.register_new_resolver("planted", lambda text: asked.append(text), replace=True)
    edit(run / "config.yaml", extra={"a": "${planted:b}"})
    apply_overrides(read(run), ["budget.updates=9"])
    repeat_command(read(run), "trivium train 'tracking.project=${planted:c}'")
    OmegaConf.clear_resolver("planted")
    assert asked == []


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "loop", "folder"])
@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "metrics.jsonl",
        "environment.json",
        "result.json",
        ".lock",
        "checkpoints/step-000000000256/rank-0.pt",
    ],
)
def test_what_is_no_file_is_one_line_and_hangs_nothing(
    run: Path, loop: Loop, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    (run / name).unlink(missing_ok=True)
    special(run / name, kind)
    if kind == "folder" and "checkpoints" in name:
        assert loaded(run, loop) == BEFORE
        return
    began = time.process_time()
    assert cli.main(["resume", str(run), "--quiet"]) == 2
    said = errors(capsys)
    assert len(said) == 1, said
    assert name in said[0]
    assert time.process_time() - began < 1


HUGE = "a: " + "x" * untrusted.MAX_CONFIG_BYTES
CONFIGS: dict[str, Callable[[str], str]] = {
    "aliases": lambda text: text.replace("log:", "a: &a [1]\nb: *a\nlog:"),
    "a bomb": lambda text: "a: &a [x]\n" + "".join(f"a{n}: &a{n} [{'*a,' * 9}]\n" for n in range(9)) + text,
    "huge": lambda text: text + HUGE,
    "deep": lambda text: text + "more: " + "[" * 3000 + "]" * 3000,
    "empty": lambda text: "",
    "null": lambda text: "null",
    "a list": lambda text: "[]",
    "a date": lambda text: text + "more: 2020-01-01\n",
    "a null budget": lambda text: text.replace("\nbudget:\n", "\nbudget: null\nother:\n"),
    "nothing tied": lambda text: text.replace("\ntied_to_budget:\n", "\ntied_to_budget: null\nother:\n"),
    "a nul": lambda text: text + "\0",
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_of_another_shape_is_one_line(run: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    path = run / "config.yaml"
    path.write_text(CONFIGS[what](path.read_text()))
    for command in ("resume", "evaluate", "show"):
        assert cli.main([command, str(run)]) == 2
        said = errors(capsys)
        assert 1 <= len(said) <= 2, said
        assert "config.yaml" in said[0]


@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
def test_data_of_a_stranger_are_files(run: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    special(run.parent / "pipe", "pipe")
    edit(run / "config.yaml", data={"_target_": "trivium.data.mnist.mnist", "path": place})
    assert cli.main(["resume", str(run)]) == 2
    assert errors(capsys) == [f"data.path={place}: must be a file or folder ({run}/config.yaml)"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": {}},
        {"device": {}},
        {"budget": {"updates": {}}},
        {"budget": {"epochs": {"_target_": "torch.nn.Linear"}}},
        {"log": {"every_s": {1: 2}}},
        {"learner": {"decay_epochs": 1e308}},
        {"learner": {"optimizer": 3}},
        {"model": {"hidden": [10**12]}},
        {"model": "x"},
    ],
    ids=json.dumps,
)
def test_a_value_of_another_type_or_size_is_told_of_its_key(run: Path, wrong: dict[str, Any]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    ((key, value),) = wrong.items()
    edit(
        run / "config.yaml",
        **{key: {**config[key], **value} if isinstance(config[key], dict) and value != "x" else value},
    )
    with pytest.raises(ConfigError) as error:
        worker.make_learner(Task(open_run(run).config, run, ()), Run())
    assert all(line.startswith(key) for line in error.value.errors), error.value.errors
    assert len(error.value.errors) == 1


def test_control_characters_of_a_stranger_reach_no_terminal(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.loads((trained / "result.json").read_text())
    for bad in ({"reason": "\x1b[2J"}, {"name": "a\nb"}, {"metrics": {"test/\x1b[2J": 1.0}}):
        (run / "result.json").write_text(json.dumps({**good, **bad}))
        assert read_result(run) is None
    edit(run / "config.yaml", seed="\x1b[2J\nfine")
    assert cli.main(["resume", str(run)]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert len(said.splitlines()) == 1


def test_warnings_are_masked_and_a_line_each() -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": ("s3://k:secret@b \x1b[2J\nmore",)})
    assert one_line_handler().format(record) == r"trivium: s3://***@b \x1b[2J\nmore"


RESULTS = {
    "null": None,
    "a list": [],
    "text": "x",
    "no keys": {},
    "text for a number": {"updates": "x"},
    "a negative number": {"updates": -1},
    "a negative time": {"elapsed_s": -1.0},
    "metrics of text": {"metrics": {"test/a": "x"}},
    "no counters": {"counters": {}},
    "negative counters": {"counters": {"samples": -5}},
    "a checkpoint elsewhere": {"checkpoint": "../../x"},
}


@pytest.mark.parametrize("what", RESULTS)
def test_a_result_of_another_shape_is_no_result(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    good = json.loads((trained / "result.json").read_text())
    bad = RESULTS[what]
    (tmp_path / "result.json").write_text(json.dumps({**good, **bad} if isinstance(bad, dict) and bad else bad))
    assert read_result(tmp_path) is None
    (message,) = [record.getMessage() for record in caplog.records]
    assert "result.json" in message
    assert message.endswith("the run counts as unfinished")
    (tmp_path / "result.json").write_text(json.dumps(good))
    read = read_result(tmp_path)
    assert read is not None
    assert {**read.as_json(), "dir": good["dir"]} == good


def test_a_run_whose_result_is_none_measures_again(trained: Path, run: Path) -> None:
    (run / "result.json").write_text("[]")
    assert trivium.resume(run).updates == 4
    before, after = (json.loads((folder / "result.json").read_text()) for folder in (trained, run))
    assert {**after["metrics"], **before["metrics"]} == before["metrics"]


ROWS = {
    "a list": "[1]",
    "lists in lists": "[" * 900 + "]" * 900,
    "lists in a row": '{"step": 2, "a/b": [[1]]}',
    "a number of thousands of digits": '{"step": ' + "9" * 5000 + "}",
    "half": '{"step": 2',
    "bytes": "\udcff",
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_end_before_what_is_none(tmp_path: Path, what: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "a/b": null}\n' + ROWS[what].encode(errors="surrogateescape") + b'\n{"step": 3}\n')
    assert read_rows(path) == [{"step": 1, "a/b": None}]


def test_a_report_takes_a_bounded_part_of_what_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivium.report.writing.MAX_METRICS", 5)
    monkeypatch.setattr("trivium.report.writing.MAX_FIGURES_BYTES", 5000)
    names = {f"eval/many-{i}": 1.0 for i in range(5000)}
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, **names}))
    picture = next((run / "figures").glob("*.png")).read_bytes()
    for i in range(50):
        (run / "figures" / f"{i}.png").write_bytes(picture)
    text = write_report(run).read_text()
    assert text.count("<svg") == 5
    assert text.count("<img") == max(1, 5000 // len(picture)) if len(picture) <= 5000 else text.count("<img") == 0
    assert text.count("Not shown") >= 40


# ------------------------------------------------------------------------------------------- checkpoints


def tamper(run: Path, change: Callable[[dict[str, Any]], Any], name: str = LAST) -> None:
    """Change the state in a checkpoint, and its checksum with it."""
    folder = run / "checkpoints" / name
    state = torch.load(folder / "rank-0.pt", weights_only=True)
    changed = change(state)
    torch.save(state if changed is None else changed, folder / "rank-0.pt")
    content = (folder / "rank-0.pt").read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder / "manifest.json", files={"rank-0.pt": entry})


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one key in a nested dict; a function of what is there, if the value is one."""

    def change(state: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node: Any = state
        for key in parents:
            node = node[key if key in node else int(key)]
        key = last if last in node else int(last)
        node[key] = value(node[key]) if callable(value) else value

    return change


def without(path: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node: Any = state
        for key in parents:
            node = node[key]
        del node[last]

    return change


def shorter(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()[:-1].clone()


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda state: [1],
    "a number": lambda state: 3,
    "a tensor": lambda state: torch.zeros(3),
    "nothing": lambda state: {},
    "no learner": without("learner"),
    "a learner that is null": setting("learner", None),
    "no model": without("learner.model"),
    "no optimizer": without("learner.optimizer"),
    "no position": without("learner.batches"),
    "a negative position": setting("learner.batches.samples", -64),
    "a position that is a text": setting("learner.batches.samples", "x"),
    "a list of weights": setting("learner.model", []),
    "a weight of another shape": lambda state: state["learner"]["model"].update(
        {name: shorter(value) for name, value in state["learner"]["model"].items()}
    ),
    "a weight that is none": lambda state: state["learner"]["model"].update(
        dict.fromkeys(state["learner"]["model"], "x")
    ),
    "moments of another shape": setting("learner.optimizer.state.0.exp_avg", shorter),
    "moments that broadcast": setting("learner.optimizer.state.0.exp_avg", torch.zeros(1)),
    "moments that are missing": without("learner.optimizer.state"),
    "a rate that is a text": setting("learner.optimizer.param_groups.0.eps", "x"),
    "no generators": setting("rng", {}),
    "a generator of another size": setting("rng.torch", shorter),
    "negative updates": setting("loop.updates", -1),
    "updates that are a fraction": setting("loop.updates", 1.5),
    "a negative time": setting("loop.elapsed_s", -1.0),
    "metrics of text": setting("loop.metrics", {"a": "x"}),
    "a row that is a list": setting("loop.pending", [1]),
    "a window of other names": setting("loop.window", {"names": ["a"], "values": torch.zeros(2, 3)}),
    "negative rows": setting("tracker.metrics_bytes", -1),
    "rows that are a text": setting("tracker.metrics_bytes", "x"),
    "no threads": setting("computed_by.threads", 0),
    "a billion threads": setting("computed_by.threads", 10**9),
}


@pytest.fixture(scope="module")
def loop(trained: Path) -> Loop:
    """What takes a state over, of the same config as the run."""
    run, config = Run(), read(trained)
    learner = worker.make_learner(Task(config, trained), run)
    return Loop(learner, run, config, Checkpoints(trained / "checkpoints", run), Tracker())


def loaded(run: Path, loop: Loop) -> str:
    """The name of the checkpoint that is taken over."""
    state = Checkpoints(run / "checkpoints", Run()).load(into=lambda state: worker.take(loop, state), mend=True)
    assert state is not None
    return str(state["checkpoint"])


@pytest.mark.parametrize("what", STATES)
def test_a_state_of_another_shape_leaves_the_checkpoint_before_it(
    run: Path, loop: Loop, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Its checksum is right: only what is in it is wrong."""
    assert loaded(run, loop) == LAST
    tamper(run, STATES[what])
    assert loaded(run, loop) == BEFORE
    (message,) = [record.getMessage() for record in caplog.records if "same bits" not in record.getMessage()]
    assert message.startswith(f"checkpoint {LAST} is damaged (")
    assert message.endswith(f"; using {BEFORE}")
    assert len(message) < 500
    assert (run / "checkpoints" / f"damaged-{LAST}").is_dir()


def test_a_run_goes_on_from_the_checkpoint_before_one_that_can_not_be_used(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tamper(run, without("learner.optimizer"))
    rows = (run / "metrics.jsonl").read_text()
    assert trivium.resume(run).updates == 4
    assert f"using {BEFORE}" in caplog.text
    assert (run / "metrics.jsonl").read_text().count("\n") == rows.count("\n")


def test_when_no_checkpoint_can_be_used_it_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (BEFORE, LAST):
        tamper(run, without("learner.model"), name)
    for command in (["resume", str(run), "--quiet"], ["evaluate", str(run)]):
        assert cli.main(command) == 1
        said = errors(capsys)
        assert len(said) == 1, said
        assert "no sound checkpoint" in said[0]
        assert BEFORE in said[0]
        assert LAST in said[0]


def test_the_weights_of_the_checkpoint_before_are_evaluated(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    tamper(run, setting("learner.model", {}))
    assert trivium.evaluate(run, checkpoint="last")["checkpoint"] == BEFORE
    assert "using step-000000000128" in caplog.text


MANIFESTS: dict[str, Any] = {
    "null": None,
    "a list": [],
    "nothing": {},
    "negative bytes": {"files": {"rank-0.pt": {"bytes": -1, "sha256": "0" * 64}}},
    "no checksum": {"files": {"rank-0.pt": {"bytes": 1}}},
    "files that are a list": {"files": ["rank-0.pt"]},
    "files elsewhere": {"files": {"../../rank-0.pt": {"bytes": 1, "sha256": "0" * 64}}},
    "more than memory": {"files": {"rank-0.pt": {"bytes": 10**15, "sha256": "0" * 64}}},
    "no workers": {"world_size": 0},
    "workers that are a text": {"world_size": "x"},
    "a best that is elsewhere": {"best": "../x"},
    "a best that is a list": {"best": []},
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_of_another_shape_leaves_the_checkpoint_before_it(
    run: Path, loop: Loop, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    path, bad = run / "checkpoints" / LAST / "manifest.json", MANIFESTS[what]
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, **bad} if isinstance(bad, Mapping) and bad else bad))
    assert loaded(run, loop) == BEFORE
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"checkpoint {LAST} is damaged (")
    assert message.endswith(f"; using {BEFORE}")


def test_a_checkpoint_of_a_later_format_is_not_set_aside(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run / "checkpoints" / LAST / "manifest.json", format=2)
    assert cli.main(["resume", str(run), "--quiet"]) == 1
    assert "it is of format 2, this Trivium reads 1" in errors(capsys)[0]


ODD = ["step-zzz", "step-000000000256-copy", "step-1", "step-0000000002560", "steps", ".staged-step-mine", "x"]


def test_other_folders_beside_the_checkpoints_are_left_alone(run: Path) -> None:
    checkpoints = run / "checkpoints"
    for name in ODD:
        shutil.copytree(checkpoints / LAST, checkpoints / name)
    (checkpoints / "step-000000000999").symlink_to(LAST)
    result = trivium.resume(run, "budget.updates=12")
    assert result.updates == 12
    left = sorted(path.name for path in checkpoints.iterdir() if path.is_dir() and not path.is_symlink())
    assert left == sorted([*ODD, "step-000000000640", "step-000000000768"])
    assert all((checkpoints / name / "rank-0.pt").is_file() for name in ODD)
    assert os.readlink(checkpoints / "last") == "step-000000000768"
    assert "step-zzz" not in json.dumps(trivium.evaluate(run))


# ------------------------------------------------------------------------------------------- credentials


def test_credentials_in_a_storage_are_refused_and_shown_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    url = "s3://AKEY:sesame@bucket/runs"
    for command in (
        ["train", *SHORT, f"storage={url}"],
        ["train", *SHORT, f"storage={url}", "--dir", str(tmp_path / "new")],
        ["show", f"storage={url}"],
        ["resume", f"{url}/mlp_digits/x"],
        ["evaluate", f"{url}/mlp_digits/x"],
        ["train", f"storage=s4{url[2:]}"],
    ):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert "AWS_SECRET_ACCESS_KEY" in said or "s4://" in said
        assert "sesame" not in said
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY"):  # a Python caller may have composed it otherwise
        launch.train({**read(run), "storage": url}, dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_command_with_a_secret_is_written_and_shown_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trivium.run_folder.environment import describe

    monkeypatch.setattr(sys, "argv", ["trivium", "train", "storage=s3://a:sesame@b", "x.api_key=sesame", "name=a b"])
    assert describe()["command"] == "trivium train storage=s3://***@b x.api_key=*** 'name=a b'"
    edit(run / "environment.json", command="trivium train storage=s3://a:sesame@b x.api_key=sesame")
    edit(run / "config.yaml", storage="s3://a:sesame@b")
    trivium.resume(run)
    assert "sesame" not in (run / "report.html").read_text()
    assert cli.main(["show", str(run)]) == 0
    assert "sesame" not in capsys.readouterr().out


def test_wandb_is_given_no_secret(run: Path) -> None:
    edit(run / "environment.json", command="trivium train storage=s3://a:sesame@b")
    config = {**read(run), "storage": "s3://a:sesame@b"}
    assert "sesame" not in json.dumps(tracked._wandb_config(config, run))


# ------------------------------------------------------------------------------------------- before torch is imported


MISTAKES = [
    ["resume", "nowhere"],
    ["evaluate", "nowhere"],
    ["play", "nowhere"],
    ["resume", "file:///nowhere/name/id"],
    ["resume", "run", "budgt.epochs=3"],
    ["resume", "run", "seed=3"],
    ["evaluate", "run", "--checkpoint", "step-3"],
    ["resume", "planted"],
    ["train", "storage=/proc/runs"],
    ["train", "storage=file:///proc/runs"],
    ["train", "storage=a-file/runs"],
    ["train", "--dir", "/proc/run"],
    ["train", "storage=s3://AKEY:secret@bucket/runs"],
]


def test_mistakes_of_place_and_run_are_told_before_torch_is_imported(run: Path) -> None:
    """And in less than a second of the processor's time, most of which is Python's own start and Hydra's import."""
    (run.parent / "a-file").write_text("")
    shutil.copytree(run, run.parent / "planted", symlinks=True)
    edit(run.parent / "planted" / "config.yaml", model={"_target_": "planted.Net"})
    code = f"""
import sys, time
from trivium import cli
began = time.process_time()
for command in {MISTAKES!r}:
    assert cli.main(command) == 2, command
    assert "torch" not in sys.modules, command
    took, began = time.process_time() - began, time.process_time()
    print(took)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(MISTAKES), lines
    assert all(line.startswith("trivium: error: ") for line in lines)
    assert max(map(float, done.stdout.split())) < 1
