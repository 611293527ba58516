"""What the driver of a run on Ray decides, and what a worker does alike on any: without a Ray."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import io
import logging
import os
import pickle
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError

from trivium.config.composing import compose
from trivium.learner import Run
from trivium.on_ray import actor, cluster, driver
from trivium.on_ray.cluster import WorkersLost
from trivium.run_folder.task import Task
from trivium.tracking.progress import Display
from trivium.training import worker
from trivium.training.loop import Interrupted

pytestmark = pytest.mark.timeout(100)


class Worker:
    """A handle of a `actor.Worker` that is no process but threads, and what of `ray` asks it."""

    def __init__(self, node: str, trained: Callable[[Worker], Any]) -> None:
        self.said, self.node, self.signals, self.rank = actor.News(), node, list[int](), -1
        self._trained, self._threads = trained, ThreadPoolExecutor()

    def __getattr__(self, method: str) -> Any:
        return types.SimpleNamespace(remote=lambda *a: self._threads.submit(getattr(self, f"_{method}"), *a))

    def _where(self) -> tuple[str, str]:
        return self.node, f"host of {self.node}"

    def _open_store(self, host: str, world_size: int) -> int:
        return len(host) + world_size

    def _train(self, task: Task, cwd: str, place: actor.Place) -> Any:
        self.rank, self.place = place.rank, place
        try:
            return self._trained(self)
        finally:
            self.said.end()

    def _news(self) -> Any:
        return self.said.take()

    def _stop(self, signal: int) -> None:
        self.signals.append(signal)


@pytest.fixture
def threads_for_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(promised: Any, timeout: float | None = None) -> Any:
        try:
            if isinstance(promised, list):
                return [each.result(timeout) for each in promised]
            return promised.result(timeout)
        except TimeoutError:
            raise driver.GetTimeoutError from None

    def wait(promised: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None) -> tuple[list[Any], Any]:
        concurrent.futures.wait(promised, timeout, FIRST_COMPLETED if num_returns == 1 else ALL_COMPLETED)
        return [each for each in promised if each.done()][:num_returns], None

    monkeypatch.setattr(driver, "ray", types.SimpleNamespace(get=get, wait=wait, nodes=lambda: [{"Alive": True}]))


TASK = Task(compose([]), Path("run"))


@pytest.mark.usefixtures("threads_for_ray")
def test_all_that_was_said_is_shown_before_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    outcome: Any = types.SimpleNamespace()

    def trained(worker: Worker) -> Any:
        for word in ("first", "second", "last"):
            worker.said.say(f"{word} of {worker.rank}")
            time.sleep(0.002 * worker.rank)
        return outcome

    for _ in range(20):
        group = [Worker("a", trained), Worker("a", trained)]
        assert driver.Group(TASK, group, Display(), lambda: None).train() is outcome
        said = capsys.readouterr().err.splitlines()
        for rank in (0, 1):
            of_one = [f"first of {rank}", f"second of {rank}", f"last of {rank}"]
            assert [line for line in said if line in of_one] == of_one


@pytest.mark.usefixtures("threads_for_ray")
def test_ranks_on_one_node_follow_each_other_and_all_know_the_first_ones_store() -> None:
    group = [Worker(node, lambda worker: "outcome") for node in "babca"]
    driver.Group(TASK, group, Display(), lambda: None).train()
    host = "host of b"
    assert [w.place for w in group] == [
        actor.Place(rank, 5, here, host, len(host) + 5) for rank, here in ((0, 2), (2, 2), (1, 2), (4, 1), (3, 2))
    ]


@pytest.mark.usefixtures("threads_for_ray")
def test_a_fault_of_any_worker_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    fault = TypeError("of the program")
    group = [Worker("a", lambda worker: fault if worker.rank else stuck.wait(60)) for _ in range(2)]
    monkeypatch.setattr(driver, "LEAVE_S", 0.1)
    with pytest.raises(TypeError, match="of the program"):
        driver.Group(TASK, group, Display(), lambda: None).train()
    stuck.set()


@pytest.mark.usefixtures("threads_for_ray")
def test_the_first_worker_may_take_its_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def trained(worker: Worker) -> Any:
        if worker.rank == 0:
            time.sleep(0.3)  # W&B's and a bucket's last files
            ended.set()
        return Interrupted(15, f"said by {worker.rank}")

    monkeypatch.setattr(driver, "LEAVE_S", 0.1)
    with pytest.raises(Interrupted, match="said by 0"):
        driver.Group(TASK, [Worker("a", trained), Worker("a", trained)], Display(), lambda: None).train()
    assert ended.is_set()


@pytest.mark.usefixtures("threads_for_ray")
def test_of_a_lost_worker_and_what_follows_from_it_the_loss_is_told() -> None:
    def trained(worker: Worker) -> Any:
        if worker.rank:
            time.sleep(0.2)
            raise ActorDiedError
        raise RayTaskError("train", "Traceback\nRuntimeError: connection closed by peer", "cause")

    with pytest.raises(ActorDiedError):
        driver.Group(TASK, [Worker("a", trained), Worker("a", trained)], Display(), lambda: None).train()


@pytest.mark.usefixtures("threads_for_ray")
def test_of_a_fault_of_the_program_and_what_follows_from_it_the_fault_is_told() -> None:
    def trained(worker: Worker) -> Any:
        if worker.rank:
            time.sleep(0.2)
            return KeyError("of the program")
        raise RayTaskError("train", "Traceback\nRuntimeError: connection closed by peer", "cause")

    with pytest.raises(KeyError, match="of the program"):
        driver.Group(TASK, [Worker("a", trained), Worker("a", trained)], Display(), lambda: None).train()


def raised(message: str, updates: int) -> RayTaskError:
    """As Ray raises what a worker has raised."""
    cause = ConnectionError(message)
    cause.add_note(f"after {updates} updates")
    text = "".join(traceback.format_exception(cause))
    return RayTaskError("train", text, cause).as_instanceof_cause()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("errors", "tries", "told"),
    [
        ([raised("refused", 3)] * 9, 2, "ConnectionError: refused, after 3 updates, as the last time; the last"),
        (
            [raised("refused", n) for n in range(9)],
            4,
            "ConnectionError: refused, more often than launch.max_failures=3",
        ),
        ([ActorDiedError()] * 9, 4, "The actor died unexpectedly.*, more often than launch.max_failures=3"),
        (
            [ActorDiedError(RayTaskError("init", "Traceback\n  File\nImportError: y", "cause"))],
            1,
            "no worker can be started: ImportError: y; the",
        ),
        ([raised("refused", 3), ActorDiedError(), raised("refused", 3), "outcome"], 4, None),
        (["lost"], 1, "the run's Ray is lost, its raylet has ended; trivium resume continues from the beginning"),
    ],
)
def test_what_comes_again_is_not_tried_again(
    errors: list[Any], tries: int, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(errors)

    class Group:
        def __init__(self, *_: Any) -> None:
            pass

        def train(self) -> Any:
            groups.append(self)
            error = next(left)
            if error == "lost":
                monkeypatch.setattr(cluster, "lost", lambda: "raylet")
                raise ActorDiedError  # as its workers are lost
            if isinstance(error, Exception):
                raise error
            return error

    groups: list[Group] = []
    task = Task(compose(["launch=ray"]), tmp_path / "run")
    for name, fake in (("Group", Group), ("_place", lambda *_: []), ("_end", lambda *_: None)):
        monkeypatch.setattr(driver, name, fake)
    places: Any = None
    with pytest.raises(WorkersLost, match=told) if told else contextlib.nullcontext():
        driver._train(task, places, Display(quiet=True), lambda: None)
    assert len(groups) == tries


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (torch.distributed.DistNetworkError("another worker has not come"), True),
        (ConnectionResetError(), True),
        (OSError(errno.ESTALE, "stale file handle"), True),
        (OSError(errno.ENOSPC, "no space left"), False),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (torch.OutOfMemoryError(), False),
        (ValueError(), False),
    ],
)
def test_which_errors_may_pass(error: Exception, passes: bool) -> None:
    assert actor.may_pass(error) is passes


@pytest.mark.usefixtures("threads_for_ray")
def test_a_ray_that_ends_is_noticed_while_workers_train(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(driver, "LOOK_S", 0.01)
    monkeypatch.setattr(cluster, "lost", lambda: "gcs_server")
    group = [Worker("a", lambda worker: stuck.wait(60))]
    with pytest.raises(driver.RayLost, match="gcs_server"):
        driver.Group(TASK, group, Display(quiet=True), lambda: None).train()
    stuck.set()


PARTICULARS = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: Worker\n\tpid: 12\n\tnamespace: \n"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RayTaskError("train", "Traceback\n  File\nValueError: a. b\n", "cause"), "ValueError: a. b"),
        (RayActorError(error_msg=PARTICULARS + "The actor is dead. Worker exit type: 1. Refer"), "The actor is dead"),
        (ActorDiedError(), "The actor died unexpectedly before finishing this task"),
        (ActorDiedError(RayTaskError("init", "Traceback\n  File\nImportError: y. z", "cause")), "ImportError: y. z"),
        (OutOfMemoryError("1 worker(s) were killed. Use less.\nRefer to"), "1 worker(s) were killed"),
    ],
)
def test_why_workers_start_again_is_told_in_one_sentence(error: Exception, reason: str) -> None:
    assert driver._reason(error) == reason


@pytest.mark.usefixtures("threads_for_ray")
def test_a_signal_is_told_once_and_waited_for_while_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    trains = threading.Event()

    def trained(worker: Worker) -> Any:
        trains.set()
        while not worker.signals and worker.rank == 0:
            time.sleep(0.001)
        time.sleep(0.5)  # an update, longer than a signal may go unheard
        return Interrupted(worker.signals[0], "step-1") if worker.rank == 0 else None

    group = [Worker("a", trained) for _ in range(2)]
    monkeypatch.setattr(driver, "LOOK_S", 0.01)
    monkeypatch.setattr(driver, "UNHEARD_S", 0.1)
    with pytest.raises(Interrupted, match="step-1"):
        driver.Group(TASK, group, Display(quiet=True), lambda: 15 if trains.is_set() else None).train()
    assert [worker.signals for worker in sorted(group, key=lambda w: w.rank)] == [[15], []]


@pytest.mark.usefixtures("threads_for_ray")
def test_a_worker_that_does_not_hear_a_signal_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()

    class Deaf(Worker):
        def _stop(self, signal: int) -> None:
            stuck.wait(60)

    group = [Deaf("a", lambda worker: stuck.wait(60))]
    monkeypatch.setattr(driver, "UNHEARD_S", 0.1)
    with pytest.raises(driver.Unheard):
        driver.Group(Task(compose([]), tmp_path), group, Display(quiet=True), lambda: 15).train()
    stuck.set()


def test_what_workers_print_and_log_reaches_the_driver_with_their_rank() -> None:
    said: list[str] = []
    with actor.printing_to(said.append, rank=1):
        print("from the user's model", 3)
        print("a warning", file=sys.stderr)
        logging.getLogger("trivium").warning("a checkpoint is damaged")
        print("no end", end="")
    print("not sent")
    assert said == [
        "[rank 1] from the user's model 3",
        "[rank 1] a warning",
        "[rank 1] trivium: a checkpoint is damaged",
        "[rank 1] no end",
    ]


def test_a_worker_ends_with_the_raylet_that_began_it() -> None:
    reads, writes = os.pipe()
    if not (parent := os.fork()):
        if not os.fork():
            threading.Thread(target=actor._end_with_parent).start()
            time.sleep(60)
        time.sleep(0.5)
        os._exit(0)
    os.close(writes)
    assert os.waitpid(parent, 0)[1] == 0
    began = time.monotonic()
    assert os.read(reads, 1) == b""  # no writer is left
    assert time.monotonic() - began < 10
    os.close(reads)


@pytest.mark.parametrize(
    ("device", "asked", "there", "gpus"),
    [
        ("auto", "auto", 2, 1),
        ("auto", "auto", 1, 0),
        ("auto", 0, 2, 0),
        ("cpu", "auto", 2, 0),
        ("cuda", "auto", 1, 1),
    ],
)
def test_a_worker_has_a_gpu_if_the_device_says_so_or_the_cluster_has_enough(
    device: str, asked: int | str, there: int, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2, "GPU": there})
    config = {"device": device, "launch": {"workers": 2, "cpus_per_worker": 1, "gpus_per_worker": asked}}
    said = io.StringIO()
    assert driver._gpus_per_worker(config, Display(said)) == gpus
    assert said.getvalue() == ("" if gpus <= there / 2 else "the cluster has 1 of 2 GPUs: waiting for the others\n")


def own_process(*, gpu: bool = False) -> Any:
    """A worker that lives here."""
    return actor.Worker.__ray_metadata__.modified_class({"WANDB_MODE": "offline"}, gpu=gpu)


class Unpicklable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a + b)


@pytest.mark.parametrize(
    ("error", "answer"), [(KeyError("x"), "KeyError('x')"), (Unpicklable(1, 2), "RuntimeError('Unpicklable: 3')")]
)
def test_a_fault_of_the_program_is_an_answer_with_its_place(
    error: Exception, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setattr(actor, "_end_with_parent", lambda: None)
    one = own_process()
    monkeypatch.setattr(one, "_train", fails)
    returned = one.train(TASK, str(tmp_path), actor.Place(1, 2, 2, "", 0))
    assert repr(pickle.loads(pickle.dumps(returned))) == answer
    assert "on rank 1:\nTraceback" in returned.__notes__[-1]
    assert "raise error" in returned.__notes__[-1]
    monkeypatch.setattr(one, "_train", lambda *_: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(ConnectionError):
        one.train(TASK, str(tmp_path), actor.Place(1, 2, 2, "", 0))


@pytest.mark.parametrize(("gpu", "device", "backend"), [(False, "cpu", "gloo"), (True, "cuda", "nccl")])
def test_a_worker_without_a_gpu_of_its_own_leaves_those_it_sees_alone(
    gpu: bool, device: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Run] = []
    backends: list[str] = []
    for name in ("WANDB_MODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(actor, "_end_with_parent", lambda: None)
    monkeypatch.setattr(actor.ray, "get_gpu_ids", lambda: [3])
    monkeypatch.setattr(actor.dist, "init_process_group", lambda name, **_: backends.append(name))
    monkeypatch.setattr(actor.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(actor, "_make_learner", lambda task, run: None)
    monkeypatch.setattr(worker, "work", lambda task, run, learner, **_: runs.append(run))
    one = own_process(gpu=gpu)
    assert (os.environ["WANDB_MODE"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("offline", "3" if gpu else "")
    port = one.open_store("localhost", 1)
    one.train(Task(compose([]), tmp_path), str(tmp_path), actor.Place(0, 1, 1, "localhost", port))
    assert ([str(run.device) for run in runs], backends) == ([device], [backend])
