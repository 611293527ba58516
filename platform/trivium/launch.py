"""Start and continue runs: make the run folder, and choose where the loop runs, inline or on Ray."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trivium import borrowed
from trivium.boundary.places import is_bucket
from trivium.callbacks import Callback
from trivium.checkpoints.storage import Bucket
from trivium.config.checks.places import check_run_folder
from trivium.config.checks.several import check_workers
from trivium.config.composing import apply_overrides, read
from trivium.config.errors import Config, ConfigError, refuse
from trivium.config.problems import Found
from trivium.learner import Learner
from trivium.on_ray import cluster
from trivium.python import objects
from trivium.run_folder import environment, folder, lock
from trivium.run_folder.folder import Result
from trivium.run_folder.log import RunLog, recording
from trivium.run_folder.place import Opened, bucket_of, open_run, resume_arguments
from trivium.run_folder.state import RESULT, read_end
from trivium.run_folder.task import Outcome, Task
from trivium.tracking.progress import Display
from trivium.training import signals, worker
from trivium.training.builder import check_learner
from trivium.training.compiling import decide_compile
from trivium.training.ends import ending, finished
from trivium.training.loop import Interrupted
from trivium.training.machine.device import device_of

log = logging.getLogger("trivium")


def train(
    config: Config,
    *,
    dir: Path | None = None,
    config_dir: Path | str | None = None,
    display: Display | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train a new run.

    Args:
        config: as `trivium.config.compose` returns it.
        dir: the run folder, which must not hold a run; by default `<storage>/<name>/<date-time>-<id>`.
        config_dir: what it was composed with, for the command that continues the run.
        display: where progress is shown.
        callbacks: see `trivium.callbacks.Callback`; only of a run that is launched inline.

    Raises:
        ConfigError: the config can't be built or the folder not be made; nothing was left on the disk.
        NonFiniteLoss, Interrupted, CheckpointError: see `trivium.training.loop.Loop.train`.
    """
    if dir is None:
        base = Path("runs") if is_bucket(config["storage"]) else Path(config["storage"])
        dir = base / config["name"] / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    dir = dir.absolute()
    found = Found()
    check_run_folder(dir, found)  # again, for a Python caller who composed without it
    refuse(found)
    task = Task(config, dir, bucket=bucket_of(config, dir))
    task = replace(task, config={**config, "compile": decide_compile(task)})
    display = display or Display()
    with _command_to_go_on(task, config_dir), _ready(task, None, display, callbacks) as ready:
        outcome = ready.train()
        return _close(task, ready, outcome, display)


