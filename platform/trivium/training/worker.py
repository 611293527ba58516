"""What one worker of a run does: seeds, threads, build the learner, train it from the start or its last checkpoint.

The same for the one worker that runs inline and for each of many on Ray.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trivium import borrowed, declared
from trivium.boundary import credentials, strict_json, untrusted
from trivium.boundary.untrusted import count, require
from trivium.checkpoints.folder import Checkpoints
from trivium.checkpoints.kept_files import KeptFiles
from trivium.checkpoints.storage import Bucket
from trivium.config.checking import check_metrics
from trivium.config.errors import Config, ConfigError, Found, refuse
from trivium.learner import Learner, Run
from trivium.run_folder import environment, lock
from trivium.run_folder.task import Outcome, Task
from trivium.tracking.progress import Status
from trivium.tracking.tracker import RunTracker, Sink, TensorBoard, Tracker
from trivium.training import threads
from trivium.training.budget import Budget
from trivium.training.builder import build_learner
from trivium.training.loop import Loop

log = logging.getLogger("trivium")


def make_run(
    config: Config, dir: Path | None, *, device: torch.device | None = None, rank: int = 0, world_size: int = 1
) -> Run:
    """The `Run` that a config describes, for one worker."""
    return Run(
        device=device or device_of(config),
        rank=rank,
        world_size=world_size,
        seed=config["seed"],
        precision=config["precision"],
        compile=config["compile"] is True,
        dir=dir,
    )


def make_learner(task: Task, run: Run) -> Learner:
    """Seed everything and build the learner: the same weights on every rank, then randomness of each rank's own."""
    borrowed.seed(run.seed, run.device)
    learner = build_learner(task.config, run, trusted=task.trusted)
    try:
        declared.check(learner)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    _check_metrics(task.config, learner)
    if run.rank:
        borrowed.seed(run.seed_for("rank", run.rank) % 2**32, run.device)
    return learner


def _check_metrics(config: Config, learner: Learner) -> None:
    """As when the config was composed, for what could not be read from the learner's source.

    Raises:
        ConfigError: see `trivium.config.checking.check_metrics`.
    """
    found = Found()
    check_metrics(config, getattr(learner, "evaluates", None), found)
    refuse(found)


def work(
    task: Task,
    run: Run,
    learner: Learner,
    *,
    resume: bool,
    show: Callable[[Status], None],
    say: Callable[[str], None],
    stop_requested: Callable[[], int | None],
    most_threads: int,
    keep: Callable[[Config], None],
) -> Outcome:
    """Train as one worker; all workers of the run call it.

    Args:
        resume: continue from the newest sound checkpoint, or from the start if there is none.
        show, say: let the user see a status, a sentence; called on rank 0.
        stop_requested: see `trivium.training.loop.Loop`.
        most_threads: how many of this machine's cores are this worker's.
        keep: writes the config into the run folder, once it says how many threads `auto` has come to; called on rank 0.
    """
    with contextlib.ExitStack() as closing:
        held = closing.enter_context(lock.alone_in(task.dir, lock.RANK_0)) if run.rank == 0 else None
        closing.callback(getattr(learner, "close", lambda: None))
        return _work(
            task,
            run,
            learner,
            held,
            resume=resume,
            show=show,
            say=say,
            stop_requested=stop_requested,
            most_threads=most_threads,
            keep=keep,
        )


def _work(
    task: Task,
    run: Run,
    learner: Learner,
    held: lock.Held | None,
    *,
    resume: bool,
    show: Callable[[Status], None],
    say: Callable[[str], None],
    stop_requested: Callable[[], int | None],
    most_threads: int,
    keep: Callable[[Config], None],
) -> Outcome:
    checkpoints = Checkpoints(task.checkpoints_place, run, keep=task.config["checkpoint"]["keep"])
    loop = Loop(
        learner,
        run,
        task.config,
        checkpoints,
        Tracker(),
        stop_requested=stop_requested,
        leaving=getattr(stop_requested, "leaving", contextlib.nullcontext),
    )
    state = None
    if resume:
        if run.rank == 0 and task.bucket:
            Bucket(task.bucket).pull(task.dir)
        state = checkpoints.load(into=functools.partial(take, loop), mend=True)
        if run.rank == 0 and (task.dir / "metrics.jsonl").exists():
            if state:
                say(f"resuming from {state['checkpoint']}")
            else:
                log.warning("%s holds no checkpoint: the run starts from the beginning", task.checkpoints_place)
    tracker = _tracker(task, run, held, show, keep, resumed_step=_step(state)) if held else Tracker()
    loop.tracker = tracker
    failed = True
    try:
        if task.config["threads"] == "auto" and not state:
            _let_choose_threads(loop, most_threads)
        if state:
            loop.go_on(state)
        outcome = loop.train()
        failed = False
    finally:
        tracker.finish(failed=failed)
    return replace(outcome, lost=[*outcome.lost, *tracker.lost])


def _let_choose_threads(loop: Loop, most: int) -> None:
    """Measure the number of threads in the first update, where there is a choice (see `trivium.training.threads`); on a
    GPU threads have little to do. All workers take the smallest number that one of them would choose."""
    run = loop.run

    def least(number: int) -> int:
        return int(run.gather(torch.tensor([number], device=run.device)).min())

    most = least(most)
    if most > 1 and run.device.type == "cpu":
        loop.first_update_tells = lambda flop: torch.set_num_threads(least(threads.worth(flop, most)))
    else:
        torch.set_num_threads(most)


