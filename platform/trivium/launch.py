"""Start and continue runs: make the run folder, and choose where the loop runs, inline or on Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from trivium import borrowed, ray_cluster, run_folder, signals, worker
from trivium.budget import Budget
from trivium.builder import check_learner
from trivium.config import Config, ConfigError, apply_overrides, refuse
from trivium.config_check import Found, check_run_folder, check_workers
from trivium.learner import Learner
from trivium.loop import Outcome
from trivium.progress import Display
from trivium.run_folder import Result
from trivium.storage import Bucket, is_bucket
from trivium.worker import Task

log = logging.getLogger("trivium")


def train(config: Config, *, dir: Path | None = None, display: Display | None = None) -> Result:
    """Train a new run.

    Args:
        config: as `trivium.config.compose` returns it.
        dir: the run folder, which must not hold a run; by default `<storage>/<name>/<date-time>-<id>`.
        display: where progress is shown.

    Raises:
        ConfigError: the config can't be built or the folder not be made; nothing was left on the disk.
        NonFiniteLoss, Interrupted, CheckpointError: see `trivium.loop.Loop.train`.
    """
    if dir is None:
        base = Path("runs") if is_bucket(config["storage"]) else Path(config["storage"])
        dir = base / config["name"] / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    dir = dir.absolute()
    found = Found()
    check_run_folder(dir, found)  # again, for a Python caller who composed without it
    refuse(found)
    task = Task(config, dir)
    task = Task({**config, "compile": worker.decide_compile(task)}, dir)
    return _launch(task, resume=False, display=display or Display())


def resume(
    place: Path | str,
    overrides: Sequence[str] = (),
    *,
    trusted: Collection[str] = (),
    display: Display | None = None,
) -> Result:
    """Continue a run from its newest sound checkpoint; a finished one only with a larger budget.

    Args:
        place: the run folder, or its URL in a bucket.
        overrides: `key=value` for budget, log, evaluation, checkpoint, monitor, tracking.
        trusted: modules of the user's own whose names the run's config may build.

    Raises:
        ConfigError: there is no run, its folder can't be written, or its config can't be built.
    """
    dir, config = run_folder.read_run(place)
    done = run_folder.read_result(dir)
    if not os.access(dir, os.W_OK) and (overrides or not done):
        raise ConfigError([f"the run folder {dir} can't be written"])
    if done and not overrides:
        done._trusted = trusted
        if display:
            display.say(f"finished already, with {done.reason}; a larger budget continues it: budget.<unit>=<more>")
        return done
    if not overrides:
        return _launch(Task(config, dir, trusted), resume=True, display=display or Display())
    task = Task(apply_overrides(config, overrides), dir, trusted)
    if done:
        budget = Budget(task.config["budget"], done.counters)
        over = done.elapsed_s >= 60 * budget.minutes
        if spent := budget.spent(done.counters, done.updates, time_over=over):
            raise ConfigError(
                [f"{dir} has finished with {done.reason}, and {spent} are spent; budget.<unit>=<more> continues it"]
            )
    with worker.alone_in(dir):  # else another process that trains it would find another config
        rows = _size(dir / "metrics.jsonl")
        run_folder.become(task, task.config, None)
    try:
        return _launch(task, resume=True, display=display or Display())
    except BaseException:
        if _size(dir / "metrics.jsonl") == rows:  # nothing was trained: the run is what it was
            run_folder.become(task, config, done)
        raise


def _launch(task: Task, *, resume: bool, display: Display) -> Result:
    try:
        outcome, learner = _run(task, resume=resume, display=display)
    finally:
        display.close()
    return _close(task, outcome, learner)


def _run(task: Task, *, resume: bool, display: Display) -> tuple[Outcome, Learner | None]:
    learner: Learner | None = None
    if task.config["launch"]["engine"] == "ray":
        check_learner(task.config, trusted=task.trusted)
        _check_workers(task.config)
        ray_cluster.prepare()
        from trivium import ray_driver

        # A Ray that is started for the run is the process's, too: another run's would end with it.
        with (
            contextlib.nullcontext() if ray_cluster.of_the_caller() else borrowed.alone_in_process(),
            contextlib.nullcontext() if resume else run_folder.new(task),
        ):
            outcome = ray_driver.run(task, resume=resume, display=display)
    else:
        device = worker.device_of(task.config)
        with borrowed.process(task.config, device), signals.listen() as asked:
            run = worker.make_run(task.config, task.dir)
            learner = worker.make_learner(task, run)
            with contextlib.nullcontext() if resume else run_folder.new(task):
                display.say(f"{'resuming' if resume else 'training'} {task.config['name']} in {task.dir}")
                outcome = worker.work(
                    task, run, learner, resume=resume, show=display.show, say=display.say, stop_requested=asked
                )
    return outcome, learner


def _check_workers(config: Config) -> None:
    """As when the config was composed, for a run that is resumed on another machine, before a Ray is started.

    Raises:
        ConfigError: see `config_check.check_workers`.
    """
    found = Found()
    check_workers(config, found)
    refuse(found)


def _close(task: Task, outcome: Outcome, learner: Learner | None) -> Result:
    """Write the result and the report; without a result a run counts as unfinished."""
    result = Result(dir=task.dir, name=task.config["name"], **asdict(outcome))
    result._learner, result._trusted = learner, task.trusted
    if task.bucket:
        Bucket(task.bucket).pull(task.dir)  # rank 0 may have been on another node
    run_folder.write_result(result)
    try:
        from trivium.report import write_report

        write_report(task.dir)
    except Exception as error:  # a run is worth more than its report
        log.warning("no report was written: %s: %s", type(error).__name__, error)
    if task.bucket:
        Bucket(task.bucket).push(task.dir)
    return result


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
