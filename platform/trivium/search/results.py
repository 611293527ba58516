"""What a search found: the ranking, the best settings as an experiment, the importance of each key."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trivium.boundary import strict_json, untrusted
from trivium.config.composing import read
from trivium.config.library import GROUPS, Library
from trivium.run_folder.state import runs_below
from trivium.search.settings import Search
from trivium.search.space import Choice, Dimension, as_numbers
from trivium.tracking import wandb_identity
from trivium.tracking.wandb_sink import WandbSink

RESULTS, BEST = "results.json", "best.yaml"


def front(records: Sequence[dict[str, Any]], modes: Sequence[str]) -> list[dict[str, Any]]:
    """The trials of the Pareto front: those that no other one is at least as good as in all objectives and better than
    in one. Of one objective the best."""
    scored = [record for record in records if record["scores"]]
    losses = {record["name"]: _losses(record, modes) for record in scored}

    def beaten(mine: list[float]) -> bool:
        return any(
            theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True)) for theirs in losses.values()
        )

    return [record for record in scored if not beaten(losses[record["name"]])]


def ranked(records: Sequence[dict[str, Any]], modes: Sequence[str]) -> list[dict[str, Any]]:
    """The trials that have scores: those of the Pareto front before the others, each by the first objective."""
    best = {record["name"] for record in front(records, modes)} if len(modes) > 1 else set()
    scored = [record for record in records if record["scores"]]
    return sorted(scored, key=lambda record: (record["name"] not in best, _losses(record, modes)))


def _losses(record: dict[str, Any], modes: Sequence[str]) -> list[float]:
    """The scores as what is to be small."""
    return [-score if mode == "max" else score for score, mode in zip(record["scores"], modes, strict=True)]


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
    """How much of the variance of the first objective each key explains that all trials have (Optuna's fANOVA, Hutter
    et al. 2014), summing to 1; empty for fewer than 4 scored trials, or where all scores are equal."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = search.space
    scored = [record for record in records if record["scores"]]
    if len(scored) < 4 or len({record["scores"][0] for record in scored}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    for record in scored:
        params = as_numbers(space, record["values"])
        distributions = {key: _distribution(space[key]) for key in params}
        score = float(record["scores"][0])
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=score))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(value) for key, value in found.items()}


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions

    if isinstance(dimension, Choice):
        return distributions.CategoricalDistribution(dimension.values)
    if dimension.whole:
        return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def write(search: Search, dir: Path, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write results.json and best.yaml.

    Returns:
        What results.json holds: metrics, modes, trials (the best first, then those without scores), best, front (the
        names of the Pareto front's), command and importance.
    """
    settings = search.settings
    order = ranked(records, settings.modes)
    trials = [*order, *(record for record in records if not record["scores"])]
    best = order[0] if order else None
    result = {
        "dir": str(dir),
        "metrics": settings.metrics,
        "modes": settings.modes,
        "trials": trials,
        "best": best,
        "front": [record["name"] for record in front(records, settings.modes)],
        "command": None if best is None else command(search, best["values"]),
        "importance": importance(search, records),
    }
    (dir / RESULTS).write_text(strict_json.dumps(result))
    if best is not None:
        shown = ", ".join(f"{name} {score:.6g}" for name, score in zip(settings.metrics, best["scores"], strict=True))
        title = f"The best of {len(order)} trials of {search.name}: {shown}"
        (dir / BEST).write_text(as_experiment(search, best["values"], title))
    return result


def track(search: Search, dir: Path, result: Mapping[str, Any]) -> None:
    """Keep the search as a run of its own on W&B, in the group of its trials: its space and settings, the score of each
    trial in the order in which they began, the best so far and the best one. Nothing where the trials are not there."""
    best = result["best"]
    runs = [] if best is None else runs_below(Path(best["dir"]))
    tracking: dict[str, Any] = read(runs[0])["tracking"] if runs else {"wandb": False}
    if not tracking["wandb"] or os.environ.get("WANDB_MODE") == "disabled":
        return
    known = wandb_identity.identity(dir, name=f"{search.name}/{dir.name}")
    described = {key: tracking[key] for key in ("entity", "group", "tags") if tracking[key]}
    sink = WandbSink(
        dir,
        run_id=known.id,
        name=known.name,
        project=tracking["project"],
        config={**search.as_dict(), "best": best["values"], "best_run": best["name"]},
        described={**described, "job_type": "search"},
    )
    better = max if search.settings.modes[0] == "max" else min
    leading: float | None = None
    scored = sorted((each for each in result["trials"] if each["scores"]), key=lambda each: float(each["began"]))
    for step, record in enumerate(scored, 1):
        leading = record["scores"][0] if leading is None else better(leading, record["scores"][0])
        scores = zip(search.settings.metrics, record["scores"], strict=True)
        sink.log({"step": step, **{f"search/{name}": score for name, score in scores}, "search/best": leading})
    sink.finish(failed=False)


def table(result: Mapping[str, Any], most: int = 10) -> list[str]:
    """The ranked trials, a line each, under a line of headings; of several objectives a star marks the Pareto front."""
    trials = [record for record in result["trials"] if record["scores"]][:most]
    if not trials:
        return []
    keys = list(dict.fromkeys(key for record in trials for key in record["values"]))
    starred = set(result["front"]) if len(result["metrics"]) > 1 else set()
    rows = [["", *keys, *result["metrics"], "state", "run"]]
    for rank, record in enumerate(trials, 1):
        values = [short(record["values"].get(key, "")) for key in keys]
        scores = [f"{score:.5g}" for score in record["scores"]]
        rows.append([f"{rank}{'*' * (record['name'] in starred)}", *values, *scores, record["state"], record["name"]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def short(text: str) -> str:
    """A value for a table: numbers with four digits."""
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text
