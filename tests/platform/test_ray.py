"""Runs on a real Ray: equal to one worker's, and unharmed by the loss of a worker."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from killing import assert_same_bits, finish, rows, states
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError

from trivium import ray_driver, ray_worker, worker
from trivium.config import compose
from trivium.learner import Run
from trivium.loop import Interrupted
from trivium.progress import Display
from trivium.tracking import read_rows
from trivium.worker import Task

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

EXACT = ["threads=1", "tracking.wandb=false", "log.every_updates=1", "evaluation.every_updates=5", "budget.updates=10"]
SMALL = {
    "mlp_digits": ["experiment=mlp_digits", "model.dropout=0", *EXACT],  # dropout draws on each rank's own stream
    "vae_digits": ["experiment=vae_digits", *EXACT],
    "ppo_cartpole": ["experiment=ppo_cartpole", *EXACT, "agent.eval_episodes=4", "agent.test_episodes=4"],
}


def command(overrides: Sequence[str], dir: Path) -> list[str]:
    verb = ["resume", str(dir)] if (dir / "config.yaml").exists() else ["train", *overrides, "--dir", str(dir)]
    return [sys.executable, "-m", "trivium.cli", *verb, "--json"]


def run(overrides: Sequence[str], dir: Path) -> dict[str, Any]:
    done = subprocess.run(command(overrides, dir), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"stderr": done.stderr}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str]:
    """One Ray for all tests here, as a cluster: started by `ray start`, found by RAY_ADDRESS, with token
    authentication; a home of its own keeps the machine's clean."""
    home = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    port = 20000 + os.getpid() % 10000
    environment = {**os.environ, "HOME": home, "RAY_TMPDIR": home, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    environment.pop("RAY_ADDRESS", None)
    ray = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",  # what the command `ray` runs
        "start",
        "--head",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
    ]
    ray += [
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={port + 1}",
        "--num-cpus=4",
        "--disable-usage-stats",
        "--block",
    ]
    with subprocess.Popen(ray, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        changed = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        time.sleep(3)
        yield changed["RAY_ADDRESS"]
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for part in [*psutil.Process(process.pid).children(recursive=True), process]:  # nothing in it is to be kept
            part.kill()
    shutil.rmtree(home, ignore_errors=True)


def long(name: str) -> list[str]:
    """Long enough to be hurt before it ends: a group of workers is expensive to start, so one run serves two tests."""
    updates = 150 if name == "ppo_cartpole" else 800
    return [
        *SMALL[name],
        *("launch=ray", "launch.workers=2", "checkpoint.every_updates=20", "evaluation.every_updates=20"),
        f"budget.updates={updates}",
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of two workers that nothing happens to; trained when it is first asked for."""

    @functools.cache
    def trained(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name) / "run"
        run(long(name), folder)
        return folder

    return trained


def assert_alike(alone: Sequence[dict[str, Any]], together: Sequence[dict[str, Any]]) -> None:
    """The same rows, to the tolerance of float sums in another order."""
    for one, two in zip(alone, together, strict=True):
        assert one.keys() == two.keys()
        assert all(one[k] == pytest.approx(two[k], rel=2e-4, abs=2e-5) for k in one), (one, two)


def test_two_workers_with_half_of_each_batch_learn_what_one_learns(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert finish(SMALL["vae_digits"], alone) == 0
    result = run([*SMALL["vae_digits"], "launch=ray", "launch.workers=2"], together)
    assert result["updates"] == 10
    assert_alike(rows(alone), rows(together))
    first, second = states(together)
    (single,) = states(alone)
    assert first["learner"]["model"].keys() == single["learner"]["model"].keys()
    for key, weight in single["learner"]["model"].items():
        torch.testing.assert_close(first["learner"]["model"][key], weight, rtol=1e-3, atol=1e-5)
        assert torch.equal(first["learner"]["model"][key], second["learner"]["model"][key])


def test_two_workers_of_a_classifier_go_the_way_of_one(undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    assert finish([*SMALL["mlp_digits"], "evaluation.every_updates=20", "budget.updates=20"], tmp_path / "alone") == 0
    alone, together = rows(tmp_path / "alone"), rows(undisturbed("mlp_digits"))
    assert "eval/loss" in alone[19]
    assert_alike(alone[:20], together[:20])
    first, second = (state["learner"]["model"] for state in states(undisturbed("mlp_digits")))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_ppo_workers_collect_differently_and_learn_the_same(tmp_path: Path) -> None:
    result = run([*SMALL["ppo_cartpole"], "launch=ray", "launch.workers=2"], tmp_path / "run")
    first, second = (state["learner"] for state in states(tmp_path / "run"))
    assert result["counters"]["env_steps"] == first["collector"]["env_steps"] == 10 * 32 * 32
    assert all(torch.equal(first["net"][k], second["net"][k]) for k in first["net"])
    assert str(first["collector"]["envs"]) != str(second["collector"]["envs"])


@pytest.mark.parametrize(
    "name",
    [
        "mlp_digits",
        pytest.param("vae_digits", marks=pytest.mark.slow),
        pytest.param("ppo_cartpole", marks=pytest.mark.slow),
    ],
)
def test_a_lost_worker_and_a_stopped_driver_end_with_the_same_bits(
    name: str, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    """A worker dies of SIGKILL and is replaced; then SIGTERM to the driver writes a checkpoint; then it is resumed."""
    folder = tmp_path / "hurt"
    with driver(long(name), folder) as process:
        wait_for(process, lambda: len(checkpoints(folder)) >= 2)
        first, second = workers(tmp_path)
        max(first, second, key=lambda p: p.pid).send_signal(signal.SIGKILL)
        assert process.stderr is not None
        stderr = ""
        while "resuming from step-" not in stderr:
            line = process.stderr.readline()
            assert line, stderr
            stderr += line
        restarted_at = stderr.split()[-1]
        wait_for(process, lambda: max(checkpoints(folder)) > restarted_at)
        process.send_signal(signal.SIGTERM)
        stderr += process.stderr.read()
        process.wait(timeout=100)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    newest = max(checkpoints(folder))
    assert stderr.strip().splitlines()[-1] == f"trivium: stopped by signal 15; trivium resume continues from {newest}"

    resumed = run([], folder)
    psutil.wait_procs(workers(tmp_path), timeout=20)
    assert not workers(tmp_path)
    assert f"resuming from {newest}" in resumed["stderr"]
    whole = undisturbed(name)
    assert_same_bits(folder, whole)
    steps = [row["step"] for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert resumed["metrics"].keys() == json.loads((whole / "result.json").read_text())["metrics"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True], ids=["to its group", "to Ray's processes too"])
def test_a_signal_to_more_than_the_driver_ends_the_run_as_one_to_the_driver(
    everything: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Ray that was started for the run is not in the driver's group. Who signals it none the less, as a job's
    manager may, leaves no worker that could write a checkpoint: the last one has to do."""
    monkeypatch.delenv("RAY_ADDRESS")
    folder = tmp_path / "run"
    with driver([*long("mlp_digits"), "budget.updates=1000000"], folder, start_new_session=True) as process:
        wait_for(process, lambda: len(checkpoints(folder)) >= 2)
        before = max(checkpoints(folder))
        of_ray = psutil.Process(process.pid).children(recursive=True)
        niceness = {}
        for each in of_ray:
            with contextlib.suppress(psutil.NoSuchProcess):  # of a moment
                niceness[each.pid, " ".join(each.cmdline())] = each.nice()
        actors = {(pid, name): nice for (pid, name), nice in niceness.items() if name.startswith("ray::")}
        assert sum("ray::Worker" in name for _, name in actors) == 2
        assert set(actors.values()) == {os.nice(0)}
        if everything:
            for each in of_ray:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.terminate()
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    newest = max(checkpoints(folder))
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-1] == f"trivium: stopped by signal 15; trivium resume continues from {newest}"
    assert everything or newest > before


@pytest.mark.slow
def test_a_signal_while_ray_starts_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    with driver(long("mlp_digits"), tmp_path / "run") as process:
        started = psutil.Process(process.pid)
        wait_for(process, lambda: any(each.name() == "gcs_server" for each in started.children()))
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-1].endswith("stopped by signal 15; trivium resume continues from the beginning")


