"""What a run folder says, made safe to use: whatever is missing, damaged or of the wrong type is empty."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trivium.boundary import untrusted
from trivium.checkpoints.storage import checkpoint_names
from trivium.report.curves import Point, best_index, number
from trivium.run_folder import log
from trivium.run_folder.state import State, progress, state_of
from trivium.tracking.tracker import Row, read_rows

MAX_COMMAND = 20_000  # characters of one that is composed again
MAX_LEAVES = 1_000  # keys of a config that a command can state


@dataclass
class Record:
    """One run folder; each part is read when it is asked for. `trusted`, `place`: see `report.write_report`."""

    dir: Path
    trusted: Collection[str] = ()
    place: str | None = None

    @cached_property
    def config_text(self) -> str:
        return self._text("config.yaml")

    @cached_property
    def config(self) -> dict[str, Any]:
        with contextlib.suppress(untrusted.Refused):
            return as_dict(untrusted.parse_yaml(self.config_text.encode(), "config.yaml"))
        return {}

    @cached_property
    def result(self) -> dict[str, Any]:
        """How the run ended; empty while it has not, or was killed."""
        return self._json("result.json")

    @cached_property
    def state(self) -> State:
        return state_of(self.dir)

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @cached_property
    def warnings(self) -> list[str]:
        """What the run warned of, the first line of each, in order."""
        with contextlib.suppress(OSError, untrusted.Refused):
            content = untrusted.read_bytes(self.dir / log.NAME, log.MAX_BYTES).decode("utf-8", errors="replace")
            return re.findall(rf"^[\d-]{{10}} [\d:]{{8}} {log.WARNED}(.*)$", content, re.MULTILINE)
        return []

    @cached_property
    def rows(self) -> list[Row]:
        try:
            rows = read_rows(self.dir / "metrics.jsonl")
        except (OSError, untrusted.Refused):
            return []
        return [row for row in rows if number(row.get("step")) is not None]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric: the result's, or the rows'."""
        logged = {k: v for row in self.rows for k, v in row.items() if "/" in k}
        values = {**logged, **as_dict(self.result.get("metrics"))}
        return {k: v for k, value in values.items() if (v := number(value)) is not None}

    @property
    def name(self) -> str:
        return str(self.result.get("name") or self.config.get("name") or self.dir.absolute().name)

    @property
    def axis(self) -> str:
        """What steps count, as a row's rate names it: samples, env steps."""
        names = (re.fullmatch(r"time/(\w+)_per_s", key) for row in self.rows for key in row)
        found = next((match[1] for match in names if match), None)
        return found.replace("_", " ") if found else "step"

    @property
    def last_step(self) -> float | None:
        return number(self.rows[-1]["step"]) if self.rows else None

    @property
    def progress(self) -> str | None:
        """How much of the budget is spent, in words."""
        last = {"time/elapsed_s": self.metrics.get("time/elapsed_s"), **(self.rows[-1] if self.rows else {})}
        return progress(self.config.get("budget"), last, self.result)

    @cached_property
    def checkpoints(self) -> list[str]:
        """Names, oldest first."""
        return checkpoint_names(self.dir / "checkpoints")

    @property
    def monitored(self) -> str | None:
        """The metric that decides which checkpoint is best."""
        return as_dict(self.config.get("monitor")).get("metric")

    @cached_property
    def best(self) -> tuple[float, float] | None:
        """Step and value of the best evaluation, if one is known."""
        monitor = as_dict(self.config.get("monitor"))
        points = [(x, y) for x, y in series_of(self.rows, str(self.monitored)) if y is not None]
        if monitor.get("mode") is None:  # the learner said which values are better
            return next((point for point in points if point[0] == self._step_kept_as_best()), None)
        index = best_index([y for _, y in points], str(monitor.get("mode")), number(monitor.get("min_delta")) or 0.0)
        return None if index is None else points[index]

    def _step_kept_as_best(self) -> int | None:
        """Where the run has its best evaluation, by its newest checkpoint or its result."""
        newest = self.checkpoints[-1:]
        kept = [self._json(f"checkpoints/{name}/manifest.json").get("best") for name in newest]
        kept.append(self.result.get("checkpoint") if self.state == "finished" else None)
        steps = (re.fullmatch(r"step-(\d{1,18})", str(name)) for name in kept)
        return next((int(step[1]) for step in steps if step), None)

    def _text(self, name: str) -> str:
        with contextlib.suppress(OSError, untrusted.Refused):
            content = untrusted.read_bytes(self.dir / name, untrusted.MAX_CONFIG_BYTES)
            return content.decode("utf-8", errors="replace")
        return ""

    def _json(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(OSError, untrusted.Refused):
            return as_dict(untrusted.read_json(self.dir / name))
        return {}


def series_of(rows: list[Row], metric: str) -> list[Point]:
    """The points of a metric: a row without it is none, a value that can't be drawn (null: it was infinite) a gap."""
    return [(float(row["step"]), number(row[metric])) for row in rows if metric in row]


def panels_of(names: Iterable[str], monitored: str | None) -> list[tuple[str, list[str]]]:
    """The titles of the panels and the metrics in each: what is trained and evaluated under one name shares one. First
    what decides the best checkpoint, then what is evaluated, then what only training says; without time/ and system/.

    Example:
        train/loss, train/lr, eval/loss, eval/accuracy; eval/accuracy
        -> eval/accuracy: [eval/accuracy], loss: [train/loss, eval/loss], train/lr: [train/lr].
    """
    quantities: dict[str, list[str]] = {}
    for name in names:
        prefix, slash, quantity = name.partition("/")
        if slash and prefix not in ("time", "system", "test"):
            quantities.setdefault(quantity, []).append(name)
    order = {"train": 0, "eval": 1}

    def rank(members: list[str]) -> int:
        return 0 if monitored in members else 1 if any(m.startswith("eval/") for m in members) else 2

    shared = [sorted(members, key=lambda m: order.get(m.partition("/")[0], 2)) for members in quantities.values()]
    return [(m[0] if len(m) == 1 else m[0].partition("/")[2], m) for m in sorted(shared, key=rank)]


def repeat_command(config: dict[str, Any], recorded: str = "", trusted: Collection[str] = ()) -> str | None:
    """The `trivium train ...` that composes to exactly this config here and now, ready for a shell.

    Args:
        recorded: the command that the run was started with, preferred if it does: an experiment may have changed since,
            the run may have been resumed with other values, or started from Python.
        trusted: the modules that may be imported to compose it; all of these texts may be a stranger's.

    Returns:
        None if there is none: the config is of no experiment that Trivium knows.
    """
    from trivium.config.composing import compose

    words = split_command(recorded) if len(recorded) <= MAX_COMMAND else []
    leaves = dict(_leaves(config))
    if len(leaves) > MAX_LEAVES or any("${" in str(text) for text in (recorded, *leaves.values())):
        return None  # OmegaConf would look up what it refers to
    with contextlib.suppress(Exception):  # of a stranger's command, or one with options
        if words[:2] == ["trivium", "train"] and compose(words[2:], trusted=trusted) == config:
            return shlex.join(words)
    name, engine = config.get("name"), as_dict(config.get("launch")).get("engine")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        return None
    overrides = [f"experiment={name}", *(["launch=ray"] if engine == "ray" else [])]
    try:
        base = dict(_leaves(compose(overrides, trusted=trusted)))
        for key, value in leaves.items():
            if key not in base or base[key] != value:
                overrides.append(f"{'' if key in base else '+'}{key}={_typed(value)}")
        if leaves != base and compose(overrides, trusted=trusted) != config:
            return None
    except Exception:  # of a damaged or a stranger's config; a report does without the command
        return None
    return shlex.join(["trivium", "train", *overrides])


def split_command(command: str) -> list[str]:
    """The words of a recorded command."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _typed(value: Any) -> str:
    """A value in the grammar of overrides."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, str) and not re.fullmatch(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z][\w./-]*", value, re.I):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a nested dict and their values; an empty dict is a leaf."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is a dict, with strings for keys; else an empty one."""
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}
