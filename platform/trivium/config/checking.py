"""What can be wrong with a config, each in one line: unknown keys, impossible values, and what concerns several keys.

Nothing here imports torch, except to count GPUs where there may be one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trivium.boundary import credentials
from trivium.boundary.places import VARIABLE, find_data, is_bucket
from trivium.config import constructors, env_ids, hints
from trivium.config.errors import Found
from trivium.config.library import BUILT, LEARNERS
from trivium.config.rules.defaults import noun, wrong_scalar, wrong_type
from trivium.config.rules.metrics import direction, no_metric
from trivium.config.rules.rule import Rule, show
from trivium.config.rules.settings import TARGET
from trivium.config.rules.signatures import stated
from trivium.config.rules.sizes import indivisible, not_shared
from trivium.config.tree import get, has, leaves

UNITS = ("samples", "epochs", "env_steps", "updates", "minutes")  # of a budget
FILE_KEYS = ("path", "file", "folder")  # and what ends in `_path`, ...: must exist


def is_path(key: str) -> bool:
    """Whether a key holds the path of a file or folder, by its name."""
    return key == "storage" or key.rpartition(".")[2].rpartition("_")[2] in FILE_KEYS


# ----------------------------------------------------------------------------------------------- values


def check_values(config: dict[str, Any], reference: dict[str, Any], where: Callable[[str], str], found: Found) -> None:
    """The type and the range of every value. What is wrong with the budget is not said again of keys tied to it.

    Args:
        reference: the same keys with Trivium's own values, from which types are known.
        where: names the file that a key stands in, "" for what was typed.
    """
    rules = constructors.rules_of(config)
    for path, value, expected in _wrong(config, reference, "", rules, own=True):
        group = get(reference, path)
        near = hints.for_group(path, value, group, _not_counted(config)) if isinstance(group, dict) and group else None
        hint = f"; did you mean '{near}'?" if near else ""
        found.add(path, f"{path}={show(value)}: must be {expected}{hint}{hints.in_file(where(path))}")
    if not found.none_in("budget"):
        found.forget(key for keys in config.get("tied_to_budget", {}).values() for key in keys)


def _wrong(
    value: Any, default: Any, path: str, rules: Mapping[str, Rule], *, own: bool
) -> Iterator[tuple[str, Any, str]]:
    """Each wrong value with what it must be. `own`: Trivium says what the key means, not a user's constructor."""
    if (rule := rules.get(path)) is not None:
        if not rule.accepts(value):
            near = rule.nearest(value)
            yield path, value, rule.words() + (f"; did you mean '{near}'?" if near else "")
        return
    if isinstance(default, dict) and default and not (value is None and path in BUILT):
        if not isinstance(value, dict):
            yield path, value, f"a group with the keys {', '.join(k for k in default if not k.startswith('_'))}"
            return
    elif (
        isinstance(value, dict)
        and not isinstance(default, dict)
        and default is not None  # else a constructor may take a group
    ):
        yield path, value, noun(default)
        return
    if isinstance(value, dict):
        own = str(value.get("_target_", "trivium.")).startswith(("trivium.", "torch.")) if "_target_" in value else own
        own = own and default != {}
        for key, item in value.items():
            below = default.get(key) if isinstance(default, dict) else None
            yield from _wrong(item, below, f"{path}.{key}" if path else str(key), rules, own=own)
        return
    expected = wrong_type(value, default) if own else wrong_scalar(value, default)
    if expected:
        yield path, value, expected


def check_paths(config: dict[str, Any], where: Callable[[str], str], found: Found, *, must_exist: bool = True) -> None:
    """What a config reads must be files or folders, for a pipe may be silent and a device has no end.

    Args:
        where: see `check_values`.
        must_exist: False where nothing may have to be read: a trained model is used without its data.
    """
    for path, value in leaves(config):
        if not isinstance(value, str) or path == "storage" or not is_path(path):
            continue
        place = find_data(value)
        if place.is_file() or place.is_dir() or not (must_exist or place.exists()):
            continue
        expected = "a file or folder" + (
            "" if place.exists() else f" that exists, here or in the folder that {VARIABLE} names"
        )
        found.add(path, f"{path}={show(value)}: must be {expected}{hints.in_file(where(path))}")


LEFT = (".lock", ".config.yaml")  # by a run that was killed as it began


def check_run_folder(place: Path | str, found: Found) -> None:
    """A new run needs a folder that is empty or not there yet."""
    if not str(place):
        found.add("--dir", "--dir '': must be the path of a folder")
        return
    dir = Path(place).absolute()
    if (dir / "config.yaml").exists():
        found.add("--dir", f"--dir: {dir} holds a run already; trivium resume {dir} continues it")
    elif dir.exists() and (not dir.is_dir() or any(not path.name.startswith(LEFT) for path in dir.iterdir())):
        found.add("--dir", f"--dir: {dir} exists and is not an empty folder")
    else:
        above = _nearest_above(dir)
        if not above.is_dir():
            found.add("--dir", f"--dir: {dir} can't be made, for {above} is a file")
        elif not os.access(above, os.W_OK):
            found.add("--dir", f"--dir: {dir} can't be made, for {above} can't be written")


