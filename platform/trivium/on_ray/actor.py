"""One worker of a run on Ray: an actor that trains as one rank, and lets the driver know what it has to say."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its types do not say so

from trivium import borrowed
from trivium.checkpoints.folder import CheckpointError
from trivium.config.errors import ConfigError
from trivium.learner import Learner, Run
from trivium.parallel import shared_sum
from trivium.run_folder import environment, folder
from trivium.run_folder.task import Outcome, Task
from trivium.tracking.progress import Status
from trivium.training import worker
from trivium.training.ends import failure
from trivium.training.loop import Interrupted, NonFiniteLoss

log = logging.getLogger("trivium")

COLLECTIVE = (ConfigError, NonFiniteLoss, CheckpointError, Interrupted)  # raised on all ranks alike, and final
PASSING = (dist.DistError, torch.AcceleratorError, ConnectionError, TimeoutError)
OF_THE_DISK = (errno.EIO, errno.ESTALE)  # a network's
TIMEOUT = timedelta(minutes=30)  # of the others; a lost one is found by Ray


@dataclass(frozen=True)
class Place:
    """Where a worker stands in its group.

    Attributes:
        rank, world_size: see `trivium.learner.Run`.
        workers_here: how many of the group stand on the same machine, this one included.
        host, port: of the store through which the workers find each other, which rank 0 keeps.
    """

    rank: int
    world_size: int
    workers_here: int
    host: str
    port: int


class News:
    """What a worker has to say, until somebody takes it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._status: Status | None = None
        self._sentences: list[str] = []
        self._over = False

    def show(self, status: Status) -> None:
        with self._changed:
            self._status = status
            self._changed.notify_all()

    def say(self, sentence: str) -> None:
        with self._changed:
            self._sentences.append(sentence)
            self._changed.notify_all()

    def end(self) -> None:
        """There will be no more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def take(self) -> tuple[Status | None, list[str]]:
        """The last status and the sentences since the last time, once there are some; nothing after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._status or self._sentences or self._over)
            taken = self._status, self._sentences
            self._status, self._sentences = None, []
            return taken