def resume(
    place: Path | str | Opened,
    overrides: Sequence[str] = (),
    *,
    trusted: Collection[str] = (),
    config_dir: Path | str | None = None,
    display: Display | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Continue a run from its newest sound checkpoint; a finished one only with more of what has ended it.

    Args:
        place: the run folder, or its URL in a bucket.
        overrides: `key=value` for budget, log, evaluation, checkpoint, monitor, tracking.
        trusted: modules of the user's own whose names the run's config may build.
        config_dir, callbacks: see `train`.

    Raises:
        ConfigError: there is no run, its folder can't be written, or its config can't be built.
    """
    dir, config, bucket = open_run(place)
    objects.require(config)
    task = Task(config, dir, trusted, bucket)
    done = folder.read_result(dir, quiet=True)
    if not os.access(dir, os.W_OK) and (overrides or not done):
        raise ConfigError([f"the run folder {dir} can't be written"])
    if done and not overrides:
        return _as_it_is(task, done, display, busy=lock.is_held(dir))
    with lock.alone_in(dir) as held:
        config, done = read(dir), folder.read_result(dir)  # which nobody changes any more
        if done and not overrides:
            return _as_it_is(task, done, display)
        task = replace(task, config=apply_overrides(config, overrides) if overrides else config)
        if done:
            finished.refuse_no_more(config, task.config, done)
        ended, before = read_end(dir), _trained(task)
        folder.become(task, config=task.config if overrides else None, end={})
        try:
            display = display or Display()
            with _command_to_go_on(task, config_dir, overrides), _ready(task, held, display, callbacks) as ready:
                outcome = ready.train()
                return _close(task, ready, outcome, display)
        except BaseException as error:
            if _trained(task) == before:  # nothing: the run is what it was, or has failed before it could go on
                end = ended if done or isinstance(error, ConfigError) else read_end(dir)
                folder.become(task, config=config if overrides else None, end=end)
            raise


def _as_it_is(task: Task, done: Result, display: Display | None, *, busy: bool = False) -> Result:
    """A finished run, with what a kill may have kept from being written, unless another process is busy with it."""
    done._task, done._context = task, contextvars.copy_context()
    if display:
        display.say(f"finished already, with {done.reason}; {finished.what_continues(task.config, done)}")
    if not busy:
        _complete(task)
    return done


@contextlib.contextmanager
def _command_to_go_on(task: Task, config_dir: Path | str | None, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Whoever stops the run is given the command that continues it."""
    try:
        yield
    except Interrupted as error:
        place = task.bucket or task.dir
        error.arguments = [*resume_arguments(task.config, place, task.trusted, config_dir), *overrides]
        raise


@dataclass(frozen=True)
class Ready:
    """A run that is about to train.

    Attributes:
        held: the lock of its folder.
        train: trains it to its end. No function of ours, so that there is one frame less up to the learner's step.
        learner: None where workers of Ray's have it.
    """

    held: lock.Held
    train: Callable[[], Outcome]
    learner: Learner | None = None


@contextlib.contextmanager
def _ready(task: Task, held: lock.Held | None, display: Display, callbacks: Sequence[Callback] = ()) -> Iterator[Ready]:
    """Within, a run can train in a folder whose lock is held, or that is made here; what ends it is kept there."""
    opened = contextlib.nullcontext(held) if held else folder.new(task)
    engine = _on_ray if task.config["launch"]["engine"] == "ray" else _inline
    try:
        with (
            recording() as run_log,
            engine(task, held is not None, display, callbacks, run_log) as (train, learner),
            opened as lock_of_folder,
            _traced(task, lock_of_folder, display, run_log),
        ):
            if learner is not None:  # on Ray the driver says it, once it has workers
                display.say(f"{'training' if held is None else 'resuming'} {task.config['name']} in {task.dir}")
            yield Ready(lock_of_folder, train, learner)
    finally:
        display.close()


Engine = tuple[Callable[[], Outcome], Learner | None]


@contextlib.contextmanager
def _inline(
    task: Task, resume: bool, display: Display, callbacks: Sequence[Callback], run_log: RunLog
) -> Iterator[Engine]:
    """In this process, which is as before afterwards."""
    with borrowed.process(task.config, device_of(task.config)), signals.listen() as asked, run_log.streams():
        run = worker.make_run(task.config, task.dir)
        learner = worker.make_learner(task, run)
        yield (
            functools.partial(
                worker.work,
                task,
                run,
                learner,
                resume=resume,
                show=display.show,
                say=display.say,
                stop_requested=asked,
                most_threads=environment.cores(),
                keep=lambda config: folder.write_config(task.dir, config),
                callbacks=callbacks,
            ),
            learner,
        )


@contextlib.contextmanager
def _on_ray(
    task: Task, resume: bool, display: Display, callbacks: Sequence[Callback], run_log: RunLog
) -> Iterator[Engine]:
    """On workers of Ray's."""
    if callbacks:
        raise ConfigError(["callbacks: they are called in this process, which launch=ray does not train in"])
    if groups := objects.not_in(task.config):
        raise ConfigError(
            [
                f"{group}: an object that only this process has, which launch=ray does not train in; "
                "put its class into a module"
                for group in groups
            ]
        )
    check_learner(task.config, trusted=task.trusted)
    _check_workers(task.config)
    cluster.prepare()
    from trivium.on_ray import driver

    # A Ray that is started for the run is the process's, too: another run's would end with it.
    with contextlib.nullcontext() if cluster.of_the_caller() else borrowed.alone_in_process():
        yield functools.partial(driver.run, task, resume=resume, display=display), None


@contextlib.contextmanager
def _traced(task: Task, held: lock.Held, display: Display, run_log: RunLog) -> Iterator[None]:
    """What a run says within is kept in its folder, and how it ends, however it does."""
    before = _trained(task)
    run_log.open(task.dir)
    display.keep = run_log.line
    try:
        with _exits_told():
            yield
        run_log.line("finished", last=True)
    except ConfigError as error:
        display.close()
        run_log.line(str(error), last=True)
        if _trained(task) != before:
            ending.write(task, held, error, run_log)
        raise
    except BaseException as error:
        display.close()
        ending.write(task, held, error, run_log)
        raise
    finally:
        display.close()
        display.keep = None


@contextlib.contextmanager
def _exits_told() -> Iterator[None]:
    """A library, or an env, that leaves the program has failed, whatever exit code it chose."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"something in the run asked Python to exit, by SystemExit({error.code!r})") from error


def _check_workers(config: Config) -> None:
    """As when the config was composed, for a run that is resumed on another machine, before a Ray is started.

    Raises:
        ConfigError: see `trivium.config.checks.several.check_workers`.
    """
    found = Found()
    check_workers(config, found)
    refuse(found)


def _close(task: Task, ready: Ready, outcome: Outcome, display: Display) -> Result:
    """Write the result and the report; without a result a run counts as unfinished."""
    display.close()
    ready.held.keep()
    result = Result(dir=task.dir, name=task.config["name"], **asdict(outcome))
    result._learner, result._task = ready.learner, task
    if task.bucket:
        Bucket(task.bucket).pull(task.dir)  # rank 0 may have been on another node
    folder.write_end(task.dir, result.as_json())
    _complete(task)
    return result


def _complete(task: Task) -> None:
    """Write what a finished run has besides its result, unless it is there: the report, and the copies in a bucket."""
    report, result = task.dir / "report.html", task.dir / RESULT
    missing = not report.exists() or report.stat().st_mtime_ns < result.stat().st_mtime_ns
    if missing:
        try:
            from trivium.report.writing import write_report

            write_report(task.dir, trusted=task.trusted, place=task.bucket)
        except Exception as error:  # a run is worth more than its report
            log.warning("no report was written: %s: %s", type(error).__name__, error)
    if task.bucket:
        bucket = Bucket(task.bucket)
        if missing or not {report.name, result.name} <= bucket.own_files().keys():
            bucket.push(task.dir)


def _trained(task: Task) -> tuple[int, str | None]:
    """What there is of a run's training: the length of its rows, and its newest checkpoint."""
    rows = task.dir / "metrics.jsonl"
    return rows.stat().st_size if rows.exists() else 0, ending.newest_checkpoint(task)