def check_storage(storage: str, found: Found, *, holds_runs: bool) -> None:
    """It may hold no credentials. If runs are to be folders below it, no file may be in the way."""
    if problem := credentials.problem(storage) if is_bucket(storage) else None:
        found.add("storage", f"storage={credentials.mask(storage)}: {problem}")
    if not holds_runs:
        return
    above = Path("/") if is_bucket(storage) else _nearest_above(Path(storage).absolute())
    if not above.is_dir():
        found.add("storage", f"storage={storage}: must be a folder, and {above} is a file")


def _nearest_above(path: Path) -> Path:
    """The nearest that is there and can be seen."""
    for one in (path, *path.parents):
        with contextlib.suppress(OSError):  # a name too long, a folder that is not ours to look into
            if one.exists():
                return one
    return path


def check_tied(config: dict[str, Any], file: str, found: Found) -> None:
    """What a run folder says of its keys that follow the budget: lists of keys that are there, by unit."""
    tied = config.get("tied_to_budget", {})
    keys = list(tied.values()) if isinstance(tied, dict) else [None]
    if not all(isinstance(k, list) and all(isinstance(key, str) and has(config, key) for key in k) for k in keys):
        found.add("tied_to_budget", f"tied_to_budget: must be lists of keys by unit of the budget ({file})")
    elif isinstance(config["budget"], dict) and not all(has(config, f"budget.{unit}") for unit in tied):
        found.add("tied_to_budget", f"tied_to_budget: has a unit that the budget has not ({file})")


def check_whole(config: dict[str, Any], found: Found) -> None:
    """What concerns several keys, where none of them is wrong by itself."""
    budget, evaluation, monitor, launch = (config[k] for k in ("budget", "evaluation", "monitor", "launch"))
    chosen = [g for g in LEARNERS if config.get(g)]
    if len(chosen) != 1:
        line = f"{' and '.join(chosen) or 'nothing'} chosen: exactly one of learner=<...> and agent=<...>"
        found.add("learner", line)
    if found.none_in("budget"):
        if all(value is None for value in budget.values()):
            found.add("budget", f"budget: nothing ends this run; set at least one of {', '.join(budget)}")
        _check_units(config, found)
    if found.none_in("monitor") and monitor["patience"] is not None and monitor["metric"] is None:
        found.add("monitor", "monitor.patience: early stopping needs monitor.metric, e.g. monitor.metric=eval/loss")
    if found.none_in("evaluation", "budget", "monitor"):
        needed = budget["target"] or monitor["patience"]
        if needed and not any(evaluation.values()):
            line = "evaluation: a target or patience needs evaluation.every_updates or evaluation.every_s"
            found.add("evaluation", line)
    if len(chosen) == 1:
        evaluates = constructors.stated_by_learner(config, "evaluates")
        if evaluates is not None:  # else the learner itself is asked, when it is there
            check_metrics(config, evaluates, found)
        _check_divisions(config, chosen[0], found)
    inline = isinstance(launch, dict) and launch.get("engine") == "inline"
    if inline and found.none_in("launch") and launch["workers"] != 1:
        found.add("launch", f"launch.workers={launch['workers']}: one process runs inline; several need launch=ray")
    check_workers(config, found)
    if inline and found.none_in("device"):
        for line in _check_device(config):
            found.add("device", line)


def check_metrics(config: dict[str, Any], evaluates: Iterable[str] | None, found: Found) -> None:
    """A run may follow only what its learner says that it evaluates, and must know which way that is better.

    Args:
        evaluates: see `trivium.learner.Learner`; None: the learner does not say.
    """
    metric = get(config, "monitor.metric")
    target = TARGET.match(str(get(config, "budget.target")))
    if evaluates is not None:
        names = [f"eval/{name}" for name in evaluates]
        for key, name in {"monitor.metric": metric, "budget.target": target and target.group(1)}.items():
            if name is not None and name not in names:
                found.add(key, no_metric(key, name, names))
    unclear = metric is not None and get(config, "monitor.mode") is None and not direction(evaluates, metric)
    if unclear and found.none_in("monitor"):
        line = f"monitor.mode: the learner does not say which values of {metric} are better"
        found.add("monitor.mode", f"{line}; valid: monitor.mode=min, monitor.mode=max")