@ray.remote(concurrency_groups={"talk": 2})  # type: ignore[call-overload]  # its types know no groups
class Worker:
    """A process of Ray's, which trains in one thread and talks to the driver in two others.

    Args:
        environment: variables that it takes over from the driver.
        gpu: whether Ray has given it one.
    """

    def __init__(self, environment: Mapping[str, str], *, gpu: bool) -> None:
        os.environ.update(environment)
        threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
        self._gpu = gpu
        if gpu:  # as Ray does, unless it is told not to
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, ray.get_gpu_ids()))
        self._news = News()
        self._signal = 0
        self._store: TCPStore | None = None

    def where(self) -> tuple[str, str]:
        """The id of its node, and that one's address."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def open_store(self, host: str, world_size: int) -> int:
        """Keep the group's store; its port."""
        self._store = TCPStore(host, 0, world_size, is_master=True, timeout=TIMEOUT, wait_for_workers=False)
        return int(self._store.port)

    @ray.method(concurrency_group="talk")
    def news(self) -> tuple[Status | None, list[str]]:
        """See `News.take`."""
        return self._news.take()

    @ray.method(concurrency_group="talk")
    def stop(self, signal: int) -> None:
        """Write a checkpoint after this update, and end."""
        self._signal = signal

    def train(self, task: Task, cwd: str, place: Place) -> Outcome | Exception:
        """How it ended, if that is final; otherwise, as when another worker was lost, it raises."""
        with contextlib.suppress(OSError):  # on another node there may be no such folder
            os.chdir(cwd)  # paths in the config are relative to where the user stands
        try:
            with printing_to(self._news.say, place.rank), _marked(place.rank):
                return self._train(task, place)
        except COLLECTIVE as error:
            return error
        except Exception as error:
            if may_pass(error):
                raise
            error.add_note(f"on rank {place.rank}:\n{''.join(traceback.format_exception(error))}")
            return _picklable(error)
        finally:
            self._news.end()

    def _train(self, task: Task, place: Place) -> Outcome:
        # Not left to the config: who has no GPU of its own sees all of the machine's, the others only theirs.
        device = torch.device("cuda" if self._gpu else "cpu")
        with (
            borrowed.process(task.config, device),
            _process_group(place, self._store, "nccl" if self._gpu else "gloo"),
        ):
            run = worker.make_run(task.config, task.dir, device=device, rank=place.rank, world_size=place.world_size)
            if not self._gpu and 1 < place.world_size == place.workers_here:
                shared_sum.join(run.rank, run.world_size)
            return worker.work(
                task,
                run,
                _make_learner(task, run),
                resume=True,  # from nothing the first time, from the last checkpoint after a worker was lost
                show=self._news.show,
                say=self._news.say,
                stop_requested=lambda: self._signal if run.rank == 0 else None,
                most_threads=max(1, environment.cores() // place.workers_here),
                keep=lambda config: folder.write_config(task.dir, config),
            )


@contextlib.contextmanager
def _marked(rank: int) -> Iterator[None]:
    """What is raised within says where, also to the driver, which gets it without its traceback."""
    try:
        yield
    except Exception as error:
        failure.mark(error, rank=rank)
        raise


def may_pass(error: Exception) -> bool:
    """Whether it is what a lost peer, network or GPU looks like: then a group that is formed again may go on. Anything
    else is a fault of the program, and would come again."""
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return True
    of_gloo = type(error) is RuntimeError and "gloo/" in str(error)  # it has no class of errors of its own
    return of_gloo or isinstance(error, PASSING)


def _end_with_parent() -> None:
    """A worker whose raylet is gone, in whose place the driver starts another, must write no more checkpoints. Ray asks
    such an orphan to end, but waits until it has trained."""
    parent = os.getppid()
    raylet = int(os.environ.get("RAY_RAYLET_PID", parent))  # not the parent where Ray starts workers through a wrapper
    try:
        while os.getppid() == parent:
            os.kill(raylet, 0)  # only asks whether it is there
            time.sleep(1.0)
    except ProcessLookupError:
        pass
    os._exit(1)


@contextlib.contextmanager
def _process_group(place: Place, store: TCPStore | None, backend: str) -> Iterator[None]:
    """torch.distributed's, of all workers."""
    if store is None:
        store = TCPStore(place.host, place.port, place.world_size, is_master=False, timeout=TIMEOUT)
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it would wait for who is lost


def _make_learner(task: Task, run: Run) -> Learner:
    """The learner; if one worker can't make it, all raise the same error."""
    learner, problem = None, ""
    try:
        learner = worker.make_learner(task, run)
    except ConfigError as error:
        problem = "\n".join(error.errors)
    problems: list[Any] = [problem]
    if run.world_size > 1:
        problems = [None] * run.world_size
        dist.all_gather_object(problems, problem)
    told = next(filter(None, problems), None)
    if told:
        raise ConfigError(told.split("\n"))
    assert learner is not None
    return learner


@contextlib.contextmanager
def printing_to(say: Callable[[str], None], rank: int) -> Iterator[None]:
    """Let the user see what this worker prints and logs, line by line, with the rank before it."""

    class Lines(io.TextIOBase):
        waiting = ""

        def write(self, text: str) -> int:
            *lines, self.waiting = (self.waiting + text).split("\n")
            for line in lines:
                say(f"[rank {rank}] {line}")
            return len(text)

    lines = Lines()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("trivium: %(message)s"))
    log.addHandler(handler)
    try:
        with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
            yield
    finally:
        log.removeHandler(handler)
        if lines.waiting:
            lines.write("\n")


def _picklable(error: Exception) -> Exception:
    if not isinstance(error, ray.exceptions.RayError):  # of an actor of the learner's; returned it would be raised
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    other = RuntimeError(f"{type(error).__name__}: {error}")
    other.__notes__ = error.__notes__
    failure.pass_on(error, other)
    return other