def take(loop: Loop, state: dict[str, Any]) -> None:
    """Take over a checkpoint's state, all but what it says of the disk, see `Loop.take`.

    Raises:
        Refused, others: the loop, the learner or the tracker can't go on with it.
    """
    loop.take(state)
    if loop.run.rank == 0:
        require(state["tracker"], {"metrics_bytes": count}, "tracker")


def _tracker(
    task: Task,
    run: Run,
    held: lock.Held,
    show: Callable[[Status], None],
    keep: Callable[[Config], None],
    *,
    resumed_step: int | None,
) -> RunTracker:
    tracking, kept = task.config["tracking"], False
    looked_after = KeptFiles(task.dir, ("config.yaml", "environment.json"))

    def look() -> None:
        held.keep()
        looked_after.look()

    def config() -> Config:
        """The run's, with what `auto` has come to since it was composed."""
        return {**task.config, "threads": torch.get_num_threads()}

    def open_sinks() -> list[Sink]:
        sinks: list[Sink] = []
        if tracking["wandb"] and os.environ.get("WANDB_MODE") != "disabled":
            from trivium.tracking import wandb_identity
            from trivium.tracking.wandb_sink import WandbSink

            project = tracking["project"]
            known = wandb_identity.identity(task.dir, name=f"{task.config['name']}/{task.dir.name}")
            wandb_identity.say_overridden(known, project=project)
            described = _wandb_config(config(), task.dir)
            sinks.append(WandbSink(task.dir, run_id=known.id, name=known.name, project=project, config=described))
        if tracking["tensorboard"]:
            sinks.append(TensorBoard(task.dir, resumed_step=resumed_step))
        return sinks

    def checkpointed() -> None:
        nonlocal kept
        if not kept and task.config["threads"] == "auto":  # not before: a run that begins anew must choose anew
            keep(config())
            looked_after.read()
        kept = True
        if task.bucket:
            try:
                Bucket(task.bucket).push(task.dir)
            except OSError as error:  # the checkpoint itself is there; the next push brings the rest
                log.warning("the run folder could not be copied to %s: %s", credentials.mask(task.bucket), error)

    return RunTracker(
        task.dir, open_sinks=open_sinks, show=show, device=run.device, on_checkpoint=checkpointed, look=look
    )


def _wandb_config(config: Config, dir: Path) -> dict[str, Any]:
    path = dir / "environment.json"
    described = untrusted.read_json(path) if path.exists() else {}
    finite = strict_json.finite(config, as_text=True)
    masked: dict[str, Any] = credentials.masked({**finite, "environment": described})
    return masked


def _step(state: dict[str, Any] | None) -> int | None:
    return int(state["checkpoint"].rpartition("-")[2]) if state else None


def usable_device(config: Config) -> str:
    """The device of a run, or `auto` where there is none such that serves."""
    name: str = config["device"]
    if name == "mps" and config.get("agent"):
        return "auto"
    try:
        torch.empty(0, device=name if name != "auto" else "cpu")
    except (RuntimeError, AssertionError):
        return "auto"
    return name


def device_of(config: Config) -> torch.device:
    """Of `auto` the best there is; for an agent not Apple's GPU, which has no float64 for envs and sums."""
    if config["device"] != "auto":
        return torch.device(config["device"])
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() and not config.get("agent") else "cpu")


COMPILE_FROM_S = 120  # a run that takes longer eagerly earns the compilation back: 5 to 60 s
SHORT = {"minutes": 2, "updates": 2_000, "samples": 1_000_000, "env_steps": 200_000, "epochs": 20}


def decide_compile(task: Task) -> bool:
    """What `compile` comes to, once and for all for a run: what is compiled computes other bits.

    `auto` compiles when the run would take longer than `COMPILE_FROM_S` without: some steps of a learner that is thrown
    away tell, unless the budget is so small that it can't. It does not on Ray, where the learner is built elsewhere,
    nor on Apple's GPU, for which torch's compiler is a prototype.
    """
    asked, config = task.config["compile"], task.config
    if asked is False:
        return False
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        log.warning("compile=%s: there is no C++ compiler here, so nothing is compiled", str(asked).lower())
        return False
    if asked is True or config["launch"]["engine"] == "ray" or device_of(config).type == "mps":
        return bool(asked is True)
    limits = {name: value for name, value in config["budget"].items() if name in SHORT and value is not None}
    if any(value <= SHORT[name] for name, value in limits.items()):
        return False
    return _eager_s(task) > COMPILE_FROM_S


def _eager_s(task: Task) -> float:
    """How long the run would take without compilation, s."""
    config = {**task.config, "compile": False}
    with borrowed.process(config, device_of(config)), contextlib.ExitStack() as held:
        learner = make_learner(Task(config, task.dir, task.trusted), make_run(config, None))
        held.callback(getattr(learner, "close", lambda: None))
        with threads.counted(compile=False) as work:
            learner.step()  # warms up, and may collect more than the others
        if config["threads"] == "auto":
            torch.set_num_threads(threads.worth(work.typical_flop, environment.cores()))
        budget, began, updates = Budget(config["budget"], learner.counters()), time.monotonic(), 0
        before = budget.fraction(learner.counters(), updates, 0.0)
        passed = 0.0
        while updates < 20 and passed < 0.5:
            learner.step()
            updates += 1
            passed = time.monotonic() - began
        done = budget.fraction(learner.counters(), updates, passed) - before
    return passed / done if done > 0 else math.inf