def check_workers(config: dict[str, Any], found: Found) -> None:
    """What would stop every worker on Ray: sizes that can't be divided among them, devices that are not there."""
    launch = config["launch"]
    if not isinstance(launch, dict) or launch.get("engine") != "ray" or not found.none_in("launch"):
        return
    workers, gpus = launch["workers"], launch.get("gpus_per_worker", "auto")
    for key in shared_sizes(config):
        size = get(config, key)
        if isinstance(size, int) and key not in found.lines and (problem := not_shared(key, size, workers)):
            found.add(key, problem)
    device = str(config.get("device"))
    asks = {"cpu": 0, "cuda": 1}
    if not found.none_in("device"):
        return
    if device not in ("auto", "cpu", "cuda"):
        what = "workers on Ray train on CPUs or on the CUDA devices that Ray gives them"
        found.add("device", f"device={device}: {what}; valid: auto, cpu, cuda")
    elif gpus != "auto" and asks.get(device, gpus) != gpus:
        found.add(
            "launch.gpus_per_worker", f"launch.gpus_per_worker={gpus}: device={device}; valid: auto, {asks[device]}"
        )
    elif asks.get(device, gpus) == 1 or gpus == 1:
        from trivium.on_ray.cluster import starts_here

        if starts_here() and (have := _num_gpus()) < workers:
            key, value = ("device", device) if gpus == "auto" else ("launch.gpus_per_worker", gpus)
            found.add(key, f"{key}={value}: {workers} workers need {workers} GPUs, here are {have}")


def shared_sizes(config: dict[str, Any]) -> list[str]:
    """The keys of sizes that workers hold equal shares of, as the class of the learner declares them."""
    chosen = [group for group in LEARNERS if config.get(group)]
    names = stated(get(config, f"{chosen[0]}._target_"), "shared") if chosen else None
    return [name if "." in name else f"{chosen[0]}.{name}" for name in names or ()]


def _check_divisions(config: dict[str, Any], group: str, found: Found) -> None:
    values = {key: value for key, value in leaves(config) if key not in found.lines}
    divides = stated(get(config, f"{group}._target_"), "divides") or {}
    workers = values.get("launch.workers", 1)
    for key, problem in indivisible(divides, values, group=group, workers=workers):
        found.add(key, problem)


def check_env(config: dict[str, Any], found: Found, trusted: Collection[str]) -> None:
    """Whether Gymnasium knows the id given to Trivium's own env group; for `trusted` see `trivium.training.builder`."""
    env = config.get("env")
    if isinstance(env, dict) and str(env.get("_target_")).startswith("trivium.") and isinstance(env.get("id"), str):
        if env.get("vector") == "envpool":  # which has ids of its own
            return
        if problem := env_ids.problem(env["id"], trusted):
            found.add("env.id", problem)


def _check_units(config: dict[str, Any], found: Found) -> None:
    others = _not_counted(config)
    for unit in others:
        if config["budget"][unit] is not None:
            what = "agent" if config.get("agent") else "learner"
            valid_units = ", ".join(f"budget.{u}" for u in UNITS if u not in others)
            counts = next(u for u in UNITS if u not in others)
            found.add(f"budget.{unit}", f"budget.{unit}: the {what} counts {counts}; valid: {valid_units}")


def _not_counted(config: dict[str, Any]) -> tuple[str, ...]:
    """The units of the budget that are not the learner's: Trivium's own agents count env steps, its other learners
    samples and epochs; a user's may count anything."""
    chosen = [g for g in LEARNERS if config.get(g)]
    if len(chosen) != 1 or not str(get(config, f"{chosen[0]}._target_")).startswith("trivium."):
        return ()
    return ("samples", "epochs") if chosen[0] == "agent" else ("env_steps",)


def _check_device(config: dict[str, Any]) -> list[str]:
    device = config["device"]
    kind, _, index = device.partition(":")
    if kind not in ("cuda", "mps"):
        return []
    if kind == "mps" and config.get("agent"):
        return [f"device={device}: agents step envs and sum in float64, which MPS has not; valid: auto, cpu"]
    if kind == "mps":
        import torch

        count = int(torch.backends.mps.is_available())
    else:
        count = _num_gpus()
    if int(index or 0) < count:
        return []
    plural = "s" if count > 1 else ""
    return [f"device={device}: this machine has {count or 'no'} {kind.upper()} device{plural}; valid: auto, cpu"]


def _num_gpus() -> int:
    if not may_have_gpu():
        return 0
    import torch

    return torch.cuda.device_count()


def may_have_gpu() -> bool:
    """False only where torch could find no GPU, by the drivers' device files; spares an import of torch."""
    names = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")
    return sys.platform != "linux" or any(True for name in names for _ in Path("/dev").glob(name))


def check_constructors(
    config: dict[str, Any], where: Callable[[str], str], found: Found, trusted: Collection[str]
) -> None:
    """The names to be built and their keywords, see `trivium.config.constructors`."""
    for path, text in constructors.problems(config, trusted=trusted):
        found.add(path, f"{path}: {text}{hints.in_file(where(path))}")
