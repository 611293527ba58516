"""A run on Ray's actors: the same worker function as inline, once on each.

Ray places the workers and finds those that are lost; then all are ended, and others go on from the newest of our own
verified checkpoints. That makes it exact: state and metrics.jsonl are cut back to the checkpoint, and the steps in
between are made again. Ray Train, which does as much, takes three actors more: each awakes a hundred times a second,
and two workers on two cores stand still whenever anything else runs (`benchmarks/README.md`).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from trivium.checkpoints.folder import Checkpoints
from trivium.learner import Run
from trivium.on_ray import cluster
from trivium.on_ray.actor import COLLECTIVE, Place, Worker
from trivium.on_ray.cluster import WorkersLost
from trivium.run_folder import lock
from trivium.run_folder.task import Outcome, Task
from trivium.tracking.progress import Display
from trivium.training import signals
from trivium.training.loop import Interrupted

LOOK_S = 0.5  # how often the driver looks whether a signal came
UNHEARD_S = 5.0  # how long a signal may go unheard by a worker, then the last checkpoint has to do
LEAVE_S = 5.0  # how long the other workers may take to end once it is known how the run did
DEATH_S = 1.0  # how much later than its consequence Ray may find that a worker is lost
GONE_S = 10.0  # how long workers may outlive their end; Ray, asked to end itself, takes so long


def run(task: Task, *, resume: bool, display: Display) -> Outcome:
    """Train on Ray's workers, until the end; the driver only shows, and passes the signal to stop on.

    Raises:
        ConfigError: the machine has not got what the run asks for, or the workers can't build the learner.
        NonFiniteLoss, CheckpointError, Interrupted: from the workers.
        WorkersLost: workers were lost more often than `launch.max_failures`, fail alike, or Ray is lost.
    """
    try:
        return _run(task, resume=resume, display=display)
    except SystemExit:  # by Ray's own handler of SIGTERM, which stands while Ray starts
        raise Interrupted(signal.SIGTERM, _newest(task)) from None


def _run(task: Task, *, resume: bool, display: Display) -> Outcome:
    launch = task.config["launch"]
    workers, cpus = launch["workers"], launch["cpus_per_worker"]
    lasting = ray.is_initialized()  # by who called us; else what this run has of Ray's ends with its leaving
    with (
        signals.listen() as asked,  # before Ray starts, which takes seconds
        cluster.joined(math.ceil(workers * cpus), import_from_here=bool(task.trusted)),
    ):
        gpus = _gpus_per_worker(task.config, display)
        verb = "resuming" if resume else "training"
        display.say(f"{verb} {task.config['name']} in {task.dir} on {workers} workers")
        bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        places = placement_group([bundle] * workers)
        try:
            return _train(task, places, display, asked)
        finally:
            if lasting:
                remove_placement_group(places)


def _train(task: Task, places: PlacementGroup, display: Display, asked: Callable[[], int | None]) -> Outcome:
    """By one group of workers after another, as long as workers are lost."""
    failures, most, before = 0, task.config["launch"]["max_failures"], ""
    while True:
        try:
            workers = _place(task, places)
            try:
                return Group(task, workers, display, asked).train()
            finally:
                _end(workers, task)
        except (RayError, RayLost, Unheard) as error:
            display.close()
            if number := asked():
                raise Interrupted(number, _newest(task)) from error
            failures += 1
            reason, last = _reason(error), f"the last checkpoint is {_newest(task)}"
            if part := cluster.lost() or (error.part if isinstance(error, RayLost) else ""):
                raise WorkersLost(_ended(part, task)) from error
            if getattr(error, "actor_init_failed", False):
                raise WorkersLost(f"no worker can be started: {reason}; {last}") from error
            if (raised := _raised(error)) and raised == before:
                raise WorkersLost(f"{raised}, as the last time; {last}") from error
            if failures > most:
                raise WorkersLost(f"{reason}, more often than launch.max_failures={most}; {last}") from error
            before = raised
            display.say(f"{reason}: the workers start again ({failures} of at most {most} times)")


def _place(task: Task, places: PlacementGroup) -> list[Any]:
    """A worker in each of the places, as soon as Ray has them."""
    gpus, environment = places.bundle_specs[0].get("GPU", 0), _worker_environment()
    return [
        Worker.options(  # type: ignore[attr-defined]  # made by ray.remote
            num_cpus=task.config["launch"]["cpus_per_worker"],
            num_gpus=gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(places, bundle),
        ).remote(environment, gpu=bool(gpus))
        for bundle in range(places.bundle_count)
    ]


def _end(workers: Sequence[Any], task: Task) -> None:
    """End the workers, whatever they are doing, and wait until none holds the run folder, where that can be seen."""
    if cluster.lost():
        cluster.kill()
    else:
        for each in workers:
            with contextlib.suppress(RayError):
                ray.kill(each)
    until = time.monotonic() + GONE_S
    while lock.is_held(task.dir, lock.RANK_0) and time.monotonic() < until:
        time.sleep(0.05)


class Unheard(Exception):
    """No worker is there, or none that listens, to write a checkpoint because a signal came."""


class RayLost(Exception):
    """A part has ended without which Ray is none, nor are its workers.

    Args:
        part: its name.
    """

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.part = part


class Group:
    """The workers of a run, from when they are asked for until they have ended or one is lost.

    Args:
        workers: handles of `Worker`; they get their ranks here.
        asked: for the signal to stop.
    """

    def __init__(self, task: Task, workers: Sequence[Any], display: Display, asked: Callable[[], int | None]) -> None:
        self._task, self._display, self._asked = task, display, asked
        self._workers = list(workers)
        self._trained: dict[Any, int] = {}  # what Ray promises, and the rank that it is of
        self._news: dict[Any, int] = {}
        self._told: Any = None  # the first worker, that a signal came
        self._told_at = 0.0

    def train(self) -> Outcome:
        """Wait for the workers, showing what they say and passing on what the user asks.

        Raises:
            RayError: a worker is lost, or raised what the loss of another looks like.
            Unheard: a signal came, of which the workers don't know.
            Others: see `run`.
        """
        places = self._meet()
        for rank, (worker, place) in enumerate(zip(self._workers, places, strict=True)):
            self._trained[worker.train.remote(self._task, os.getcwd(), place)] = rank
            self._news[worker.news.remote()] = rank
        try:
            answer = self._answer()
            self._wait_for_others(LEAVE_S)
        finally:
            self._show_the_rest()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _meet(self) -> list[Place]:
        """Wait until all workers are there, and give them their ranks."""
        where = self._wait([worker.where.remote() for worker in self._workers])
        order = rank_order([node for node, _ in where])
        self._workers, where = [self._workers[i] for i in order], [where[i] for i in order]
        on_node, (_, host) = Counter(node for node, _ in where), where[0]
        port = self._wait(self._workers[0].open_store.remote(host, len(where)))
        return [Place(rank, len(where), on_node[node], host, port) for rank, (node, _) in enumerate(where)]

    def _wait(self, promised: Any) -> Any:
        """For something before training, which a signal may end at any time."""
        while True:
            try:
                return ray.get(promised, timeout=LOOK_S)
            except GetTimeoutError:
                if self._asked():
                    raise Unheard from None
                self._look_after_ray()
                if not any(node["Alive"] for node in ray.nodes()):
                    raise RayLost("last node") from None

    def _answer(self) -> Outcome | Exception:
        """How it ended: what the first worker says, or another of a fault that the first can't know."""
        while True:
            ready, _ = ray.wait([*self._trained, *self._news], timeout=LOOK_S)
            for promised in ready:
                if promised in self._news:
                    self._show(promised)
                    continue
                rank = self._trained.pop(promised)
                try:
                    answer: Outcome | Exception = ray.get(promised)
                except RayTaskError:
                    if fault := self._fault_of_others():
                        return fault
                    raise
                if rank == 0 or (isinstance(answer, Exception) and not isinstance(answer, COLLECTIVE)):
                    return answer
            self._pass_on(self._asked())
            self._look_after_ray()

    def _look_after_ray(self) -> None:
        """
        Raises:
            RayLost: the Ray that was started for the run has ended; of itself it would say so after a minute.
        """
        if part := cluster.lost():
            raise RayLost(part)

    def _fault_of_others(self) -> Exception | None:
        """Of the program, which may be why another worker has failed.

        Raises:
            RayActorError: another worker is lost.
        """
        fault = None
        for promised in self._wait_for_others(DEATH_S):
            try:
                answer = ray.get(promised)
            except RayTaskError:
                continue
            if isinstance(answer, Exception) and not isinstance(answer, COLLECTIVE):
                fault = answer
        return fault

    def _wait_for_others(self, timeout_s: float) -> list[Any]:
        """What those have promised that end within a time."""
        if not self._trained:
            return []
        ended: list[Any] = ray.wait([*self._trained], num_returns=len(self._trained), timeout=timeout_s)[0]
        for promised in ended:
            del self._trained[promised]
        return ended

    def _show(self, promised: Any) -> None:
        """News; and ask for more, unless there will be none."""
        rank = self._news.pop(promised)
        status, sentences = ray.get(promised)
        for sentence in sentences:
            self._display.say(sentence)
        if status:
            self._display.show(status)
        if status or sentences:
            self._news[self._workers[rank].news.remote()] = rank

    def _show_the_rest(self) -> None:
        """Of the workers that have ended."""
        until = time.monotonic() + LEAVE_S
        while ended := [each for each, rank in self._news.items() if rank not in self._trained.values()]:
            ready, _ = ray.wait(ended, timeout=max(0.0, until - time.monotonic()))
            if not ready:
                return
            with contextlib.suppress(RayError):
                self._show(ready[0])

    def _pass_on(self, number: int | None) -> None:
        """A signal, which the first worker tells the others."""
        if number and self._told is None:
            self._told, self._told_at = self._workers[0].stop.remote(number), time.monotonic()
            self._display.say("stopping: the workers write a checkpoint")
        elif number and time.monotonic() > self._told_at + UNHEARD_S and not ray.wait([self._told], timeout=0)[0]:
            raise Unheard