SLOW_MODEL = """
import math, pathlib, time
from torch import nn

class Slow(nn.Module):
    def __init__(self, *, input_shape, num_outputs):
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_outputs)

    def forward(self, x):
        if self.training:
            pathlib.Path("updating").touch()
            time.sleep(15)
        return self.layer(x.flatten(1))
"""


@pytest.mark.slow
def test_a_signal_waits_for_the_checkpoint_after_a_slow_update(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "slow_model.py").write_text(SLOW_MODEL)
    (tmp_path / "mine" / "model" / "slow.yaml").write_text("_target_: slow_model.Slow\n_partial_: true\n")
    overrides = ["--config-dir", "mine", "experiment=mlp_digits", "model=slow", "launch=ray", "launch.workers=2"]
    with driver([*overrides, *EXACT], folder, cwd=tmp_path) as process:
        wait_for(process, (tmp_path / "updating").exists)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 143, stderr
    assert len(checkpoints(folder)) == 1, stderr
    assert stderr.strip().splitlines()[-1].endswith(f"trivium resume continues from {checkpoints(folder)[0]}")


@pytest.mark.slow
def test_a_cluster_that_is_too_small_is_told_and_waited_for_until_a_signal_comes(tmp_path: Path) -> None:
    overrides = [*long("mlp_digits"), "launch.cpus_per_worker=3"]
    with driver(overrides, tmp_path / "run") as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if "CPUs" in line)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert told == "the cluster has 4 of the 6 CPUs for 2 workers: waiting for the others\n"
    assert process.returncode == 143, stderr


