"""What a search found: the ranking, the best settings as an experiment, the importance of each key."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trivium.boundary import strict_json, untrusted
from trivium.config.library import GROUPS, Library
from trivium.search.driver import short
from trivium.search.settings import Search
from trivium.search.space import Choice, as_numbers

RESULTS, BEST = "results.json", "best.yaml"


def ranked(records: Sequence[dict[str, Any]], mode: str) -> list[dict[str, Any]]:
    """The trials that have a score, the best first."""
    scored = [record for record in records if record["score"] is not None]
    return sorted(scored, key=lambda record: -record["score"] if mode == "max" else record["score"])


def overrides_of(search: Search, values: Mapping[str, str]) -> list[str]:
    """The overrides that train a trial's settings again."""
    return [*search.overrides, *(f"{key}={value}" for key, value in values.items())]


def command(search: Search, values: Mapping[str, str]) -> str:
    """The command that trains them."""
    directory = [] if search.config_dir is None else ["--config-dir", search.config_dir]
    return shlex.join(["trivium", "train", *overrides_of(search, values), *directory])


def as_experiment(search: Search, values: Mapping[str, str], title: str) -> str:
    """The settings as an experiment file: what the search's experiment says, with the changes in it."""
    groups: dict[str, str] = {}
    changes: list[tuple[str, str]] = []
    for text in overrides_of(search, values):
        key, _, value = text.partition("=")
        if key in GROUPS:
            groups[key] = value
        else:
            changes.append((key, value))
    library = Library(None if search.config_dir is None else Path(search.config_dir))
    path = library.find("experiment", groups.pop("experiment", "mlp_digits"))
    body: dict[str, Any] = {} if path is None else dict(untrusted.read_yaml(path) or {})
    defaults = list(body.pop("defaults", []))
    for group, option in groups.items():
        defaults = [entry for entry in defaults if not _chooses(entry, group)]
        defaults.append({f"override /{group}": option})
    for key, value in changes:
        node = body
        *above, last = key.lstrip("+").split(".")
        for part in above:
            node[part] = dict(node[part]) if isinstance(node.get(part), dict) else {}
            node = node[part]
        node[last] = yaml.safe_load(value)
    head = f"# @package _global_\n# {title}\n# {command(search, values)}\n"
    return head + yaml.safe_dump({"defaults": defaults, **body} if defaults else body, sort_keys=False)


def _chooses(entry: Any, group: str) -> bool:
    return isinstance(entry, dict) and any(str(key).split()[-1].lstrip("/") == group for key in entry)


def importance(search: Search, records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How much of the score's variance each key explains (Optuna's fANOVA, Hutter et al. 2014), summing to 1; empty for
    fewer than 4 scored trials, or where all scores are equal."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = search.space
    scored = ranked(records, "max")
    if len(scored) < 4 or len({record["score"] for record in scored}) < 2:
        return {}
    distributions: dict[str, Any] = {}
    for key, dimension in space.items():
        if isinstance(dimension, Choice):
            distributions[key] = optuna.distributions.CategoricalDistribution(dimension.values)
        elif dimension.whole:
            low, high = int(dimension.low), int(dimension.high)
            distributions[key] = optuna.distributions.IntDistribution(low, high, log=dimension.log)
        else:
            distributions[key] = optuna.distributions.FloatDistribution(
                dimension.low, dimension.high, log=dimension.log
            )
    study = optuna.create_study(direction="maximize")
    for record in scored:
        params = as_numbers(space, record["values"])
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=float(record["score"]))
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(value) for key, value in found.items()}


def write(search: Search, dir: Path, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write results.json and best.yaml.

    Returns:
        What results.json holds: metric, mode, trials (the best first, then those without a score), best, command and
        importance.
    """
    settings = search.settings
    order = ranked(records, str(settings.mode))
    trials = [*order, *(record for record in records if record["score"] is None)]
    best = order[0] if order else None
    result = {
        "dir": str(dir),
        "metric": settings.metric,
        "mode": settings.mode,
        "trials": trials,
        "best": best,
        "command": None if best is None else command(search, best["values"]),
        "importance": importance(search, records),
    }
    (dir / RESULTS).write_text(strict_json.dumps(result))
    if best is not None:
        title = f"The best of {len(order)} trials of {search.name}: {settings.metric} {best['score']:.6g}"
        (dir / BEST).write_text(as_experiment(search, best["values"], title))
    return result


def table(result: Mapping[str, Any], most: int = 10) -> list[str]:
    """The ranked trials, a line each, under a line of headings."""
    trials = [record for record in result["trials"] if record["score"] is not None][:most]
    if not trials:
        return []
    keys = list(trials[0]["values"])
    rows = [["", *keys, str(result["metric"]), "state", "run"]]
    for rank, record in enumerate(trials, 1):
        values = [short(record["values"].get(key, "")) for key in keys]
        rows.append([str(rank), *values, f"{record['score']:.5g}", record["state"], record["name"]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
