"""What concerns several keys, where none of them is wrong by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trivium.config import constructors
from trivium.config.checks.devices import num_gpus, wrong_device
from trivium.config.checks.values import UNITS, not_counted
from trivium.config.library import LEARNERS
from trivium.config.problems import Found, Kind, Problem
from trivium.config.rules.metrics import direction, no_metric
from trivium.config.rules.settings import TARGET
from trivium.config.rules.signatures import stated
from trivium.config.rules.sizes import indivisible, not_shared
from trivium.config.tree import get, leaves


def check_whole(config: dict[str, Any], found: Found) -> None:
    """What concerns several keys, where none of them is wrong by itself."""
    budget, evaluation, monitor, launch = (config[k] for k in ("budget", "evaluation", "monitor", "launch"))
    chosen = [g for g in LEARNERS if config.get(g)]
    if len(chosen) != 1:
        found.add(Problem(Kind.LEARNERS, "learner", details={"chosen": " and ".join(chosen) or "nothing"}))
    if found.none_in("budget"):
        if all(value is None for value in budget.values()):
            found.add(Problem(Kind.NO_END, "budget", details={"units": ", ".join(budget)}))
        _check_units(config, found)
    if found.none_in("monitor") and monitor["patience"] is not None and monitor["metric"] is None:
        found.add(Problem(Kind.NO_METRIC_CHOSEN, "monitor.patience"))
    if found.none_in("evaluation", "budget", "monitor"):
        needed = budget["target"] or monitor["patience"]
        if needed and not any(evaluation.values()):
            found.add(Problem(Kind.NO_EVALUATION, "evaluation"))
    if len(chosen) == 1:
        evaluates = constructors.stated_by_learner(config, "evaluates")
        if evaluates is not None:  # else the learner itself is asked, when it is there
            check_metrics(config, evaluates, found)
        _check_divisions(config, chosen[0], found)
    inline = isinstance(launch, dict) and launch.get("engine") == "inline"
    if inline and found.none_in("launch") and launch["workers"] != 1:
        found.add(Problem(Kind.INLINE, "launch.workers", launch["workers"]))
    check_workers(config, found)
    if inline and found.none_in("device") and (problem := wrong_device(config)):
        found.add(problem)


def check_metrics(config: dict[str, Any], evaluates: Iterable[str] | None, found: Found) -> None:
    """A run may follow only a metric that its learner evaluates, and must know which values of it are better.

    Args:
        evaluates: see `trivium.learner.Learner`; None: the learner does not state them.
    """
    metric = get(config, "monitor.metric")
    target = TARGET.match(str(get(config, "budget.target")))
    if evaluates is not None:
        names = [f"eval/{name}" for name in evaluates]
        for key, name in {"monitor.metric": metric, "budget.target": target and target.group(1)}.items():
            if name is not None and name not in names:
                found.add(no_metric(key, name, names))
    unclear = metric is not None and get(config, "monitor.mode") is None and not direction(evaluates, metric)
    if unclear and found.none_in("monitor"):
        valid = ("monitor.mode=min", "monitor.mode=max")
        found.add(Problem(Kind.DIRECTION, "monitor.mode", None, valid, details={"metric": metric}))


def check_workers(config: dict[str, Any], found: Found) -> None:
    """What would stop every worker on Ray: sizes that can't be divided among them, devices that are not there."""
    launch = config["launch"]
    if not isinstance(launch, dict) or launch.get("engine") != "ray" or not found.none_in("launch"):
        return
    workers, gpus = launch["workers"], launch.get("gpus_per_worker", "auto")
    for key in shared_sizes(config):
        size = get(config, key)
        if isinstance(size, int) and key not in found and (problem := not_shared(key, size, workers)):
            found.add(problem)
    device = str(config.get("device"))
    asks = {"cpu": 0, "cuda": 1}
    if not found.none_in("device"):
        return
    if device not in ("auto", "cpu", "cuda"):
        found.add(Problem(Kind.DEVICE_ON_RAY, "device", device, ("auto", "cpu", "cuda")))
    elif gpus != "auto" and asks.get(device, gpus) != gpus:
        valid = ("auto", str(asks[device]))
        found.add(Problem(Kind.GPUS_OF_DEVICE, "launch.gpus_per_worker", gpus, valid, details={"device": device}))
    elif asks.get(device, gpus) == 1 or gpus == 1:
        from trivium.on_ray.cluster import starts_here

        if starts_here() and (have := num_gpus()) < workers:
            key, value = ("device", device) if gpus == "auto" else ("launch.gpus_per_worker", gpus)
            found.add(Problem(Kind.FEW_GPUS, key, value, details={"workers": workers, "have": have}))


def shared_sizes(config: dict[str, Any]) -> list[str]:
    """The keys of sizes that workers hold equal shares of, as the class of the learner declares them."""
    chosen = [group for group in LEARNERS if config.get(group)]
    names = stated(get(config, f"{chosen[0]}._target_"), "shared") if chosen else None
    return [name if "." in name else f"{chosen[0]}.{name}" for name in names or ()]


def _check_divisions(config: dict[str, Any], group: str, found: Found) -> None:
    values = {key: value for key, value in leaves(config) if key not in found}
    divides = stated(get(config, f"{group}._target_"), "divides") or {}
    workers = values.get("launch.workers", 1)
    for problem in indivisible(divides, values, group=group, workers=workers):
        found.add(problem)


def _check_units(config: dict[str, Any], found: Found) -> None:
    others = not_counted(config)
    valid = tuple(f"budget.{unit}" for unit in UNITS if unit not in others)
    for unit in others:
        if config["budget"][unit] is not None:
            details = {"group": "agent" if config.get("agent") else "learner", "unit": valid[0].partition(".")[2]}
            found.add(Problem(Kind.UNIT, f"budget.{unit}", config["budget"][unit], valid, details=details))
