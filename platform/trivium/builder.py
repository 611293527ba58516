"""From names in a config to objects: the only place that instantiates.

`_target_: package.module.Name` calls that name with the node's other keys; with `_partial_: true` it is kept as a
`functools.partial` for whoever knows the rest. What the user types is theirs to trust. A config read from a run
folder may come from a stranger: it builds only names that Trivium lists, unless the user names a module to trust.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch

from trivium.config import LEARNERS, PARTS, Config, ConfigError
from trivium.learner import Learner, Run

EVERYTHING = ("*",)  # the `trusted` of a config that the user typed

_LISTED_PACKAGES = ("trivium.agents", "trivium.data", "trivium.generative", "trivium.supervised")
_LISTED_BASES = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.nn.Module)


def build_learner(config: Config, run: Run, *, trusted: Collection[str] = EVERYTHING) -> Learner:
    """Build the learner that a config describes, and the parts that it is handed.

    Args:
        config: as `trivium.config.compose` returns it.
        run: where the learner runs.
        trusted: the modules besides Trivium's and torch's own whose names may be built.

    Raises:
        ConfigError: names that do not exist or are not trusted, keys that a constructor does not take (all of them),
            or a value that a constructor refuses.
    """
    check_learner(config, trusted=trusted)
    groups = _groups(config)
    name = next(g for g in LEARNERS if g in groups)
    try:
        parts = {g: _build(groups[g], trusted) for g in PARTS if g in groups}
        learner: Learner = _build(groups[name], trusted, run=run, **parts)
    except ValueError as error:
        raise ConfigError([f"{name}: {error}"]) from error
    return learner


def check_learner(config: Config, *, trusted: Collection[str] = EVERYTHING) -> None:
    """Check all names and keys of a config against the constructors that they mean, without calling any.

    Raises:
        ConfigError: see `build_learner`.
    """
    groups = _groups(config)
    errors: list[str] = []
    env_module, colon, _ = str((config.get("env") or {}).get("id", "")).partition(":")
    if colon and not _is_trusted(env_module, trusted):
        errors.append(
            f"env.id names the module {env_module}, which this run folder may not import; --trust it to allow"
        )
    for group, node in groups.items():
        given = ("run", *(p for p in PARTS if p in groups)) if group in LEARNERS else ()
        _check(node, group, given, trusted, errors)
    if errors:
        raise ConfigError(errors)


def _groups(config: Config) -> dict[str, Any]:
    return {g: config[g] for g in (*PARTS, *LEARNERS) if config.get(g)}


def resolve(name: str, trusted: Collection[str] = EVERYTHING) -> Callable[..., Any]:
    """The class or function that a dotted name stands for.

    Raises:
        ConfigError: there is none, or it is not trusted; in the latter case nothing was imported for it.
    """
    module_name, _, attribute = name.rpartition(".")
    listed = name.startswith((*(p + "." for p in _LISTED_PACKAGES), "torch."))
    if not listed and not _is_trusted(module_name, trusted):
        raise ConfigError([f"_target_: {name} is not a name that a run folder may build; --trust its module to allow"])
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError([f"_target_: {name}: cannot import {module_name or name!r}: {error}"]) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        near = difflib.get_close_matches(attribute, [n for n in vars(module) if not n.startswith("_")], n=1)
        raise ConfigError([f"_target_: {name}: no such name" + (f"; did you mean '{near[0]}'?" if near else "")])
    if not _is_trusted(module_name, trusted) and not _is_listed(found):
        raise ConfigError([f"_target_: {name} is not a name that a run folder may build; --trust its module to allow"])
    return found


def _is_trusted(module: str, trusted: Collection[str]) -> bool:
    return any(t == "*" or module == t or module.startswith(f"{t}.") for t in trusted)


def _is_listed(found: Any) -> bool:
    """Defined (not merely imported) in a family or the data sets, or a module, optimizer or schedule of torch's."""
    defined_in = getattr(found, "__module__", "")
    if any(defined_in == p or defined_in.startswith(f"{p}.") for p in _LISTED_PACKAGES):
        return True
    return isinstance(found, type) and defined_in.startswith("torch.") and issubclass(found, _LISTED_BASES)


def _check(node: Any, path: str, given: Collection[str], trusted: Collection[str], errors: list[str]) -> None:
    """Resolve every name below `node` and bind its keys to the constructor's signature, calling nothing."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            _check(item, f"{path}.{i}", (), trusted, errors)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        _check(value, f"{path}.{key}", (), trusted, errors)
    if "_target_" not in node:
        return
    try:
        target = resolve(str(node["_target_"]), trusted)
    except ConfigError as error:
        errors.extend(f"{path}.{line}" for line in error.errors)
        return
    parameters = inspect.signature(target).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keys = [k for k in node if k not in ("_target_", "_partial_")]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in [k for k in keys if k not in names]:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(names)}"
            errors.append(f"{path}.{key}: {node['_target_']} takes no such keyword; {hint}")
        errors.extend(
            f"{path}: {node['_target_']} does not take '{name}', which is chosen for it"
            for name in given
            if name not in names
        )
    if not node.get("_partial_"):
        required = [p.name for p in parameters if p.default is p.empty and p.name in names]
        missing = [n for n in required if n not in keys and n not in given]
        errors.extend(f"{path}.{name}: {node['_target_']} needs a value for it" for name in missing)


def _build(node: Any, trusted: Collection[str], **extra: Any) -> Any:
    if isinstance(node, list):
        return [_build(item, trusted) for item in node]
    if not isinstance(node, dict):
        return node
    keywords = {k: _build(v, trusted) for k, v in node.items() if k not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return keywords
    target = resolve(str(node["_target_"]), trusted)
    return functools.partial(target, **keywords, **extra) if node.get("_partial_") else target(**keywords, **extra)
