"""One trial: ordinary runs, one for each seed, whose evaluations are reported to Tune while they train.

A trial is named by its settings. One whose runs have finished is not trained again: it reports what its run folders
say, so that a search that was killed continues with all that Tune knew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trivium import launch
from trivium.boundary import strict_json, untrusted
from trivium.checkpoints.kept_files import write_whole
from trivium.config.composing import compose
from trivium.config.errors import Config, ConfigError
from trivium.config.import_places import beside, look_in
from trivium.run_folder import lock
from trivium.run_folder.state import state_of
from trivium.search import space as spaces
from trivium.search.settings import Search, Settings
from trivium.search.space import Values
from trivium.tracking.progress import Display, Status
from trivium.training import signals
from trivium.training.loop import Interrupted

MOST_BYTES = 2**30  # of metrics.jsonl
AGAIN_S = 0.5  # how often it is asked whether another process has ended with the same settings
RECORD: dict[str, untrusted.Shape] = {
    "values": untrusted.by_name(untrusted.text),
    "state": untrusted.text,
    "scores": untrusted.list_of(untrusted.finite),
    "reason": untrusted.optional(untrusted.text),
    "began": untrusted.finite,
    "ended": untrusted.optional(untrusted.finite),
}
"""What the record of a trial holds, `trials/<name>.json`; `scores` are empty before there are any."""


def name_of(values: Values) -> str:
    """The name of the trial with these settings: equal settings, equal names."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def seed_folders(folder: Path, seeds: int) -> list[Path]:
    """The run folders of a trial: its own, or those below it."""
    return [folder] if seeds == 1 else [folder / f"seed-{i}" for i in range(seeds)]


def evaluations(run: Path, metric: str) -> list[float]:
    """The values of a metric that a run has logged, in order."""
    found = []
    with contextlib.suppress(OSError, untrusted.Refused):
        for line in untrusted.read_bytes(run / "metrics.jsonl", MOST_BYTES).splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get(metric), (int, float)):
                    found.append(float(row[metric]))
    return found


def scores_of(run: Path, settings: Settings) -> list[float]:
    """What a run has reached: the best of its evaluations, of several objectives those of the last evaluation; empty if
    no finite one was made."""
    found = [[v for v in evaluations(run, metric) if math.isfinite(v)] for metric in settings.metrics]
    if not all(found):
        return []
    if len(found) > 1:
        return [values[-1] for values in found]
    return [max(found[0]) if settings.modes[0] == "max" else min(found[0])]


class Reporter(Display):
    """Passes each evaluation on while a run trains, and lets it be stopped; it then writes a checkpoint first.

    Args:
        metric: the metric that is optimised.
        report: called with its value; returns True to stop the run.
        stopping: whether the whole search is stopping; asked about twice a second.
    """

    def __init__(self, metric: str, report: Callable[[float], bool], stopping: Callable[[], bool]) -> None:
        super().__init__(quiet=True)
        self.metric, self._report, self._stopping = metric, report, stopping
        self.stopped = False

    def reported(self, value: float) -> bool:
        """Pass a value on; returns whether the run is to stop."""
        self.stopped = self.stopped or self._report(value)
        return self.stopped

    def show(self, status: Status) -> None:
        super().show(status)
        if self.stopped:
            return
        value = status.metrics.get(self.metric) if status.evaluated else None
        asked = value is not None and self._report(value)
        self.stopped = status.fraction < 1 and (asked or self._stopping())  # else the run ends by itself
        if self.stopped:
            signals.ask(signal.SIGTERM)


def run_trial(
    values: Values,
    *,
    search: Search,
    folder: Path,
    report: Callable[[Sequence[float], bool], bool],
    stopping: Callable[[], bool] = lambda: False,
    first_seed: int = 0,
) -> list[float]:
    """Train a trial, or continue it, or report what it did. Another process with the same settings is waited for.

    Args:
        values: the trial's settings.
        folder: the trial's folder; its record lies next to it, as `<folder>.json`.
        report: called with the scores so far and whether they are final; returns True to stop the trial early.
        stopping: whether the whole search is stopping: the trial then ends as soon as it can, with a checkpoint.
        first_seed: is added to the config's.

    Returns:
        The trial's scores, the means over seeds of what its runs have reached, see `scores_of`; empty if it was stopped
        before any.

    Raises:
        Exception: what a run raises; its line is in the trial's record too.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder, stopping) as held:
        return _run_trial(values, search, folder, report, stopping, first_seed) if held else []


@contextlib.contextmanager
def _alone(folder: Path, stopping: Callable[[], bool]) -> Iterator[bool]:
    """Hold the trial's lock; False if the search stops before another process has released it."""
    while not stopping():
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock.alone_in(folder.parent, f".{folder.name}.lock"))
            except ConfigError:
                time.sleep(AGAIN_S)
                continue
            yield True
            return
    yield False


