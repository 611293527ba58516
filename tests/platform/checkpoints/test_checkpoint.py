"""Checkpoints: whole or not at all, verified, and never a reason to execute anything."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch

from trivium.checkpoints.folder import CheckpointError, Checkpoints, rng_state, set_rng_state
from trivium.checkpoints.storage import Folder
from trivium.learner import Run

CPU = torch.device("cpu")
NAMES = [f"step-{step:012d}" for step in (10, 20, 30)]


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((64, 64), float(step)), "nested": [{"text": "a", "none": None}]}


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints", Run(), keep=3)
    for step in (10, 20, 30):
        assert checkpoints.save(state(step), step=step, updates=step // 10) == f"step-{step:012d}"
    return checkpoints


def file_of(checkpoints: Checkpoints, name: str, file: str = "rank-0.pt") -> Path:
    return Path(checkpoints.place) / name / file


def test_what_is_saved_is_loaded(saved: Checkpoints) -> None:
    loaded = saved.load()
    assert loaded is not None
    assert loaded["checkpoint"] == NAMES[-1]
    assert torch.equal(loaded["weights"], state(30)["weights"])
    assert loaded["nested"] == [{"text": "a", "none": None}]
    manifest = json.loads(file_of(saved, NAMES[-1], "manifest.json").read_text())
    content = file_of(saved, NAMES[-1]).read_bytes()
    assert manifest["files"]["rank-0.pt"] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nowhere", Run()).load() is None
    assert not (tmp_path / "nowhere").exists()


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, Run(), keep=2)
    for step in range(1, 8):
        checkpoints.save(state(step), step=step, updates=step, best_step=2 if step >= 2 else None)
    assert checkpoints.names() == [f"step-{s:012d}" for s in (2, 6, 7)]
    assert checkpoints.best() == "step-000000000002"
    best = checkpoints.load("best")
    assert best is not None
    assert best["step"] == 2


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a truncated file": ("rank-0.pt", _truncate, "bytes"),
    "a flipped byte": ("rank-0.pt", _flip, "checksum"),
    "a missing file": ("rank-0.pt", Path.unlink, "No such file"),
    "a truncated manifest": ("manifest.json", _truncate, "damaged"),
    "a manifest of something else": ("manifest.json", lambda p: p.write_text("[1]"), "damaged"),
    "a missing manifest": ("manifest.json", Path.unlink, "No such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(
    saved: Checkpoints, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file, hurt, fragment = DAMAGES[damage]
    hurt(file_of(saved, NAMES[2], file))
    before = sorted(Path(saved.place).rglob("*"))
    seen = saved.load()
    assert seen is not None
    assert seen["step"] == 20
    assert sorted(Path(saved.place).rglob("*")) == before, "who only reads changes nothing"
    caplog.clear()
    loaded = saved.load(mend=True)
    assert loaded is not None
    assert loaded["step"] == 20
    (message,) = [record.getMessage() for record in caplog.records]
    assert NAMES[2] in message
    assert fragment in message
    assert message.endswith(f"using {NAMES[1]}")
    assert saved.names() == NAMES[:2]
    assert (Path(saved.place) / f"damaged-{NAMES[2]}").is_dir()


def test_all_damaged_is_an_error_and_not_a_fresh_start(saved: Checkpoints) -> None:
    for name in NAMES:
        _flip(file_of(saved, name))
    for _ in range(2):  # as a scheduler would try again
        with pytest.raises(CheckpointError, match="no sound checkpoint") as error:
            saved.load(mend=True)
        assert all(name in str(error.value) for name in NAMES)
    assert saved.names() == NAMES


def test_what_cannot_be_read_is_not_taken_for_damaged(saved: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Folder, name: str, file: str, limit: int) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Folder, "read", denied)
    with pytest.raises(CheckpointError, match=rf"checkpoint {NAMES[2]} can't be read: .*Permission denied"):
        saved.load(mend=True)
    assert saved.names() == NAMES


@pytest.mark.parametrize("kept", [True, False])
def test_a_commit_that_is_killed_between_its_renames_is_finished(saved: Checkpoints, kept: bool) -> None:
    place = Path(saved.place)
    if kept:
        shutil.copytree(place / NAMES[2], place / f".replaced-{NAMES[2]}")
    else:
        (place / NAMES[2]).rename(place / f".replaced-{NAMES[2]}")
    loaded = saved.load(mend=True)
    assert loaded is not None
    assert loaded["step"] == 30
    assert not list(place.glob(".replaced-*"))


def test_a_checkpoint_is_written_again_over_one_of_the_same_step(saved: Checkpoints) -> None:
    saved.save({**state(30), "step": 31}, step=30, updates=3)
    loaded = saved.load()
    assert loaded is not None
    assert loaded["step"] == 31
    assert saved.names() == NAMES


@pytest.mark.parametrize("when", ["write", "commit"])
def test_a_full_disk_is_a_clear_error_and_loses_nothing(
    saved: Checkpoints, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Folder, when, full)
    with pytest.raises(
        CheckpointError, match=rf"at step 40 .*No space left on device; the last good one is {NAMES[2]}"
    ):
        saved.save(state(40), step=40, updates=4)
    assert saved.names() == NAMES
    assert not list(Path(saved.place).glob(".*-step-*"))
    loaded = saved.load()
    assert loaded is not None
    assert loaded["step"] == 30


def test_a_disk_that_fills_while_writing(saved: Checkpoints, tmp_path: Path) -> None:
    """The kernel itself refuses to write: files may not grow beyond 20,000 bytes, a checkpoint takes more."""
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import torch
from trivium.checkpoints.folder import Checkpoints, CheckpointError
from trivium.learner import Run
try:
    Checkpoints({saved.place!r}, Run()).save({{"weights": torch.rand(100, 100)}}, step=40, updates=4)
except CheckpointError as error:
    sys.exit(str(error))
"""
    done = forked.run(code, folder=tmp_path)
    assert done.returncode == 1
    assert f"File too large; the last good one is {NAMES[2]}" in done.stderr
    assert "Traceback" not in done.stderr
    assert saved.names() == NAMES


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"Not a directory: .*; there is none yet"):
        Checkpoints(tmp_path / "file" / "checkpoints", Run()).save(state(1), step=1, updates=1)


