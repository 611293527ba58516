"""Python objects that a caller hands over: their place in a config, and how a learner gets them.

An object that a run folder can name, such as a class in a module of the user's, becomes its `_target_`. Of any other
the config holds `model=from_python` or `data=from_python`, which build the object that the present call of
`trivium.train` or `trivium.resume` has handed over, and a text that says what it was.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from torch import nn

from trivium.config.errors import Config, ConfigError
from trivium.data.source import Splits
from trivium.learner import construct
from trivium.python.arrays import as_splits

GROUPS = ("model", "data", "env")
ENVS = "FromPython"  # the namespace of the gymnasium ids of envs that were handed over
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_handed: ContextVar[Mapping[str, Any]] = ContextVar("handed", default=_NOTHING)


def model(*, handed_over: str = "", **offered: Any) -> nn.Module:
    """The model that the caller has handed over: a copy of a module, or what a class or function makes of what it
    takes of `offered`.

    Args:
        handed_over: what it was when the run began.
        offered: see `trivium.learner.construct`.

    Raises:
        ConfigError: none was handed over.
    """
    given = _get("model", handed_over)
    if isinstance(given, nn.Module):
        return copy.deepcopy(given)
    made: nn.Module = construct(given, **offered)
    return made


def data(*, handed_over: str = "") -> Splits:
    """The data that the caller has handed over, see `as_splits`.

    Raises:
        ConfigError: none were handed over.
        ValueError: they are not data that can be trained on.
    """
    return as_splits(_get("data", handed_over))


def _get(group: str, handed_over: str) -> Any:
    if group not in _handed.get():
        raise ConfigError([_ask(group, handed_over)])
    return _handed.get()[group]


def _ask(group: str, handed_over: str) -> str:
    was = f"this run was given {handed_over or 'an object'} from Python, which its folder can't hold"
    return f"{group}: {was}: hand it over again, as trivium.resume(RUN, {group}=...)"


@contextlib.contextmanager
def handed_over(objects: Mapping[str, Any]) -> Iterator[None]:
    """Within, learners are built with these objects.

    Args:
        objects: by group, of `GROUPS`; None for those that were not handed over.
    """
    given = {group: value for group, value in objects.items() if value is not None}
    token = _handed.set({**_handed.get(), **given})
    try:
        with _registered(given.get("env")):
            yield
    finally:
        _handed.reset(token)


def as_overrides(objects: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The overrides that put objects into a config, and for each that a run folder can't hold a line about it.

    Raises:
        ConfigError: an object is not what can be in its place.
    """
    overrides, lines = [], []
    for group, given in objects.items():
        if given is None:
            continue
        if group in ("model", "env") and not (callable(given) or isinstance(given, nn.Module)):
            raise ConfigError([f"{group}: must be a class, or a function that makes one; is {describe(given)}"])
        text, name = describe(given), dotted_name(given)
        if group == "env":
            if isinstance(given, nn.Module) or (hasattr(given, "step") and not isinstance(given, type)):
                raise ConfigError([f"env: several are needed: hand over the class, not {text}"])
            overrides += [f"env.id={env_id(given)}"]
        else:
            overrides += [f"{group}=from_python", f"{group}.handed_over='{text}'"]
        if group == "model" and name is not None:
            overrides[-1:] = [f"model._target_={name}", "model._partial_=true"]
        else:
            lines.append(f"{group}: {text} is not in the run folder: to resume, hand it over again ({group}=...)")
    return overrides, lines


def require(config: Config) -> None:
    """Check that all objects that a run needs and its folder does not hold have been handed over, and no others.

    Raises:
        ConfigError: names those that have not, or that the run has no place for.
    """
    handed, errors = _handed.get(), []
    for group in not_in(config):
        node = config[group]
        was = str(node["id"]).partition("/")[2].removesuffix("-v0") if group == "env" else node.get("handed_over", "")
        if group not in handed:
            errors.append(_ask(group, str(was)))
    for group, given in handed.items():
        node = config.get(group)
        named = isinstance(node, dict) and node.get("_target_") == dotted_name(given)
        if not named and group not in not_in(config):
            errors.append(f"{group}: this run builds its own; {describe(given)} has no place in it")
    if errors:
        raise ConfigError(errors)


def not_in(config: Config) -> list[str]:
    """The groups of a config whose objects a run folder does not hold."""
    groups = []
    for group in GROUPS:
        node = config.get(group)
        if isinstance(node, dict):
            own = node.get("_target_") == f"{__name__}.{group}"
            groups += [group] if own or (group == "env" and str(node.get("id")).startswith(f"{ENVS}/")) else []
    return groups


def modules_of(objects: Mapping[str, Any]) -> list[str]:
    """The modules of handed-over objects that a config names: whoever hands one over trusts its module."""
    names = [dotted_name(given) for given in objects.values() if given is not None]
    return [name.rpartition(".")[0] for name in names if name]


def dotted_name(given: Any) -> str | None:
    """The name by which another process finds a class or function; None if there is none, as of one of a notebook."""
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", None)
    if not (module and name and name.isidentifier()) or module == "__main__" or isinstance(given, nn.Module):
        return None
    with contextlib.suppress(Exception):
        if getattr(importlib.import_module(module), name, None) is given:
            return f"{module}.{name}"
    return None


def describe(given: Any) -> str:
    """What an object is, in one line for a config."""
    if isinstance(given, type) or hasattr(given, "__qualname__"):
        text = f"{given.__module__}.{given.__qualname__}"
    elif isinstance(given, Sequence | Mapping) and not isinstance(given, Splits | str):
        text = f"a {type(given).__name__} of {len(given)}"
    else:
        text = f"an object of {type(given).__module__}.{type(given).__qualname__}"
    return text.replace("'", "")


def env_id(make: Callable[..., Any]) -> str:
    """The gymnasium id under which an env class is registered while it is handed over."""
    name = "".join(c for c in getattr(make, "__name__", type(make).__name__) if c.isalnum() or c == "_")
    return f"{ENVS}/{name or 'Env'}-v0"


@contextlib.contextmanager
def _registered(make: Callable[..., Any] | None) -> Iterator[None]:
    if make is None:
        yield
        return
    import gymnasium

    id = env_id(make)
    before = gymnasium.registry.pop(id, None)
    gymnasium.register(id=id, entry_point=make)
    try:
        yield
    finally:
        gymnasium.registry.pop(id, None)
        if before is not None:
            gymnasium.registry[id] = before