def _run_trial(
    values: Values,
    search: Search,
    folder: Path,
    report: Callable[[Sequence[float], bool], bool],
    stopping: Callable[[], bool],
    first_seed: int,
) -> list[float]:
    settings = search.settings
    began = (_read(folder.with_suffix(".json")) or {}).get("began", time.time())
    record = {"values": values, "state": "running", "scores": [], "reason": None, "began": began, "ended": None}
    _write(folder, record)
    early = settings.seeds == 1 and len(settings.metrics) == 1
    reached: list[list[float]] = []
    stopped = False
    try:
        for i, run in enumerate(seed_folders(folder, settings.seeds)):
            reporter = Reporter(settings.metrics[0], lambda value: early and report([value], False), stopping)
            _train(values, search, run, first_seed + i, reporter)
            stopped = reporter.stopped
            scores = scores_of(run, settings)
            if not (scores or stopped):
                metrics = ", ".join(settings.metrics)
                raise ConfigError([f"{metrics}: no evaluation of {run.name} returned a finite value"])
            reached += [scores] if scores else []
            if stopped:
                break
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        _write(folder, {**record, "state": "failed", "reason": lines[0], "ended": time.time()})
        raise
    means = _means(reached)
    _write(folder, {**record, "state": "stopped" if stopped else "finished", "scores": means, "ended": time.time()})
    if not stopped and means:
        report(means, True)
    return means


def _means(reached: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(values) for values in zip(*reached, strict=True)]


def _train(values: Values, search: Search, run: Path, number: int, reporter: Reporter) -> None:
    """Train the run of one seed, or continue it, or only report what it did."""
    for value in evaluations(run, reporter.metric):
        if reporter.reported(value):
            return
    if state_of(run) == "finished":
        return
    config_dir = None if search.config_dir is None else Path(search.config_dir)
    if config_dir is not None:
        look_in(*beside(config_dir))
    try:
        if (run / "config.yaml").exists():
            launch.resume(run, trusted=search.trusted, config_dir=config_dir, display=reporter)
            return
        chosen = [*search.overrides, *(f"{key}={value}" for key, value in values.items())]
        config = compose(chosen, config_dir, run, search.trusted)
        if number:
            config = {**config, "seed": config["seed"] + number}
        launch.train(in_group(config, folder_of_search(run)), dir=run, config_dir=config_dir, display=reporter)
    except Interrupted:
        if not reporter.stopped:
            raise


def folder_of_search(run: Path) -> Path:
    """The search's folder, of a run folder in its `trials`."""
    return next(above for above in run.parents if above.name == "trials").parent


def in_group(config: Config, search_dir: Path) -> Config:
    """A trial's config: W&B shows the trials of a search together, unless the user has said how."""
    tracking = config["tracking"]
    group = tracking["group"] or "/".join(search_dir.parts[-2:])
    return {**config, "tracking": {**tracking, "group": group, "job_type": tracking["job_type"] or "trial"}}


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_whole(folder.with_name(f"{folder.name}.json"), strict_json.dumps(record).encode()).close()


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None if there is none, or it is damaged."""
    with contextlib.suppress(OSError, untrusted.Refused):
        record = untrusted.read_json(path)
        untrusted.require(record, RECORD)
        return dict(record)
    return None


def end_records(search: Search, trials: Path) -> None:
    """Complete the records of trials whose process has ended before they could: one that has evaluated was stopped, as
    Tune stops the last ones together with their processes; another one has failed."""
    for record in read_records(search, trials):
        if record["state"] != "running":
            continue
        folder = Path(record["dir"])
        found = [scores_of(run, search.settings) for run in seed_folders(folder, search.settings.seeds)]
        scores = _means([each for each in found if each])
        end: dict[str, Any] = {"state": "failed", "reason": "its process was lost before its first evaluation"}
        if scores:
            end = {"state": "stopped", "scores": scores}
        _write(folder, {**{key: record[key] for key in RECORD}, **end})


def read_records(search: Search, trials: Path) -> list[dict[str, Any]]:
    """The records of a search's trials in the order in which they began, each with its `name` and `dir`. Damaged ones
    are left out, and those of settings that are not in the search's space."""
    found = {path: _read(path) for path in trials.glob("[!.]*.json")}
    space = search.space
    records = [
        {**record, "name": path.stem, "dir": str(path.with_suffix(""))}
        for path, record in found.items()
        if record is not None and spaces.holds(space, record["values"])
    ]
    return sorted(records, key=lambda record: (record["began"], record["name"]))