def test_a_save_that_is_killed_leaves_the_checkpoint_before_it(saved: Checkpoints, tmp_path: Path) -> None:
    """SIGKILL between the first bytes of a file and the rename."""
    code = f"""
import os, signal
from trivium.checkpoints.folder import Checkpoints
from trivium.learner import Run
from trivium.checkpoints.storage import Folder
Folder.commit = lambda self, name, manifest: os.kill(os.getpid(), signal.SIGKILL)
Checkpoints({saved.place!r}, Run()).save({{"a": 1}}, step=40, updates=4)
"""
    assert forked.run(code, folder=tmp_path).returncode == -9
    assert list(Path(saved.place).glob(".staged-*"))
    assert saved.names() == NAMES
    loaded = saved.load(mend=True)
    assert loaded is not None
    assert loaded["step"] == 30
    assert not list(Path(saved.place).glob(".staged-*")), "else each kill would leave a checkpoint's size"


def test_another_world_size_is_refused_for_resuming_and_good_for_weights(saved: Checkpoints) -> None:
    path = file_of(saved, NAMES[2], "manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "world_size": 4}))
    with pytest.raises(CheckpointError, match=r"written by 4 workers.*launch.workers=4"):
        saved.load()
    loaded = saved.load(any_world_size=True)
    assert loaded is not None
    assert loaded["step"] == 30


def test_a_name_that_is_not_there_is_told_with_those_that_are(saved: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match=rf"no checkpoint step-5 .*valid: {NAMES[0]}, {NAMES[1]}"):
        saved.load("step-5")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_a_strangers_checkpoint_executes_nothing(saved: Checkpoints, tmp_path: Path) -> None:
    """The attacker may write the manifest too, so the checksum is right."""
    for name in NAMES:
        for content in (pickle.dumps({"learner": Payload()}, protocol=2),):
            file_of(saved, name).write_bytes(content)
            entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            path = file_of(saved, name, "manifest.json")
            path.write_text(json.dumps({**json.loads(path.read_text()), "files": {"rank-0.pt": entry}}))
    with pytest.raises(CheckpointError, match="without running code"):
        saved.load()
    torch.save({"learner": Payload()}, tmp_path / "zip.pt")
    assert not (tmp_path / "executed").exists()


def test_a_state_that_could_not_be_loaded_safely_is_refused_when_first_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state_dict\(\) holds something that can't be loaded"):
        Checkpoints(tmp_path, Run()).save({"learner": {"env": Payload}}, step=1, updates=1)
    assert Checkpoints(tmp_path, Run()).names() == []


def test_the_global_generators_continue_where_they_were() -> None:
    def draw() -> list[Any]:
        return [random.random(), random.gauss(0, 1), *np.random.randn(3), *torch.rand(3).tolist()]

    random.gauss(0, 1), np.random.randn()  # leaves a second normal deviate waiting in each
    before = rng_state(CPU)
    first = draw()
    set_rng_state(before, CPU)
    assert draw() == first
    buffer = Path("rng.pt")
    torch.save(before, buffer)
    set_rng_state(torch.load(buffer, weights_only=True), CPU)
    assert draw() == first


def _two_ranks(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    run = Run(rank=rank, world_size=2)
    checkpoints = Checkpoints(f"{folder}/checkpoints", run)
    for step in (1, 2, 3):
        checkpoints.save({"rank": rank, "step": step}, step=step, updates=step)
    torch.distributed.barrier()
    if rank == 0:  # only one rank's file is damaged, and both must fall back
        path = Path(folder, "checkpoints", "step-000000000003", "rank-1.pt")
        path.write_bytes(path.read_bytes()[:-1])
    torch.distributed.barrier()
    loaded = checkpoints.load(mend=True)
    assert loaded is not None
    assert (loaded["rank"], loaded["step"]) == (rank, 2)
    torch.distributed.barrier()
    if rank == 1:  # the disk of one is full: all hear of it
        Folder.write = _full  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.save({"rank": rank}, step=4, updates=4)
    assert checkpoints.names()[-1] == "step-000000000002"
    torch.distributed.destroy_process_group()


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_ranks_agree_on_the_checkpoint_and_on_failures(tmp_path: Path) -> None:
    forked.spawn(_two_ranks, (str(tmp_path),), nprocs=2)


def test_lost_checkpoints_are_no_new_beginning(saved: Checkpoints) -> None:
    for name in saved.names():
        shutil.rmtree(Path(saved.place) / name)
    with pytest.raises(CheckpointError, match=rf"has lost its checkpoints, the last of which was {NAMES[-1]}$"):
        saved.load(mend=True)


def test_the_random_state_of_apples_gpu_is_saved_and_one_of_another_device_is_let_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[torch.Tensor] = []
    monkeypatch.setattr("torch.mps.get_rng_state", lambda: torch.tensor([7]))
    monkeypatch.setattr("torch.mps.set_rng_state", taken.append)
    set_rng_state(rng_state(torch.device("mps")), torch.device("mps"))
    assert [state.tolist() for state in taken] == [[7]]
    set_rng_state(rng_state(CPU), torch.device("mps"))
    assert len(taken) == 1
