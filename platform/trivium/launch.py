"""Start, continue and evaluate runs: make the run folder, and choose where the loop runs, inline or on Ray."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from trivium import environment, ray_cluster, signals, worker
from trivium.budget import Budget
from trivium.builder import check_learner
from trivium.checkpoint import Checkpoints
from trivium.config import Config, ConfigError, apply_overrides, read, refuse
from trivium.config_check import Found, check_run_folder, check_workers
from trivium.learner import Episode, Film, Learner
from trivium.loop import Outcome
from trivium.progress import Display
from trivium.storage import Bucket, is_bucket
from trivium.video import GIF_FPS, write_video
from trivium.worker import Task

RESULT = "result.json"
ALIASES = ("best", "last")  # of checkpoints
log = logging.getLogger("trivium")


@dataclass
class Result:
    """What a run came to.

    Attributes:
        dir: the run folder.
        name: the experiment's.
        reason: what ended it.
        metrics: the last value of every metric; `test/...` is what one would publish.
        counters: samples or env steps, epochs.
        updates: how many were made.
        elapsed_s: seconds of training, over all resumes.
        checkpoint: the name of the checkpoint that `test/...` was measured on.
    """

    dir: Path
    name: str
    reason: str
    metrics: dict[str, float]
    counters: dict[str, float]
    updates: int
    elapsed_s: float
    checkpoint: str

    @property
    def learner(self) -> Learner:
        """The trained learner, with the weights of `checkpoint`."""
        if self._learner is None:
            self._learner = _load_learner(self.dir, self.checkpoint, self._trusted)[0]
        return self._learner

    _learner: Learner | None = None
    _trusted: Collection[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data, one key per public attribute."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items() if not k.startswith("_")}


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
    with worker.torch_settings(config):
        compile = worker.decide_compile(task)
    task = Task({**config, "compile": compile}, dir)
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
    dir, config = read_run(place)
    done = read_result(dir)
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
        _become(task, task.config, None)
    try:
        return _launch(task, resume=True, display=display or Display())
    except BaseException:
        if _size(dir / "metrics.jsonl") == rows:  # nothing was trained: the run is what it was
            _become(task, config, done)
        raise


def evaluate(
    place: Path | str,
    *,
    checkpoint: str = "best",
    episodes: int | None = None,
    deterministic: bool | None = None,
    trusted: Collection[str] = (),
) -> dict[str, Any]:
    """Measure `test/...` of a run's checkpoint, on this machine, whatever the run was trained on.

    Args:
        checkpoint: best, last, or a name.
        episodes: how many an agent plays; None: as many as its config says.
        deterministic: whether an agent acts by its best guess or samples its actions; None: as its config says.

    Returns:
        `{"dir", "checkpoint", "metrics"}`.

    Raises:
        ConfigError: there is no run, or it can't be evaluated so.
    """
    dir, config = read_run(place)
    keywords = _keywords_of_agent(config, episodes=episodes, deterministic=deterministic)
    learner, name = _load_learner(dir, checkpoint, trusted, keywords)
    with worker.torch_settings(config):
        values = learner.evaluate(final=True)
    return {"dir": str(dir), "checkpoint": name, "metrics": {f"test/{k}": v for k, v in values.items()}}


def play(
    place: Path | str,
    *,
    to: Path | None,
    episodes: int = 1,
    deterministic: bool | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    size: int = 640,
    checkpoint: str = "best",
    trusted: Collection[str] = (),
    tell: Callable[[int, Episode], object] = lambda number, episode: None,
) -> dict[str, Any]:
    """Let the agent of a run play episodes that one can look at.

    Args:
        to: a GIF or MP4 file, replaced if it is there; None: a window.
        episodes: how many, one after the other.
        deterministic: see `evaluate`.
        seed: the same seed, the same episodes.
        max_steps: an episode is cut after so many; None: as the agent's config says.
        size: of the picture's longer side in pixels, at most.
        checkpoint: best, last, or a name.
        tell: told each episode, from 1, when it ends.

    Returns:
        `{"dir", "checkpoint", "file", "episodes", "return_mean"}`; an episode is `{"return", "length", "ended"}`.

    Raises:
        ConfigError: there is no run, it is no agent's, its env can't be drawn, or the file can't be written.
    """
    dir, config = read_run(place)
    if not config.get("agent"):
        raise ConfigError([f"{dir} can't be played: {config['name']} is no agent, which acts in an environment"])
    keywords = _keywords_of_agent(config, episodes=None, deterministic=deterministic)
    learner, name = _load_learner(dir, checkpoint, trusted, keywords)
    start = getattr(learner, "play", None)
    if start is None:
        raise ConfigError([f"{dir} can't be played: {type(learner).__name__} has no method `play`"])
    played: list[Episode] = []

    def ended(episode: Episode) -> None:
        played.append(episode)
        tell(len(played), episode)

    max_fps = GIF_FPS if to and to.suffix == ".gif" else 60.0
    with worker.torch_settings(config):
        try:
            film: Film = start(
                episodes=episodes,
                seed=seed,
                max_steps=max_steps,
                max_fps=max_fps,
                size=size,
                window=to is None,
                tell=ended,
            )
            if to is None:
                for _ in film:
                    pass
            else:
                write_video(to, film, film.fps)
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        except ImportError as error:
            raise ConfigError([f"--to {to}: {error}; pip install 'trivium[video]', or write a .gif"]) from error
        except OSError as error:
            raise ConfigError([f"--to {to} can't be written: {error.strerror or error}"]) from error
    shown = [{"return": e.total, "length": e.length, "ended": e.ended} for e in played]
    mean = sum(e.total for e in played) / len(played)
    return {"dir": str(dir), "checkpoint": name, "file": to and str(to), "episodes": shown, "return_mean": mean}


def _keywords_of_agent(config: Config, *, episodes: int | None, deterministic: bool | None) -> dict[str, Any]:
    """What changes how an agent is evaluated, as keywords of its constructor.

    Raises:
        ConfigError: the run is not of an agent, or of one that does not know a choice between the two.
    """
    asked = {"test_episodes": episodes, "eval_deterministic": deterministic}
    keywords = {name: value for name, value in asked.items() if value is not None}
    agent = config.get("agent")
    if keywords and not agent:
        flags = {"test_episodes": "--episodes", "eval_deterministic": "--deterministic and --stochastic"}
        said = " and ".join(flags[name] for name in keywords)
        raise ConfigError([f"{said}: for agents, which play episodes; {config['name']} is none"])
    if agent and "eval_deterministic" not in agent and keywords.pop("eval_deterministic", True) is False:
        kind = str(agent.get("_target_")).rpartition(".")[2]
        raise ConfigError([f"--stochastic: {kind} has no policy to sample from, it always does what it thinks best"])
    return keywords


# ----------------------------------------------------------------------------------------------- run folders


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
    with contextlib.suppress(OSError, ValueError, TypeError):
        content = json.loads((dir / RESULT).read_text())
        fields = ("name", "reason", "metrics", "counters", "updates", "elapsed_s", "checkpoint")
        numbers = {k: {n: float(v) for n, v in content[k].items()} for k in ("metrics", "counters")}
        return Result(dir=dir, **{k: content[k] for k in fields} | numbers)
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


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


def _become(task: Task, config: Config, result: Result | None) -> None:
    """Make a run folder, and its copy in a bucket, that of this config, with this result or unfinished."""
    _write_config(task.dir, config)
    if result:
        _write(task.dir / RESULT, json.dumps(result.as_json(), indent=1))
    else:
        (task.dir / RESULT).unlink(missing_ok=True)
    if task.bucket:
        bucket = Bucket(task.bucket)
        _reach(task.config["storage"], lambda: bucket.push(task.dir) if result else bucket.remove(RESULT))


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


def _make_folder(task: Task) -> None:
    try:
        task.dir.mkdir(parents=True, exist_ok=True)
        _write_config(task.dir, task.config)
        _write(task.dir / "environment.json", json.dumps(environment.describe(), indent=1))
    except OSError as error:
        raise ConfigError([f"the run folder {task.dir} can't be written: {error.strerror or error}"]) from error
    if task.bucket:
        _reach(task.config["storage"], lambda: Bucket(str(task.bucket)).push(task.dir))


def _load_learner(
    dir: Path, checkpoint: str, trusted: Collection[str], keywords: dict[str, Any] | None = None
) -> tuple[Learner, str]:
    """The learner of a run on this machine, with a checkpoint's weights, and the checkpoint's name."""
    config = read_run(dir)[1]
    for group in ("learner", "agent"):
        if config.get(group) and keywords:
            config[group] = {**config[group], **keywords}
    task = Task(config, dir, trusted)
    config["device"] = worker.usable_device(config["device"])
    run = worker.make_run(config, dir)
    checkpoints = Checkpoints(task.checkpoints_place, run)
    names = checkpoints.names()
    if checkpoint not in (*ALIASES, *names):
        valid = ", ".join((*ALIASES, *names))
        raise ConfigError([f"--checkpoint {checkpoint}: {dir} has no such checkpoint; valid: {valid}"])
    learner = worker.make_learner(task, run)
    state = checkpoints.load(checkpoint, any_world_size=True)
    if state is None:
        raise ConfigError([f"{dir} has no checkpoint yet"])
    learner.load_weights(state["learner"])
    return learner, state["checkpoint"]


# ----------------------------------------------------------------------------------------------- launching


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
        from trivium import ray_workers

        with _nothing_left(task, unless=resume):
            if not resume:
                _make_folder(task)
            outcome = ray_workers.run(task, resume=resume, display=display)
    else:
        with worker.torch_settings(task.config), signals.listen() as asked:
            run = worker.make_run(task.config, task.dir)
            learner = worker.make_learner(task, run)
            with _nothing_left(task, unless=resume):
                if not resume:
                    _make_folder(task)
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
    result = Result(task.dir, task.config["name"], **asdict(outcome))
    result._learner, result._trusted = learner, task.trusted
    if task.bucket:
        Bucket(task.bucket).pull(task.dir)  # rank 0 may have been on another node
    _write(task.dir / RESULT, json.dumps(result.as_json(), indent=1))
    try:
        from trivium.report import write_report

        write_report(task.dir)
    except Exception as error:  # a run is worth more than its report
        log.warning("no report was written: %s: %s", type(error).__name__, error)
    if task.bucket:
        Bucket(task.bucket).push(task.dir)
    return result


@contextlib.contextmanager
def _nothing_left(task: Task, *, unless: bool) -> Iterator[None]:
    """A new run whose config turns out to be impossible before its first row leaves nothing behind that it has made."""
    made = [path for path in (task.dir, *task.dir.parents) if not path.exists()]
    try:
        yield
    except ConfigError:
        if not unless and not (task.dir / "metrics.jsonl").exists():
            for path in list(task.dir.iterdir()) if task.dir.exists() else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            with contextlib.suppress(OSError):  # another run may have begun in a parent
                for path in made:
                    path.rmdir()
        raise
