"""Resolve a merged config to plain data: interpolations, types of numbers, the home folder, what is derived."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trivium.config import constructors
from trivium.config.checks.places import is_path
from trivium.config.constructors import stated_by_learner
from trivium.config.errors import Config
from trivium.config.library import LEARNERS
from trivium.config.merging import Merged, Origins, as_it_stands, one_line
from trivium.config.problems import Found, Kind, Problem
from trivium.config.rules.metrics import direction
from trivium.config.rules.rule import Rule
from trivium.config.rules.settings import rules_of_settings
from trivium.config.tree import get, has, leaves


@dataclass(frozen=True)
class Resolved:
    """A config as the run gets it, if nothing is wrong with it.

    Attributes:
        config: plain data.
        reference, origins, guessed, unclear: see `Merged`.
    """

    config: Config
    reference: Config
    origins: Origins
    guessed: tuple[str, ...]
    unclear: bool


def resolve(merged: Merged, found: Found) -> Resolved:
    """Resolve interpolations, convert values to the types of signatures, and set what follows from other keys. Errors
    are interpolations that lead nowhere."""
    tied = _tied_to_budget(as_it_stands(merged.tree))
    resolved = {**_interpolated(merged.tree, found), **tied}
    config: Config = _with_home(converted(resolved, constructors.rules_of(resolved)))
    origins = merged.origins
    if config.get("name") == merged.reference["name"] and not origins.layers:
        config["name"] = _name(config, origins.options)
    if project := _project_of_environment(config, origins):
        config["tracking"]["project"] = project
        origins = replace(origins, variables={"tracking.project": "WANDB_PROJECT"})
    if not merged.unclear:
        config = with_direction(config)
    return Resolved(config, merged.reference, origins, merged.guessed, merged.unclear)


def converted(node: Any, rules: Mapping[str, Rule], path: str = "") -> Any:
    """A copy of a nested dict with each valid value in the type that its key's rule asks for: whole numbers such as 1e6
    are integers where only those are valid, 1 is 1.0 where a constructor expects a float, and `.inf`, a text on Hydra's
    command line, is a number where infinity is valid."""
    if path in rules:
        if not rules[path].accepts(node) or (type(node) is int and path in rules_of_settings()):
            return node  # `budget.epochs=3` is shown as it is typed
        return rules[path].converted(node)
    if isinstance(node, dict):
        return {k: converted(v, rules, f"{path}.{k}" if path else str(k)) for k, v in node.items()}
    return node


def with_direction(config: Config) -> Config:
    """Where `monitor.mode` is null, the direction that the learner's source states for the metric that is followed."""
    monitor = config["monitor"]
    if not isinstance(monitor, dict) or monitor.get("mode") is not None:
        return config
    evaluates = stated_by_learner(config, "evaluates")
    return {**config, "monitor": {**monitor, "mode": direction(evaluates, monitor.get("metric"))}}


def _interpolated(tree: DictConfig, found: Found) -> Config:
    """Plain data; a value that can't be resolved is an error and null."""
    while True:
        try:
            return OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
        except OmegaConfBaseException as error:
            key = re.sub(r"\[(\w+)\]", r".\1", str(error.full_key or ""))
            if not has(OmegaConf.to_container(tree), key):
                raise
            found.add(Problem(Kind.UNRESOLVED, key, details={"reason": one_line(error)}))
            OmegaConf.update(tree, key, None)


def _tied_to_budget(tree: Any) -> Config:
    """Where there are any, under `tied_to_budget` and by unit, the keys that hold `${budget.<unit>}`: a resumed run
    with another budget gives them its value."""
    tied: dict[str, list[str]] = {}
    for path, value in leaves(tree):
        interpolation = re.fullmatch(r"\$\{budget\.(\w+)\}", value) if isinstance(value, str) else None
        if interpolation:
            tied.setdefault(interpolation[1], []).append(path)
    return {"tied_to_budget": tied} if tied else {}


def _with_home(node: Any, path: str = "") -> Any:
    """A copy of a nested dict in which `~` is the home folder where a path begins with it."""
    if isinstance(node, dict):
        return {key: _with_home(value, f"{path}.{key}" if path else str(key)) for key, value in node.items()}
    return os.path.expanduser(node) if isinstance(node, str) and is_path(path) else node


def _name(config: Config, options: Mapping[str, str]) -> str:
    """What a run without an experiment is called: what on what, as experiments are."""
    what = next((options[g] for g in LEARNERS if g in options), "run")
    on = (config.get("env") or {}).get("id") if "env" in options else options.get("data")
    return re.sub(r"[^\w.-]+", "-", f"{what}_{on}" if on else what)


def _project_of_environment(config: Config, origins: Origins) -> str | None:
    """The W&B project that the user's environment names for a run that W&B tracks, unless the config names one."""
    typed = any("tracking.project".startswith(key) for key in origins.typed)
    if typed or any(has(layer.body, "tracking.project") for layer in origins.layers):
        return None
    return os.environ.get("WANDB_PROJECT") or None if get(config, "tracking.wandb") is True else None
