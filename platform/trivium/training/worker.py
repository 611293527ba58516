"""What one worker of a run does: seeds, threads, build the learner, train it from the start or its last checkpoint.

The same for the one worker that runs inline and for each of many on Ray.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trivium import borrowed, declared
from trivium.boundary.untrusted import count, require
from trivium.callbacks import Callback
from trivium.checkpoints.folder import Checkpoints
from trivium.checkpoints.storage import Bucket
from trivium.config.checks.several import check_metrics
from trivium.config.errors import Config, ConfigError, refuse
from trivium.config.problems import Found
from trivium.learner import Learner, Run, close, evaluates_of
from trivium.run_folder import lock, signature
from trivium.run_folder.task import Outcome, Task
from trivium.tracking.progress import Status
from trivium.tracking.tracker import Tracker
from trivium.training.builder import build_learner
from trivium.training.loop import Loop
from trivium.training.machine import threads
from trivium.training.machine.device import device_of
from trivium.training.tracked import run_tracker

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


def make_learner(task: Task, run: Run, given: Mapping[str, Any] | None = None) -> Learner:
    """Seed everything and build the learner: the same weights on every rank, then randomness of each rank's own.

    Args:
        given: see `build_learner`.
    """
    borrowed.seed(run.seed, run.device)
    learner = build_learner(task.config, run, trusted=task.trusted, given=given)
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
        ConfigError: see `trivium.config.checks.several.check_metrics`.
    """
    found = Found()
    check_metrics(config, evaluates_of(learner), found)
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
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Train as one worker; all workers of the run call it.

    Args:
        resume: continue from the newest sound checkpoint, or from the start if there is none.
        show, say: let the user see a status, a sentence; called on rank 0.
        stop_requested: see `trivium.training.loop.Loop`.
        most_threads: how many of this machine's cores are this worker's.
        keep: writes the config into the run folder, once it says how many threads `auto` has come to; called on rank 0.
        callbacks: see `trivium.training.loop.Loop`.
    """
    with _at_work(task, run, learner) as held:
        loop = Loop(
            learner,
            run,
            task.config,
            Checkpoints(task.checkpoints_place, run, keep=task.config["checkpoint"]["keep"]),
            Tracker(),
            stop_requested=stop_requested,
            leaving=getattr(stop_requested, "leaving", contextlib.nullcontext),
            callbacks=callbacks,
        )
        state = _newest(loop, task, say) if resume else None
        if held:
            loop.recorder.tracker = run_tracker(task, run, held, show, keep, resumed_step=_step(state))
        with _tracked(loop.recorder.tracker):
            if task.config["threads"] == "auto" and not state:
                _let_choose_threads(loop, most_threads)
            if state:
                loop.go_on(state)
            outcome = loop.train()
    return replace(outcome, lost=[*outcome.lost, *loop.recorder.tracker.lost])


@contextlib.contextmanager
def _at_work(task: Task, run: Run, learner: Learner) -> Iterator[lock.Held | None]:
    """The learner is closed afterwards; rank 0 holds its lock within."""
    with contextlib.ExitStack() as closing:
        held = closing.enter_context(lock.alone_in(task.dir, lock.RANK_0)) if run.rank == 0 else None
        closing.callback(close, learner)
        if held:
            signature.write(task.dir, learner, run.device)
        yield held


@contextlib.contextmanager
def _tracked(tracker: Tracker) -> Iterator[None]:
    """The tracker is finished afterwards, in whatever way the run has ended."""
    failed = True
    try:
        yield
        failed = False
    finally:
        tracker.finish(failed=failed)


def _newest(loop: Loop, task: Task, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The state of the newest sound checkpoint, which the loop has taken; None if there is none."""
    run = loop.run
    if run.rank == 0 and task.bucket:
        Bucket(task.bucket).pull(task.dir)
    state = loop.checkpoints.load(into=functools.partial(take, loop), mend=True)
    if run.rank == 0 and (task.dir / "metrics.jsonl").exists():
        if state:
            say(f"resuming from {state['checkpoint']}")
        else:
            log.warning("%s holds no checkpoint: the run starts from the beginning", task.checkpoints_place)
    return state


def _let_choose_threads(loop: Loop, most: int) -> None:
    """Measure the number of threads in the first update, where there is a choice (see `machine.threads`); on a GPU
    threads have little to do. All workers take the smallest number that one of them would choose."""
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


def _step(state: dict[str, Any] | None) -> int | None:
    return int(state["checkpoint"].rpartition("-")[2]) if state else None
