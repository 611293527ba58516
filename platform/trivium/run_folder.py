"""A run's folder: what a run came to, its config and result on the disk and in a bucket."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trivium import environment, lock, strict_json
from trivium.config import Config, ConfigError, read, refuse
from trivium.config_check import Found, check_run_folder
from trivium.learner import Learner
from trivium.loop import Outcome
from trivium.storage import Bucket, is_bucket
from trivium.worker import Task

RESULT = "result.json"
MADE = ("config.yaml", "environment.json")  # before a run begins


@dataclass(kw_only=True)
class Result(Outcome):
    """What a run came to: how it ended, with these beside it.

    Attributes:
        dir: the run folder.
        name: the experiment's.
    """

    dir: Path
    name: str

    @property
    def learner(self) -> Learner:
        """The trained learner, with the weights of `checkpoint`."""
        if self._learner is None:
            from trivium.trained import load_learner

            self._learner = load_learner(self.dir, self.checkpoint, self._trusted)[0]
        return self._learner

    _learner: Learner | None = field(default=None, init=False, repr=False, compare=False)
    _trusted: Collection[str] = field(default=(), init=False, repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Plain data, one key per public attribute."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items() if not k.startswith("_")}


def read_run(place: Path | str) -> tuple[Path, Config]:
    """The folder and the config of a run; one in a bucket is brought here first.

    Raises:
        ConfigError: there is no run there, or its config can't be read.
    """
    if is_bucket(place):
        url = str(place).partition("?")[0].rstrip("/")
        dir = Path("runs", *url.split("/")[-2:]).absolute()
        _reach(str(place), lambda: Bucket(str(place)).pull(dir, anew=True))
    else:
        dir = Path(place).absolute()
    if (dir / "config.yaml").exists():
        _refuse_links_out_of(dir)
    return dir, read(dir)


def read_result(dir: Path) -> Result | None:
    """The result of a finished run, None of one that is not."""
    with contextlib.suppress(
        OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError
    ):
        content = json.loads((dir / RESULT).read_text())
        metrics, counters = ({n: _number(v) for n, v in content[k].items()} for k in ("metrics", "counters"))
        name, reason, checkpoint = (str(content[k]) for k in ("name", "reason", "checkpoint"))
        updates, elapsed_s = int(content["updates"]), float(content["elapsed_s"])
        return Result(
            dir=dir,
            name=name,
            reason=reason,
            metrics=metrics,
            counters=counters,
            updates=updates,
            elapsed_s=elapsed_s,
            checkpoint=checkpoint,
        )
    return None


@contextlib.contextmanager
def new(task: Task) -> Iterator[None]:
    """Make a run's folder and hold its lock. If its config turns out to be impossible before the first row, take away
    what was made.

    Raises:
        ConfigError: the folder can't be made or is another run's, or what ran inside raised it.
    """
    made = [path for path in (task.dir, *task.dir.parents) if not path.exists()]
    try:
        with lock.alone_in(task.dir):
            found = Found()
            check_run_folder(task.dir, found)  # another process may have had the folder since it was checked
            refuse(found)
            try:
                _make(task)
                yield
            except ConfigError:
                if not (task.dir / "metrics.jsonl").exists():
                    _take_away(task)
                raise
    except ConfigError:
        with contextlib.suppress(OSError):  # one that holds something else stays
            for path in made:
                path.rmdir()
        raise


def become(task: Task, config: Config, result: Result | None) -> None:
    """Make a run folder, and its copy in a bucket, that of this config, with this result or unfinished."""
    _write_config(task.dir, config)
    if result:
        write_result(result)
    else:
        (task.dir / RESULT).unlink(missing_ok=True)
    if task.bucket:
        bucket = Bucket(task.bucket)
        _reach(task.config["storage"], lambda: bucket.push(task.dir) if result else bucket.remove(RESULT))


def write_result(result: Result) -> None:
    """Into the run's folder, which counts as finished by it."""
    _write(result.dir / RESULT, strict_json.dumps(result.as_json(), indent=1))


def _make(task: Task) -> None:
    try:
        task.dir.mkdir(parents=True, exist_ok=True)
        _write_config(task.dir, task.config)
        _write(task.dir / "environment.json", strict_json.dumps(environment.describe(), indent=1))
    except OSError as error:
        raise ConfigError([f"the run folder {task.dir} can't be written: {error.strerror or error}"]) from error
    if task.bucket:
        _reach(task.config["storage"], lambda: Bucket(str(task.bucket)).push(task.dir))


def _take_away(task: Task) -> None:
    """All that is there of a run before its first row, and nothing else."""
    for name in (*MADE, *lock.NAMES):
        (task.dir / name).unlink(missing_ok=True)
    if task.bucket:
        with contextlib.suppress(OSError, ValueError):
            for name in MADE:
                Bucket(task.bucket).remove(name)


def _refuse_links_out_of(dir: Path) -> None:
    """A stranger's run folder must not make us write, or read, elsewhere."""
    root = dir.resolve()
    for folder, folders, names in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *names)):
            # W&B links each run's logs to one in the user's cache; nobody here reads or writes it.
            if path.relative_to(root).match("wandb/*run-*/logs/debug-core.log"):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise ConfigError([f"{path} is a link out of the run folder: remove it if the run is yours"])


def _number(value: Any) -> float:
    """A number of a result; null is one that was not finite."""
    return math.nan if value is None else float(value)


def _reach(url: str, use: Callable[[], object]) -> None:
    try:
        use()
    except (OSError, ValueError) as error:
        raise ConfigError([f"{url} can't be reached: {str(error).splitlines()[0]}"]) from error


def _write_config(dir: Path, config: Config) -> None:
    _write(dir / "config.yaml", yaml.safe_dump(config, sort_keys=False))


def _write(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}")
    staged.unlink(missing_ok=True)
    with open(staged, "x") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(path)
