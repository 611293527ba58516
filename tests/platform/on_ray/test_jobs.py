"""Submitting commands as jobs: what is decided without a cluster, and one real cluster with its job server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trivium import cli
from trivium.cli import job
from trivium.config.errors import ConfigError
from trivium.on_ray import jobs

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self, *, input_shape, num_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, num_outputs))

    def forward(self, x):
        return self.layers(x)
"""


class Client:
    """A job server without a cluster."""

    def __init__(self, **states: str) -> None:
        self.jobs = [self._job(id, state) for id, state in states.items()]
        self.submitted: dict[str, Any] = {}

    @staticmethod
    def _job(id: str, state: str) -> SimpleNamespace:
        status = SimpleNamespace(value=state)
        return SimpleNamespace(
            submission_id=id, status=status, start_time=1000, end_time=3500, metadata={}, message="", driver_exit_code=0
        )

    def get_address(self) -> str:
        return "http://here"

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, **options: Any) -> str:
        self.submitted = options
        return str(options["submission_id"])


def submit(client: Client, **changes: Any) -> str:
    options: dict[str, Any] = {
        "id": "one",
        "place": "/shared/mlp/one",
        "trusted": ["mynet"],
        "package": None,
        "python": "/opt/python",
    }
    return jobs.submit(client, ["train", "seed=1"], **{**options, **changes})  # type: ignore[arg-type]


def test_a_job_runs_the_command_with_its_run_folder_and_time_to_stop() -> None:
    client = Client()
    assert submit(client) == "one"
    entry = "exec /opt/python -m trivium.cli.job --run /shared/mlp/one --trust=mynet train seed=1"
    assert client.submitted["entrypoint"] == entry
    assert client.submitted["runtime_env"] == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}


@pytest.mark.parametrize(("state", "expected"), [("FAILED", "one.2"), ("STOPPED", "one.2"), ("RUNNING", "one")])
def test_the_same_id_again_continues_or_joins_the_job(state: str, expected: str) -> None:
    client = Client(one=state)
    assert submit(client) == expected
    assert bool(client.submitted) is (expected != "one")


def test_a_job_that_has_succeeded_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="one has already succeeded"):
        submit(Client(one="SUCCEEDED"))


def test_only_variables_that_are_named_and_set_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "1")
    client = Client()
    submit(client, env=["MINE"])
    assert client.submitted["runtime_env"]["env_vars"]["MINE"] == "1"
    with pytest.raises(ConfigError, match="--env OTHER"):
        submit(Client(), env=["OTHER"])


def test_jobs_are_described_in_seconds() -> None:
    described = jobs.described(Client(one="FAILED").jobs[0])  # type: ignore[arg-type]
    assert (described["state"], described["started"], described["elapsed_s"]) == ("failed", 1.0, 2.5)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a job runs."""
    calls: list[list[str]] = []
    monkeypatch.setattr(cli, "main", lambda words: calls.append(list(words)) or 0)
    return calls


def test_the_first_job_of_a_run_trains_and_the_next_resumes(typed: list[list[str]], tmp_path: Path) -> None:
    place = str(tmp_path / "run")
    words = ["--run", place, "--trust=mynet", "train", "--config-dir", "conf", "seed=1", "--quiet"]
    job.main(words)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    job.main(words)
    assert typed == [
        ["train", "--config-dir", "conf", "seed=1", "--quiet", "--dir", place],
        ["resume", place, "--config-dir", "conf", "--quiet", "--trust", "mynet"],
    ]


def test_a_run_in_a_bucket_is_trained_in_the_copy_that_its_url_names(typed: list[list[str]], tmp_path: Path) -> None:
    job.main(["--run", f"file://{tmp_path}/mlp/one", "train"])
    job.main(["--run", f"file://{tmp_path}/mlp/two?region=a/b", "train"])
    assert typed == [["train", "--dir", "runs/mlp/one"], ["train", "--dir", "runs/mlp/two"]]


def test_a_command_that_begins_no_run_is_left_alone(typed: list[list[str]]) -> None:
    job.main(["evaluate", "/shared/run", "--json"])
    assert typed == [["evaluate", "/shared/run", "--json"]]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["train", "experiment=mlp_digitz", "storage=/shared"], "experiment=mlp_digitz"),
        (["train", "experiment=mlp_digits"], "storage=runs"),
        (["resume", "runs/one"], "runs/one"),
        (["play", "run"], "play"),
        ([], "nothing"),
    ],
)
def test_mistakes_are_reported_before_anything_is_sent(
    words: list[str], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["submit", "--address", "127.0.0.1:1", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert key in lines[0]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_an_address_without_a_cluster_is_one_line(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["jobs", "--address", address]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The address of the job server of a Ray of this test's own."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        sockets = (one, two, three)
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        gcs, dashboard, clients = (each.getsockname()[1] for each in sockets)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={clients}"]
    command += ["--num-cpus=2", "--disable-usage-stats", "--dashboard-agent-listen-port=0"]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "RAY_TMPDIR": "/tmp"})
    address = f"http://127.0.0.1:{dashboard}"
    until = time.monotonic() + 60
    while not jobs.environment.reachable(address):
        assert time.monotonic() < until, (tmp_path / "head.log").read_text()
        time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(30)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_is_followed_stopped_with_a_checkpoint_and_continued(head: str, tmp_path: Path) -> None:
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "mynet.py").write_text(MODEL)
    (tmp_path / "conf/model/mynet.yaml").write_text("_target_: mynet.Net\n_partial_: true\n")
    shared = tmp_path / "shared"

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "trivium", words[0], "--address", head, *words[1:]]

    train = ["train", "experiment=mlp_digits", "--config-dir", "conf", "model=mynet", "threads=1", f"storage={shared}"]
    endless = command("submit", "--id", "one", *train, "launch=ray", "launch.workers=1", "budget.epochs=1000000")
    run = shared / "mlp_digits/one"
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as following:
        until = time.monotonic() + 90
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
            assert time.monotonic() < until
            time.sleep(0.5)
        stopped = subprocess.run(command("jobs", "stop", "one", "--json"), capture_output=True, text=True)
        assert json.loads(stopped.stdout)["state"] == "stopped", stopped.stderr
        printed = following.communicate()[0]
    assert following.returncode != 0
    assert "sends mynet.py" in printed
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as following:
        time.sleep(20)  # longer than a job takes to start
        subprocess.run(command("jobs", "stop", "one.2"), capture_output=True)
        assert f"{run} holds a run" in following.communicate()[0]
    assert len(list((run / "checkpoints").glob("step-*"))) > 1
    short = command("submit", *train, "budget.epochs=2", "--json")
    done = subprocess.run(short, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
