"""A run's folder: what a run came to, its config and result on the disk and in a bucket."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from trivium.boundary import strict_json, untrusted
from trivium.boundary.untrusted import by_name, count, finite, text
from trivium.checkpoints.kept_files import write_whole
from trivium.checkpoints.storage import Bucket, is_checkpoint_name
from trivium.config.checks.places import check_run_folder
from trivium.config.errors import Config, ConfigError, refuse
from trivium.config.problems import Found
from trivium.learner import Learner
from trivium.run_folder import environment, lock
from trivium.run_folder import log as run_log
from trivium.run_folder.place import COPY_OF, Opened, mark_copy, reach
from trivium.run_folder.state import RESULT
from trivium.run_folder.task import Outcome, Task

MADE = ("config.yaml", "environment.json", "signature.json")  # before a run begins
log = logging.getLogger("trivium")


@dataclass(kw_only=True)
class Result(Outcome):
    """What a run came to: how it ended, with these beside it.

    Attributes:
        dir: the run folder.
        name: the experiment's.
        state: `finished`; what else result.json may say is in `run_state`.
    """

    dir: Path
    name: str
    state: Literal["finished"] = "finished"

    @property
    def learner(self) -> Learner:
        """The trained learner, with the weights of `checkpoint`."""
        if self._learner is None:
            from trivium.trained import load_learner

            if self._task is None:
                raise RuntimeError("the result was read without its run: use trivium.evaluate or trivium.resume")
            run = Opened(self.dir, self._task.config, self._task.bucket)
            self._learner = self._context.run(load_learner, run, self.checkpoint, self._task.trusted)[0]
        return self._learner

    _learner: Learner | None = field(default=None, init=False, repr=False, compare=False)
    _task: Task | None = field(default=None, init=False, repr=False, compare=False)
    _context: contextvars.Context = field(
        default_factory=contextvars.copy_context, init=False, repr=False, compare=False
    )

    def as_json(self) -> dict[str, Any]:
        """Plain data, one key per public attribute."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items() if not k.startswith("_")}


def read_result(dir: Path, *, quiet: bool = False) -> Result | None:
    """The result of a finished run; None of one that is not, or, with a warning unless `quiet`, if it is not what
    Trivium writes."""
    try:
        content = untrusted.read_json(dir / RESULT)
        if isinstance(content, dict) and content.get("state", "finished") != "finished":
            return None
        untrusted.require(content, _RESULT, RESULT)
    except FileNotFoundError:
        return None
    except (OSError, untrusted.Refused) as error:
        if not quiet:
            log.warning("%s; the run counts as unfinished", error)
        return None
    content["metrics"] = {k: math.nan if v is None else float(v) for k, v in content["metrics"].items()}
    return Result(dir=dir, **{key: content[key] for key in _RESULT})


def _seconds(value: Any) -> bool:
    """a number >= 0"""
    return finite(value) and value >= 0


def _metric(value: Any) -> bool:
    """a number or null"""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _counters(value: Any) -> bool:
    """a group of counts >= 0"""
    return by_name(_seconds)(value) and bool(value)


_RESULT = {
    "name": text,
    "reason": text,
    "metrics": by_name(_metric),
    "counters": _counters,
    "updates": count,
    "elapsed_s": _seconds,
    "checkpoint": is_checkpoint_name,
}


@contextlib.contextmanager
def new(task: Task) -> Iterator[lock.Held]:
    """Make a run's folder and hold its lock. If its config turns out to be impossible before the first row, take away
    what was made.

    Raises:
        ConfigError: the folder can't be made or is another run's, or what ran inside raised it.
    """
    made = [path for path in (task.dir, *task.dir.parents) if not path.exists()]
    try:
        with lock.alone_in(task.dir) as held:
            found = Found()
            check_run_folder(task.dir, found)  # another process may have had the folder since it was checked
            refuse(found)
            try:
                _make(task)
                yield held
            except ConfigError:
                if not (task.dir / "metrics.jsonl").exists():
                    _take_away(task)
                raise
    except ConfigError:
        with contextlib.suppress(OSError):  # one that holds something else stays
            for path in made:
                path.rmdir()
        raise


def become(task: Task, *, config: Config | None, end: dict[str, Any]) -> None:
    """Make a run folder, and its copy in a bucket, that of a run that ended so; empty: of one that has not ended.

    Args:
        config: None leaves the one that is there.
    """
    if config is not None:
        write_config(task.dir, config)
    if end:
        write_end(task.dir, end)
    else:
        (task.dir / RESULT).unlink(missing_ok=True)
    if task.bucket:
        bucket = Bucket(task.bucket)
        reach(task.bucket, lambda: bucket.push(task.dir) if end else bucket.remove(RESULT))


def write_end(dir: Path, end: Mapping[str, Any]) -> None:
    """Write result.json: how a run ended."""
    _write(dir / RESULT, strict_json.dumps(end, indent=1))


def _make(task: Task) -> None:
    try:
        task.dir.mkdir(parents=True, exist_ok=True)
        write_config(task.dir, task.config)
        _write(task.dir / "environment.json", strict_json.dumps(environment.describe(), indent=1))
    except OSError as error:
        raise ConfigError([f"the run folder {task.dir} can't be written: {error.strerror or error}"]) from error
    if task.bucket:
        mark_copy(task.dir, task.bucket)
        reach(task.bucket, lambda: Bucket(str(task.bucket)).push(task.dir))


def _take_away(task: Task) -> None:
    """All that is there of a run before its first row, and nothing else."""
    for name in (*MADE, run_log.NAME, *lock.NAMES, COPY_OF):
        (task.dir / name).unlink(missing_ok=True)
    if task.bucket:
        with contextlib.suppress(OSError, ValueError):
            for name in MADE:
                Bucket(task.bucket).remove(name)


def write_config(dir: Path, config: Config) -> None:
    """Into a run's folder, whole or not at all."""
    _write(dir / "config.yaml", yaml.dump(config, Dumper=_Dumper, sort_keys=False))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Always: none is read either, see `untrusted.read_yaml`."""
        return True


def _write(path: Path, text: str) -> None:
    write_whole(path, text.encode()).close()