def checkpoints(folder: Path) -> list[str]:
    return [path.name for path in (folder / "checkpoints").glob("step-*")]


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()


def driver(
    overrides: Sequence[str], folder: Path, *, cwd: Path | None = None, start_new_session: bool = False
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(overrides, folder),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def workers(cwd: Path) -> list[psutil.Process]:
    """Of the run that was started in `cwd`: not those that an earlier run may have left to end, nor what they fork."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            its_own = process.info["cwd"] == str(cwd) and "ray::Worker" in " ".join(process.info["cmdline"] or [])
            if its_own and psutil.Process(process.ppid()).name() == "raylet":
                found.append(process)
    return found


def test_workers_errors_reach_the_user_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = [*SMALL["mlp_digits"], "learner.accumulate=7", "launch=ray", "launch.workers=2"]
    done = subprocess.run(command(overrides, folder), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("trivium: error")]
    assert "accumulate=7" in error
    assert not folder.exists()


def test_what_workers_print_and_log_reaches_the_driver_with_their_rank() -> None:
    said: list[str] = []
    with ray_worker.printing_to(said.append, rank=1):
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


FAULTY_MODEL = """
import math
from torch import nn

class Faulty(nn.Module):
    def __init__(self, *, input_shape, num_outputs):
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_outputs)

    def forward(self, x):
        print("the last words")
        raise RuntimeError("no such luck")
