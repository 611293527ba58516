"""The two places for checkpoints: a folder, and a bucket of a real S3 server on loopback."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from counting import Counting
from killing import finish, rows, states

from trivium import declared
from trivium.boundary.places import is_bucket
from trivium.boundary.untrusted import Refused
from trivium.checkpoints.folder import Checkpoints
from trivium.checkpoints.storage import (
    Bucket,
    Folder,
    Storage,
    join,
)
from trivium.config.composing import compose
from trivium.learner import Run
from trivium.run_folder.place import bucket_of
from trivium.run_folder.task import Task
from trivium.training import worker
from trivium.training.loop import Interrupted

ONE, TWO = "step-000000000001", "step-000000000002"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="trivium")
    yield f"s3://trivium/runs?endpoint_override={host}:{port}&scheme=http"
    server.stop()


@pytest.fixture(params=["folder", "file-url", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "run")
    if request.param == "file-url":
        return f"file://{tmp_path}/run"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return join(request.getfixturevalue("s3"), tmp_path.name)


def test_places() -> None:
    assert is_bucket("s3://b/runs")
    assert not is_bucket("/runs")
    assert join("s3://b/runs?scheme=http", "a", "b") == "s3://b/runs/a/b?scheme=http"
    assert join(Path("/runs"), "a") == "/runs/a"


def test_a_checkpoint_appears_when_it_is_committed(place: str) -> None:
    storage: Storage = Bucket(place) if is_bucket(place) else Folder(Path(place))
    storage.write(ONE, "a", lambda stream: stream.write(b"content"))  # type: ignore[arg-type,return-value]
    assert storage.names() == []
    storage.commit(ONE, b"{}")
    assert storage.names() == [ONE]
    assert storage.read(ONE, "a", 100) == b"content"
    with pytest.raises(OSError, match=TWO):
        storage.read(TWO, "a", 100)
    storage.write(TWO, "a", lambda stream: stream.write(b"half"))  # type: ignore[arg-type,return-value]
    storage.clear_up()
    with pytest.raises(OSError, match=TWO):
        storage.read(TWO, "a", 100)
    storage.write(TWO, "a", lambda stream: stream.write(b"half"))  # type: ignore[arg-type,return-value]
    storage.discard(TWO)
    storage.set_aside(ONE)
    storage.clear_up()
    assert storage.names() == []
    storage.delete(ONE)
    storage.delete(ONE)


def test_one_that_is_written_over_is_there_until_the_new_one_is(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an evaluation that a signal ended is made again: the same step, saved twice."""
    checkpoints = Checkpoints(place, Run())

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    def saved() -> Any:
        state = Checkpoints(place, Run()).load(mend=True)
        return state and state["state"]

    checkpoints.save({"state": "first"}, step=1, updates=1)
    for again in ("second", "third"):
        before = saved()
        with monkeypatch.context() as patched:
            patched.setattr(type(checkpoints.storage), "commit", killed)
            with pytest.raises(Killed):
                checkpoints.save({"state": again}, step=1, updates=1)
        assert saved() == before
        checkpoints.save({"state": again}, step=1, updates=1)
        assert saved() == again


def test_checkpoints_are_saved_pruned_and_loaded(place: str) -> None:
    checkpoints = Checkpoints(place, Run(), keep=2)
    for step in (1, 2, 3):
        checkpoints.save({"step": step}, step=step, updates=step, best_step=1)
    assert [int(name[-1]) for name in checkpoints.names()] == [1, 2, 3]
    checkpoints.save({"step": 4}, step=4, updates=4, best_step=3)
    assert [int(name[-1]) for name in checkpoints.names()] == [3, 4]
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["step"] == 4