def rank_order(nodes: Sequence[str]) -> list[int]:
    """Which worker has rank 0, which 1, ...: those on one node have ranks in a row.

    Example:
        b a b c a -> 0 2 1 4 3
    """
    first = {node: index for index, node in reversed(list(enumerate(nodes)))}
    return sorted(range(len(nodes)), key=lambda index: first[nodes[index]])


def _ended(part: str, task: Task) -> str:
    return f"the run's Ray is lost, its {part} has ended; trivium resume continues from {_newest(task)}"


def _newest(task: Task) -> str:
    names = Checkpoints(task.checkpoints_place, Run()).names()
    return names[-1] if names else "the beginning"


def _gpus_per_worker(config: dict[str, Any], display: Display) -> int:
    """0 or 1; `auto` is what `device` says, and if that is `auto` too, what the cluster has."""
    launch, resources = config["launch"], ray.cluster_resources()
    workers, need = launch["workers"], launch["workers"] * launch["cpus_per_worker"]
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    if sys.platform == "darwin":  # Ray counts Apple's GPU, of which NCCL knows nothing
        gpus = 0
    if cpus < need:
        display.say(f"the cluster has {cpus:g} of the {need:g} CPUs for {workers} workers: waiting for the others")
    asked = launch["gpus_per_worker"]
    if asked == "auto":
        asked = {"cpu": 0, "auto": int(gpus >= workers)}.get(config["device"], 1)
    if asked and gpus < workers:
        display.say(f"the cluster has {gpus:g} of {workers} GPUs: waiting for the others")
    return int(asked)


