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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trivium.boundary import strict_json, untrusted
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.config.import_places import beside, look_in
from trivium.run_folder.state import read_end
from trivium.search.settings import Search
from trivium.search.space import Values
from trivium.tracking.progress import Display, Status

MOST_BYTES = 2**30  # of metrics.jsonl


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


def best_of(values: list[float], mode: str) -> float | None:
    """The best of a run's evaluations, which is its score; None if no finite one was made."""
    finite = [value for value in values if math.isfinite(value)]
    return None if not finite else max(finite) if mode == "max" else min(finite)


class Reporter(Display):
    """Passes each evaluation on while a run trains.

    Args:
        metric: the metric that is optimised.
        report: called with its value; returns True to stop the run, which then writes a checkpoint first.
    """

    def __init__(self, metric: str, report: Callable[[float], bool]) -> None:
        super().__init__(quiet=True)
        self._metric, self._report = metric, report
        self.stopped = False

    def show(self, status: Status) -> None:
        super().show(status)
        value = status.metrics.get(self._metric)
        if not status.evaluated or value is None or self.stopped:
            return
        if self._report(value):
            from trivium.training import signals

            self.stopped = True
            signals.ask(signal.SIGTERM)


def run_trial(values: Values, *, search: Search, folder: Path, report: Callable[[float, bool], bool]) -> float | None:
    """Train a trial, or continue it, or report what it did.

    Args:
        values: the trial's settings.
        folder: the trial's folder; its record lies next to it, as `<folder>.json`.
        report: called with the score so far and whether it is final; returns True to stop the trial early.

    Returns:
        The trial's score: the mean over seeds of each run's best evaluation.

    Raises:
        Exception: what a run raises; its line is in the trial's record too.
    """
    settings = search.settings
    metric, mode = str(settings.metric), str(settings.mode)
    record: dict[str, Any] = {"values": values, "state": "running", "score": None, "scores": [], "began": time.time()}
    _write(folder, record)
    early = settings.seeds == 1
    scores: list[float] = []
    stopped = False
    try:
        for i, run in enumerate(seed_folders(folder, settings.seeds)):
            stopped = _train(values, search, run, i, lambda value: early and report(value, False))
            score = best_of(evaluations(run, metric), mode)
            if score is None:
                raise ConfigError([f"{metric}: no evaluation of {run.name} returned a finite value"])
            scores.append(score)
            if stopped:
                break
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        _write(folder, {**record, "state": "failed", "reason": reason, "scores": scores, "ended": time.time()})
        raise
    mean = statistics.fmean(scores)
    state = "stopped" if stopped else "finished"
    _write(folder, {**record, "state": state, "score": mean, "scores": scores, "ended": time.time()})
    if not stopped:
        report(mean, True)
    return mean


def _train(values: Values, search: Search, run: Path, number: int, report: Callable[[float], bool]) -> bool:
    """Train the run of one seed; returns whether it was stopped early."""
    from trivium import launch
    from trivium.training.loop import Interrupted

    metric = str(search.settings.metric)
    before = evaluations(run, metric)
    for value in before:  # of a run that is continued, or has finished
        if report(value):
            return True
    end = read_end(run)
    if end.get("state", "finished" if end else None) == "finished":
        return False
    reporter = Reporter(metric, report)
    if search.config_dir is not None:
        look_in(*beside(search.config_dir))
    try:
        if (run / "config.yaml").exists():
            launch.resume(run, trusted=search.trusted, config_dir=_dir(search), display=reporter)
        else:
            chosen = [f"{key}={value}" for key, value in values.items()]
            seed = [f"seed={_base_seed(search) + number}"] if number else []
            config = compose([*search.overrides, *chosen, *seed], search.config_dir, run)
            launch.train(config, dir=run, config_dir=_dir(search), display=reporter)
    except Interrupted:
        if not reporter.stopped:
            raise
    return reporter.stopped


def _dir(search: Search) -> Path | None:
    return None if search.config_dir is None else Path(search.config_dir)


def _base_seed(search: Search) -> int:
    typed = [text.partition("=")[2] for text in search.overrides if text.startswith("seed=")]
    return int(typed[-1]) if typed else 0


def _write(folder: Path, record: dict[str, Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.json")
    temporary.write_text(strict_json.dumps(record))
    temporary.replace(folder.with_name(f"{folder.name}.json"))


def end_records(search: Search, trials: Path) -> None:
    """Complete the records of trials whose process has ended before they could: one that has evaluated was stopped, as
    Tune stops the last ones together with their processes; another one has failed."""
    metric, mode = str(search.settings.metric), str(search.settings.mode)
    for record in read_records(trials):
        if record["state"] != "running":
            continue
        folder = Path(record["dir"])
        found = [best_of(evaluations(run, metric), mode) for run in seed_folders(folder, search.settings.seeds)]
        scores = [score for score in found if score is not None]
        end: dict[str, Any] = {"state": "failed", "reason": "its process was lost before its first evaluation"}
        if scores:
            end = {"state": "stopped", "scores": scores, "score": statistics.fmean(scores)}
        _write(folder, {**{key: record[key] for key in ("values", "began")}, "score": None, "scores": [], **end})


def read_records(trials: Path) -> Iterator[dict[str, Any]]:
    """The records of a search's trials, in the order in which they began. Damaged ones are left out."""
    records = []
    for path in trials.glob("[!.]*.json"):
        with contextlib.suppress(OSError, untrusted.Refused):
            record = untrusted.read_json(path)
            if isinstance(record, dict) and isinstance(record.get("values"), dict):
                records.append({**record, "name": path.stem, "dir": str(path.with_suffix(""))})
    yield from sorted(records, key=lambda record: (untrusted_number(record.get("began")), record["name"]))


def untrusted_number(value: Any) -> float:
    """A number of a file that may be damaged; 0 for anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
