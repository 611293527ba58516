"""From names in a config to objects: the only place that instantiates.

`_target_: package.module.Name` calls that name with the node's other keys; with `_partial_: true` it is kept as a
`functools.partial` for whoever knows the rest. What the user types is theirs to trust. A config read from a run
folder may come from a stranger: it builds only names that Trivium's own YAML lists and torch's modules, optimizers
and schedules, unless the user names a module to trust.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from trivium.config import constructors
from trivium.config.constructors import EVERYTHING
from trivium.config.errors import Config, ConfigError
from trivium.config.library import LEARNERS, PARTS
from trivium.config.problems import Kind, Problem
from trivium.config.rules.source import Unusable

if TYPE_CHECKING:
    from trivium.data.source import Splits
    from trivium.learner import Learner, Run

GIVEN = "trivium.python.objects.data"  # stands for a part that is given, whatever it is

__all__ = ["EVERYTHING", "build_learner", "check_learner"]


def build_learner(
    config: Config, run: Run, *, trusted: Collection[str] = EVERYTHING, given: Mapping[str, Any] | None = None
) -> Learner:
    """Build the learner that a config describes, and the parts that it is handed.

    Args:
        config: as `trivium.config.compose` returns it; it is not changed, nor handed on.
        run: where the learner runs.
        trusted: the modules besides Trivium's and torch's own whose names may be built; a module's submodules too.
        given: parts in the place of those that the config describes, by group.

    Raises:
        ConfigError: see `check_learner`; or a value that a constructor refuses.
    """
    given = given or {}
    config = {**config, **{group: {"_target_": GIVEN} for group in given}}
    check_learner(config, trusted=trusted)
    groups = constructors.chosen_groups(config)
    building = ""
    try:
        parts = {}
        for building in (g for g in PARTS if g in groups):
            parts[building] = given[building] if building in given else _build(groups[building], trusted)
        building = next(g for g in LEARNERS if g in groups)
        learner: Learner = _build(groups[building], trusted, run=run, **parts)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError([_named(" ".join(str(error).split()), building, groups)]) from error
    except Exception as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, MemoryError) or re.search("can't allocate|out of memory", why):
            raise ConfigError([f"{building}: this machine has not the memory for it: {why}"]) from error
        # What many constructors raise at a value of another type or size; --trace tells it from a bug.
        users_part = building in PARTS and not str(groups[building].get("_target_")).startswith("trivium.")
        if users_part or isinstance(error, TypeError | ArithmeticError):
            line = f"{building}: {why} ({type(error).__name__}; --trace shows where)"
            raise ConfigError([_named(line, building, groups)]) from error
        raise
    return learner


def build_data(config: Config, *, trusted: Collection[str] = EVERYTHING) -> Splits:
    """Build the data set of a config alone, on the CPU.

    Raises:
        ConfigError: there is none, or it can't be built.
    """
    import torch

    from trivium.data.checks import checked

    groups = constructors.chosen_groups(config)
    if "data" not in groups:
        raise ConfigError(["data: the config names no data set"])
    try:
        return checked(_build(groups["data"], trusted), torch.device("cpu"))
    except ValueError as error:
        raise ConfigError([_named(" ".join(str(error).split()), "data", groups)]) from error


def _named(line: str, building: str, groups: dict[str, Any]) -> str:
    """What a constructor refuses, in a line that begins with the key or the group that it is about; a part that is
    wrong itself, not by one of its keys, is named too.

    Args:
        line: begins with a keyword, as in `lr=0 must be positive`, with a group or a dotted key of one, or neither.
        building: the group whose constructor has spoken; it may speak of another.
    """
    keyword = line.partition("=")[0]
    group = re.match(r"(\w*)", line)[0]  # type: ignore[index]
    if group not in groups or line[len(group) :][:1] not in (".", ":"):
        line, group = f"{building}{'.' if keyword in groups[building] else ': '}{line}", building
    target = str(groups[group]["_target_"])
    names_part = group in PARTS and line.startswith(f"{group}: ")
    return f"{line} ({target})" if names_part else line


def check_learner(config: Config, *, trusted: Collection[str] = EVERYTHING) -> None:
    """Check all names and keys of a config against the constructors that they mean, without calling any.

    Raises:
        ConfigError: all names that do not exist or are not trusted, and keywords that are not taken or are missing.
    """
    errors = constructors.problems(config, trusted=trusted)
    chosen = [g for g in LEARNERS if config.get(g)]
    if len(chosen) != 1:
        errors.append(Problem(Kind.LEARNERS, "learner", details={"chosen": " and ".join(chosen) or "nothing"}))
    if errors:
        raise ConfigError(errors)


def _build(node: Any, trusted: Collection[str], **extra: Any) -> Any:
    if isinstance(node, list):
        return [_build(item, trusted) for item in node]
    if not isinstance(node, dict):
        return node
    keywords = {k: _build(v, trusted) for k, v in node.items() if k not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return keywords
    try:
        target = constructors.resolve(node["_target_"], trusted)
    except Unusable as error:
        raise ConfigError([dataclasses.replace(error.problem, key="_target_")]) from error
    return functools.partial(target, **keywords, **extra) if node.get("_partial_") else target(**keywords, **extra)