def _worker_environment() -> dict[str, str]:
    """What workers need of the driver's environment; no secret, which stays where it is."""
    told = ("MODE", "BASE_URL", "ENTITY", "PROJECT", "NAME", "RUN_ID", "RUN_GROUP", "JOB_TYPE", "TAGS", "NOTES", "DIR")
    return {name: os.environ[name] for name in (f"WANDB_{what}" for what in told) if name in os.environ}


def _reason(error: Exception) -> str:
    """Why a group could not go on: the last line of a worker's traceback, or the first sentence of what Ray says of its
    end, without the actor's particulars."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False):
        return [line for line in lines if line not in _notes(error)][-1]
    said = [line for line in lines if line != ActorDiedError.BASE_ERROR_MSG and not re.fullmatch(r"\w+:( \S+)?", line)]
    return [*said, *lines][0].split(". ")[0].rstrip(".")


def _raised(error: Exception) -> str:
    """What a worker has raised and after how many updates; nothing if it was lost."""
    return ", ".join([_reason(error), *_notes(error)]) if isinstance(error, RayTaskError) else ""


def _notes(error: Exception) -> list[str]:
    """Of the loop, see there, on what a worker has raised."""
    notes: list[str] = getattr(getattr(error, "cause", None), "__notes__", [])
    return notes