"""


def test_workers_that_fail_again_are_given_up(tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "faulty_model.py").write_text(FAULTY_MODEL)
    (tmp_path / "mine" / "model" / "faulty.yaml").write_text("_target_: faulty_model.Faulty\n_partial_: true\n")
    overrides = ["--config-dir", "mine", "experiment=mlp_digits", "model=faulty", "launch=ray", "launch.workers=2"]
    with driver([*overrides, *EXACT, "launch.max_failures=1"], tmp_path / "run", cwd=tmp_path) as process:
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 1, stderr
    assert stderr.count("RuntimeError: no such luck: the workers start again (1 of at most 1 times)\n") == 1
    assert stderr.count("] the last words\n") >= 2  # of who failed first, each time
    assert "RuntimeError: no such luck, more often than launch.max_failures=1; the last checkpoint is" in stderr


class Worker:
    """A handle of a `ray_worker.Worker` that is no process but threads, and what of `ray` asks it."""

    def __init__(self, node: str, trained: Callable[[Worker], Any]) -> None:
        self.said, self.node, self.signals, self.rank = ray_worker.News(), node, list[int](), -1
        self._trained, self._threads = trained, ThreadPoolExecutor()

    def __getattr__(self, method: str) -> Any:
        return types.SimpleNamespace(remote=lambda *a: self._threads.submit(getattr(self, f"_{method}"), *a))

    def _where(self) -> tuple[str, str]:
        return self.node, f"host of {self.node}"

    def _open_store(self, host: str, world_size: int) -> int:
        return len(host) + world_size

    def _train(self, task: Task, cwd: str, place: ray_worker.Place) -> Any:
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
            raise ray_driver.GetTimeoutError from None

    def wait(promised: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None) -> tuple[list[Any], Any]:
        concurrent.futures.wait(promised, timeout, FIRST_COMPLETED if num_returns == 1 else ALL_COMPLETED)
        return [each for each in promised if each.done()][:num_returns], None

    monkeypatch.setattr(ray_driver, "ray", types.SimpleNamespace(get=get, wait=wait, nodes=lambda: [{"Alive": True}]))


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
        assert ray_driver.Group(TASK, group, Display(), lambda: None).train() is outcome
        said = capsys.readouterr().err.splitlines()
        for rank in (0, 1):
            of_one = [f"first of {rank}", f"second of {rank}", f"last of {rank}"]
            assert [line for line in said if line in of_one] == of_one


@pytest.mark.usefixtures("threads_for_ray")
def test_ranks_on_one_node_follow_each_other_and_all_know_the_first_ones_store() -> None:
    group = [Worker(node, lambda worker: "outcome") for node in "babca"]
    ray_driver.Group(TASK, group, Display(), lambda: None).train()
    host = "host of b"
    assert [w.place for w in group] == [
        ray_worker.Place(rank, 5, here, host, len(host) + 5) for rank, here in ((0, 2), (2, 2), (1, 2), (4, 1), (3, 2))
    ]


@pytest.mark.usefixtures("threads_for_ray")
def test_a_fault_of_any_worker_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    fault = TypeError("of the program")
    group = [Worker("a", lambda worker: fault if worker.rank else stuck.wait(60)) for _ in range(2)]
    monkeypatch.setattr(ray_driver, "LEAVE_S", 0.1)
    with pytest.raises(TypeError, match="of the program"):
        ray_driver.Group(TASK, group, Display(), lambda: None).train()
    stuck.set()


@pytest.mark.usefixtures("threads_for_ray")
def test_the_first_worker_may_take_its_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def trained(worker: Worker) -> Any:
        if worker.rank == 0:
            time.sleep(0.3)  # W&B's and a bucket's last files
            ended.set()
        return Interrupted(15, f"said by {worker.rank}")

    monkeypatch.setattr(ray_driver, "LEAVE_S", 0.1)
    with pytest.raises(Interrupted, match="said by 0"):
        ray_driver.Group(TASK, [Worker("a", trained), Worker("a", trained)], Display(), lambda: None).train()
    assert ended.is_set()


@pytest.mark.usefixtures("threads_for_ray")
def test_of_a_lost_worker_and_what_follows_from_it_the_loss_is_told() -> None:
    def trained(worker: Worker) -> Any:
        if worker.rank:
            time.sleep(0.2)
            raise ActorDiedError
        raise RayTaskError("train", "Traceback\nRuntimeError: connection closed by peer", "cause")

    with pytest.raises(ActorDiedError):
        ray_driver.Group(TASK, [Worker("a", trained), Worker("a", trained)], Display(), lambda: None).train()


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
    assert ray_driver._reason(error) == reason


CALLER = """
import pathlib, ray, trivium
ray.init()
print(trivium.train(*{overrides}, dir=pathlib.Path({folder!r})).updates)
states = [group["state"] for group in ray.util.placement_group_table().values()]
assert set(states[-1:]) == {{"REMOVED"}}, states
"""


def test_a_ray_of_the_callers_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    script = CALLER.format(overrides=[*SMALL["mlp_digits"], "launch=ray"], folder=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "10"


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
    monkeypatch.setattr(ray_driver, "LOOK_S", 0.01)
    monkeypatch.setattr(ray_driver, "UNHEARD_S", 0.1)
    with pytest.raises(Interrupted, match="step-1"):
        ray_driver.Group(TASK, group, Display(quiet=True), lambda: 15 if trains.is_set() else None).train()
    assert [worker.signals for worker in sorted(group, key=lambda w: w.rank)] == [[15], []]


@pytest.mark.usefixtures("threads_for_ray")
def test_a_worker_that_does_not_hear_a_signal_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()

    class Deaf(Worker):
        def _stop(self, signal: int) -> None:
            stuck.wait(60)

    group = [Deaf("a", lambda worker: stuck.wait(60))]
    monkeypatch.setattr(ray_driver, "UNHEARD_S", 0.1)
    with pytest.raises(ray_driver.Unheard):
        ray_driver.Group(Task(compose([]), tmp_path), group, Display(quiet=True), lambda: 15).train()
    stuck.set()


def test_a_worker_ends_with_the_raylet_that_began_it() -> None:
    reads, writes = os.pipe()
    if not (parent := os.fork()):
        if not os.fork():
            threading.Thread(target=ray_worker._end_with_parent).start()
            time.sleep(60)
        time.sleep(0.5)
        os._exit(0)
    os.close(writes)
    assert os.waitpid(parent, 0)[1] == 0
    began = time.monotonic()
    assert os.read(reads, 1) == b""  # no writer is left
    assert time.monotonic() - began < 10
    os.close(reads)


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    overrides = [*SMALL["mlp_digits"], "launch=ray"]
    done = subprocess.run(command(overrides, tmp_path / "run"), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "trivium: error: RAY_ADDRESS=127.0.0.1:1: no Ray answers there" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_gpus_that_are_not_there_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    overrides = [*SMALL["mlp_digits"], "launch=ray", "launch.gpus_per_worker=1"]
    done = subprocess.run(command(overrides, tmp_path / "run"), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "launch.gpus_per_worker=1: 2 workers need 2 GPUs, here are 0" in done.stderr
    assert not (tmp_path / "run").exists()


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
    assert ray_driver._gpus_per_worker(config, Display(said)) == gpus
    assert said.getvalue() == ("" if gpus <= there / 2 else "the cluster has 1 of 2 GPUs: waiting for the others\n")


@pytest.mark.parametrize(("gpu", "device", "backend"), [(False, "cpu", "gloo"), (True, "cuda", "nccl")])
def test_a_worker_without_a_gpu_of_its_own_leaves_those_it_sees_alone(
    gpu: bool, device: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Run] = []
    backends: list[str] = []
    for name in ("WANDB_MODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(ray_worker, "_end_with_parent", lambda: None)
    monkeypatch.setattr(ray_worker.ray, "get_gpu_ids", lambda: [3])
    monkeypatch.setattr(ray_worker.dist, "init_process_group", lambda name, **_: backends.append(name))
    monkeypatch.setattr(ray_worker.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(ray_worker, "_make_learner", lambda task, run: None)
    monkeypatch.setattr(worker, "work", lambda task, run, learner, **_: runs.append(run))
    one = ray_worker.Worker.__ray_metadata__.modified_class({"WANDB_MODE": "offline"}, gpu=gpu)
    assert (os.environ["WANDB_MODE"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("offline", "3" if gpu else "")
    port = one.open_store("localhost", 1)
    one.train(Task(compose([]), tmp_path), str(tmp_path), ray_worker.Place(0, 1, 1, "localhost", port))
    assert ([str(run.device) for run in runs], backends) == ([device], [backend])