@pytest.mark.parametrize("place", ["file-url", "s3"], indirect=True)
def test_a_run_folder_goes_to_a_bucket_and_back(place: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "figures").mkdir(parents=True)
    (here / "checkpoints").mkdir()
    (here / "config.yaml").write_text("name: x")
    (here / "figures" / "a.png").write_bytes(b"png")
    (here / "checkpoints" / "not-mine").write_text("")
    Bucket(place).push(here)
    there.mkdir()
    (there / "config.yaml").write_text("longer, so newer")
    (there / "figures").mkdir()
    (there / "figures" / "a.png").write_bytes(b"")  # stale
    Bucket(place).pull(there)
    assert (there / "figures" / "a.png").read_bytes() == b"png"
    assert (there / "config.yaml").read_text() == "longer, so newer"
    Bucket(place).pull(there, anew=True)
    assert (there / "config.yaml").read_text() == "name: x"
    assert not (there / "checkpoints").exists()


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_keys_that_lead_out_are_listed_by_s3_and_not_brought_here(place: str, tmp_path: Path) -> None:
    import boto3

    prefix, _, options = place.removeprefix("s3://trivium/").partition("?endpoint_override=")
    client = boto3.client("s3", endpoint_url=f"http://{options.partition('&')[0]}", region_name="us-east-1")
    for key in ("config.yaml", "../escaped", "figures/../../escaped", "/escaped"):
        client.put_object(Bucket="trivium", Key=f"{prefix}/{key}", Body=b"x")
        if key != "config.yaml":
            with pytest.raises(Refused, match="leads out"):
                Bucket(place).pull(tmp_path / "run", anew=True)
            client.delete_object(Bucket="trivium", Key=f"{prefix}/{key}")
    assert list(tmp_path.iterdir()) == []
    Bucket(place).pull(tmp_path / "run", anew=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.kill
@pytest.mark.parametrize("place", ["file-url", "s3"], indirect=True)
def test_a_run_in_a_bucket_survives_the_loss_of_its_machine(place: str, tmp_path: Path) -> None:
    """Killed, its disk gone; resumed on another machine from the bucket alone, it ends with the same bits."""
    exact = ["experiment=mlp_digits", "threads=1", "tracking.wandb=false", "budget.updates=40", "log.every_updates=7"]
    exact += ["evaluation.every_updates=15", "checkpoint.every_updates=9"]
    whole, lost = tmp_path / "whole", tmp_path / "lost" / "run1"
    assert finish(exact, whole) == 0
    kill_at = ("trivium.supervised.learner", "Supervised.step", 31)
    assert finish([*exact, f"storage={place}"], lost, kill_at=kill_at) == -signal.SIGKILL
    shutil.rmtree(lost)
    code = "import sys; from trivium import cli; sys.exit(cli.main())"
    done = forked.run(code, "resume", join(place, "mlp_digits", "run1"), "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming from step-" in done.stderr
    folder = Path(json.loads(done.stdout.splitlines()[-1])["dir"])
    assert folder == tmp_path / "runs" / "mlp_digits" / "run1"
    assert rows(folder) == rows(whole)
    state = Checkpoints(join(place, "mlp_digits", "run1", "checkpoints"), Run()).load()
    assert state is not None
    (expected,) = states(whole)
    assert all((expected["learner"]["model"][k] == v).all() for k, v in state["learner"]["model"].items())
    here = tmp_path / "here"
    here.mkdir()
    Bucket(join(place, "mlp_digits", "run1")).pull(here)
    assert {"config.yaml", "metrics.jsonl", "result.json", "report.html"} <= {p.name for p in here.iterdir()}


def _node(rank: int, place: str, folder: str) -> None:
    """One worker on a node of its own: a disk that the other does not see, and the bucket between them."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    run = Run(rank=rank, world_size=2)
    cadence = ["budget.epochs=null", "budget.updates=20", "log.every_updates=5", "evaluation.every_updates=10"]
    config = compose([*cadence, "threads=1", "tracking.wandb=false", "checkpoint.every_updates=4", f"storage={place}"])

    def train(node: str, name: str, *, stop_at: int = 1000) -> tuple[Path, dict[str, Any]]:
        learner = Counting(run=run)
        torch.manual_seed(rank)
        dir = Path(folder, f"{node}-{rank}", name)
        task = Task(config, dir, bucket=bucket_of(config, dir))
        with contextlib.suppress(Interrupted):
            worker.work(
                task,
                run,
                learner,
                resume=True,
                show=lambda status: None,
                say=lambda sentence: None,
                stop_requested=lambda: 15 if learner.steps >= stop_at else None,
                most_threads=1,
                keep=lambda config: None,
            )
        return task.dir, declared.state_dict(learner)

    whole, expected = train("node", "whole")
    _, stopped = train("node", "stopped", stop_at=11)
    assert 11 <= stopped["steps"] < 20
    folder_of_rank, state = train("another", "stopped")
    assert state == expected
    if rank == 0:
        assert rows(folder_of_rank) == rows(whole) != []
    else:
        assert not whole.exists(), "only the node of rank 0 has a run folder"
        assert not folder_of_rank.exists()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_nodes_that_share_a_bucket_only_go_on_on_other_nodes(place: str, tmp_path: Path) -> None:
    """Two workers, each with its own disk, stop; two others resume and end with the same rows and states."""
    forked.spawn(_node, (place, str(tmp_path)), nprocs=2)
    names = Checkpoints(join(place, "mlp_digits", "stopped", "checkpoints"), Run()).names()
    assert names[-1] == "step-000000000200"


def test_a_bucket_that_does_not_answer_is_one_line_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trivium import cli

    (tmp_path / "a-file").write_text("")
    assert cli.main(["train", f"storage=file://{tmp_path}/a-file/runs"]) == 2
    assert cli.main(["evaluate", f"file://{tmp_path}/a-file/runs/mlp_digits/x"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("trivium: error: ") for line in lines), lines
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "a-file"]
