"""The search itself: Ray Tune chooses settings, stops trials early and places them; what it knows is in run folders.

Tune's own state, which is pickled, is kept in a temporary folder and never read again. A search that was killed is
started anew with the settings that are known, in the same order: trials that have finished only report, others continue
from their checkpoints, and a sampler or a scheduler is told everything in the order in which it happened.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivium.boundary import strict_json, untrusted
from trivium.config.errors import ConfigError
from trivium.on_ray import cluster
from trivium.run_folder import lock
from trivium.search import space as spaces
from trivium.search.settings import SCHEDULED, Search
from trivium.search.space import Interval, Space, Values
from trivium.search.trial import end_records, name_of, read_records, run_trial
from trivium.search.watching import Watching
from trivium.training import signals

if TYPE_CHECKING:
    from trivium.search.population import Population

SEARCH = "search.json"  # in a search's folder: what is searched
STOP = ".stop"  # there while the search is stopping: trials write a checkpoint and end
STOPPING_S = 60.0  # how long trials may take for it
OF_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours waits for checkpoints
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",  # a trial that is stopped writes a checkpoint first
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
Say = Callable[[str], None]


class Stopped(Exception):
    """The search was asked to stop, and its trials have written checkpoints.

    Args:
        number: the signal.
        arguments: of the command `trivium` that continues the search.
    """

    def __init__(self, number: int, arguments: Sequence[str]) -> None:
        super().__init__(f"stopped by signal {number}; to continue: {shlex.join(['trivium', *arguments])}")
        self.signal = number


def begin(search: Search, dir: Path) -> None:
    """Make the folder of a new search.

    Raises:
        ConfigError: there is a search already, or the folder can't be written.
    """
    if (dir / SEARCH).exists():
        raise ConfigError([f"{dir} holds a search; to continue it: trivium tune --resume {dir}"])
    try:
        (dir / "trials").mkdir(parents=True, exist_ok=True)
        (dir / SEARCH).write_text(strict_json.dumps(search.as_dict()))
    except OSError as error:
        raise ConfigError([f"the search folder {dir} can't be written: {error.strerror}"]) from error


def read(dir: Path, *, trusted: Sequence[str] = (), config_dir: Path | None = None) -> Search:
    """The search in a folder, which may be a stranger's: what it may import is said by who opens it.

    Args:
        trusted: the user's modules that its configs may name.
        config_dir: the user's YAML that it was begun with.

    Raises:
        ConfigError: there is none, it is damaged, or it needs modules or YAML that were not allowed.
    """
    try:
        untrusted.check_folder(dir)
        search = Search.from_dict(untrusted.read_json(dir / SEARCH))
    except FileNotFoundError:
        raise ConfigError([f"{dir} is not the folder of a search: it has no {SEARCH}"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{dir / SEARCH} is damaged: {error}"]) from error
    needed = [f"{dir} uses {module}; --trust {module} allows it" for module in search.trusted if module not in trusted]
    if search.config_dir is not None and config_dir is None:
        needed.append(f"{dir} uses YAML in {search.config_dir}; --config-dir {search.config_dir} allows it")
    if needed:
        raise ConfigError(needed)
    own = None if config_dir is None else str(config_dir.resolve())
    return replace(search, trusted=list(trusted), config_dir=own)


def run(search: Search, dir: Path, *, watching: Watching) -> list[dict[str, Any]]:
    """Search until all trials have ended.

    Args:
        search: a checked search.
        dir: its folder, see `begin`.
        watching: shows the user how it goes.

    Returns:
        The records of all trials, see `trivium.search.trial`.

    Raises:
        ConfigError: another process searches in this folder, or the machine has too few CPUs or GPUs for a trial.
        Stopped: by a signal.
    """
    dir = dir.absolute()
    trials = dir / "trials"
    cpus, gpus = search.settings.cpus_per_trial, search.settings.gpus_per_trial
    known = [record["values"] for record in read_records(search, trials)]
    cluster.prepare()
    with (
        lock.alone_in(dir),
        signals.listen() as asked,
        cluster.variables(OF_TUNE),
        cluster.joined(max(1, int(cpus)), import_from_here=bool(search.trusted)),
        tempfile.TemporaryDirectory(prefix="trivium-tune-") as temporary,
        _without_stop(dir),
    ):
        import ray

        have = ray.cluster_resources()
        for name, wanted in (("CPU", cpus), ("GPU", gpus)):
            if wanted > have.get(name, 0):
                key = f"search.{name.lower()}s_per_trial"
                raise ConfigError([f"{key}={wanted:g}: the machines have {have.get(name, 0):g} {name}s for all trials"])
        _fit(search, dir, Path(temporary), known, asked, watching)
        end_records(search, trials)
    return read_records(search, trials)


@contextlib.contextmanager
def _without_stop(dir: Path) -> Iterator[None]:
    (dir / STOP).unlink(missing_ok=True)
    try:
        yield
    finally:
        (dir / STOP).unlink(missing_ok=True)


def _fit(
    search: Search, dir: Path, temporary: Path, known: list[Values], asked: Callable[[], int | None], watching: Watching
) -> None:
    from ray import tune

    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = search.settings
    population = _population(search, dir, watching.say) if settings.algorithm == "pbt" else None
    planned, sampler = ([], _generations(population)) if population else _settings_to_try(search, known)
    number = len(planned) if sampler is None else max(settings.num_trials, len(known))
    parameters: dict[str, Any] = {} if sampler else {"values": tune.grid_search(planned)}
    callback = _progress(search, dir, number, asked, watching)
    trainable = functools.partial(_trial, search=search.as_dict(), dir=str(dir), here=os.getcwd())
    objectives = "; ".join(f"{metric}, {mode}" for metric, mode in zip(settings.metrics, settings.modes, strict=True))
    watching.say(f"{number} trials of {search.name} in {dir}, by {settings.algorithm}: {objectives}")
    one = len(settings.metrics) == 1
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}),
        param_space=parameters,
        tune_config=tune.TuneConfig(
            metric="score" if one else None,
            mode=settings.modes[0] if one else None,
            search_alg=sampler,
            scheduler=_scheduler(search),
            num_samples=-1 if population else number if sampler else 1,
            max_concurrent_trials=settings.concurrent,
            time_budget_s=None if settings.minutes is None else settings.minutes * 60,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(temporary),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            callbacks=[callback],
        ),
    )
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # Tune's own tables
        tuner.fit()


def _settings_to_try(search: Search, known: list[Values]) -> tuple[list[Values], Any]:
    """The settings of all trials, and Tune's sampler if they are not known beforehand."""
    settings, space = search.settings, search.space
    if settings.algorithm == "grid":
        return spaces.grid(space, settings.points), None
    if settings.algorithm != "bayes":
        drawn = spaces.samples(space, settings.num_trials, settings.seed)
        return list({name_of(values): values for values in drawn}.values()), None  # equal settings once
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = [score_name(i) for i in range(len(settings.metrics))]
    sampler = OptunaSearch(
        functools.partial(_suggest, space=space),
        metric=names if len(names) > 1 else names[0],
        mode=settings.modes if len(names) > 1 else settings.modes[0],
        sampler=optuna.samplers.TPESampler(seed=settings.seed, n_startup_trials=min(10, settings.num_trials // 2)),
        points_to_evaluate=[spaces.as_numbers(space, values) for values in known] or None,
    )
    return [], sampler


def score_name(index: int) -> str:
    """What Tune calls an objective."""
    return f"score_{index}" if index else "score"


def _suggest(trial: Any, *, space: Space) -> None:
    """Ask Optuna's trial for a value of each key that is searched beside the values so far."""
    for key in space:
        if spaces.searched(space, key, spaces.as_texts(space, trial.params)):
            _ask(trial, key, space[key])


def _ask(trial: Any, key: str, dimension: spaces.Dimension) -> None:
    if not isinstance(dimension, Interval):
        trial.suggest_categorical(key, list(dimension.values))
    elif dimension.whole:
        trial.suggest_int(key, int(dimension.low), int(dimension.high), log=dimension.log)
    else:
        trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def _scheduler(search: Search) -> Any:
    """Tune's scheduler, which stops trials early; None for algorithms that do not."""
    from ray.tune import schedulers

    settings = search.settings
    if settings.algorithm == "median":
        return schedulers.MedianStoppingRule(
            time_attr="evaluations", grace_period=settings.grace, min_samples_required=3, hard_stop=True
        )
    if settings.algorithm in SCHEDULED:
        return schedulers.ASHAScheduler(
            time_attr="evaluations",
            max_t=1_000_000,
            grace_period=settings.grace,
            reduction_factor=settings.reduction,
            brackets=3 if settings.algorithm == "hyperband" else 1,
        )
    return None


def _population(search: Search, dir: Path, say: Say) -> Population:
    from trivium.search import population  # imports torch, which other searches leave to their trials

    if not (dir / population.FILE).exists():
        population.check(search)
    return population.Population(search, dir, say=say)


def _generations(population: Population) -> Any:
    """What tells Tune which member trains next, as a sampler."""
    from ray.tune.search import Searcher

    class Generations(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="score", mode=population.search.settings.modes[0])
            self.members: dict[str, int] = {}

        def suggest(self, trial_id: str) -> Any:
            chosen = population.next()
            if chosen is None:
                return Searcher.FINISHED if population.done else None
            self.members[trial_id] = chosen[0]
            return {"member": chosen[0], "generation": chosen[1], "values": population.members[chosen[0]].values}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            population.trained(self.members.pop(trial_id))

        def save(self, checkpoint_path: str) -> None:
            """Nothing: what there is to know is in the search's folder."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, see `save`."""

    return Generations()


def _trial(config: dict[str, Any], *, search: dict[str, Any], dir: str, here: str) -> None:
    """One trial, in an actor of Tune's."""
    from ray import tune

    from trivium.config.import_places import look_in

    whole = Search.from_dict(search)
    if whole.trusted:
        look_in(here)
    stop = (Path(dir) / STOP).exists
    if "member" in config:
        from trivium.search.population import train_member

        member, generation = config["member"], config["generation"]
        folder = Path(dir) / "trials" / f"member-{member}"
        scores = train_member(whole, folder, config["values"], member, generation, stopping=stop)
        if scores:
            tune.report({"score": scores[0], "folder": folder.name})
        return
    values = config.get("values") or spaces.as_texts(whole.space, config)
    folder = Path(dir) / "trials" / name_of(values)
    better = max if whole.settings.modes[0] == "max" else min
    scheduled = whole.settings.algorithm in SCHEDULED
    best: float | None = None
    count, stopped = 0, False

    def report(scores: Sequence[float], final: bool) -> bool:
        nonlocal best, count, stopped
        best = scores[0] if best is None or final else better(best, scores[0])
        count += not final
        if not (final or scheduled):
            return False
        named = {score_name(i): score for i, score in enumerate(scores)} | {"score": best}
        try:
            tune.report({**named, "evaluations": max(count, 1), "folder": folder.name})
        except SystemExit:  # Tune stops this trial
            stopped = True
        return stopped

    run_trial(values, search=whole, folder=folder, report=report, stopping=stop)
    if stopped:
        raise SystemExit(0)  # as Tune asked in `report`: it waits for this thread's end


def _progress(search: Search, dir: Path, number: int, asked: Callable[[], int | None], watching: Watching) -> Any:
    """Tune's callback that shows how the trials are, and stops the search when a signal has come."""
    from ray.tune import Callback

    class Progress(Callback):
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            self.show()
            if signal_number := asked():
                (dir / STOP).touch()
                watching.say("stopping: the trials write checkpoints")
                until = time.monotonic() + STOPPING_S
                while self.show() and time.monotonic() < until:
                    time.sleep(0.2)
                raise Stopped(signal_number, _resume_arguments(search, dir))

        def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
            self.show()

        def show(self) -> bool:
            """Show the trials; returns whether any is running."""
            records = read_records(search, dir / "trials")
            watching.show(records, number)
            return any(record["state"] == "running" for record in records)

    return Progress()


def _resume_arguments(search: Search, dir: Path) -> list[str]:
    trusted = [word for module in search.trusted for word in ("--trust", module)]
    own = [] if search.config_dir is None else ["--config-dir", search.config_dir]
    return ["tune", "--resume", str(dir), *trusted, *own]
