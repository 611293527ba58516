"""What an experiment's files choose and set: each read once, those that it is based on first."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trivium.config import hints
from trivium.config.library import BUILT, GROUPS, Library
from trivium.config.overrides import Typed
from trivium.config.problems import Found, Kind, Problem


@dataclass(frozen=True)
class Layer:
    """What one file of an experiment sets.

    Attributes:
        file: how messages name it.
        body: its keys and values, without `defaults`; interpolations as they are written.
    """

    file: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Chosen:
    """What is to be merged.

    Attributes:
        options: the option of each group that has one.
        emptied: the groups that were typed as null.
        layers: what the files of the experiment set, in the order in which they are merged.
        values: the overrides of keys.
        guessed: the groups whose option is a guess, because the one that was typed does not exist.
        unclear: whether it is unclear what is trained; then only what every run has is composed and checked.
    """

    options: Mapping[str, str]
    emptied: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    values: tuple[Override, ...] = ()
    guessed: tuple[str, ...] = ()
    unclear: bool = False


def choose(typed: Typed, library: Library, found: Found) -> Chosen:
    """Read the experiment that is chosen, and which options it and the user choose together."""
    before = len(found)
    name = typed.groups.get("experiment", "null")
    layers, own = _read(name, library, found) if name != "null" else ([], {})
    options = {**library.defaults(), **own, **typed.groups}
    options.pop("experiment", None)
    # Groups of which the user typed another option than the experiment's: what it sets for its own is not meant for
    # them.
    replaced = {g for g, option in typed.groups.items() if g in BUILT and option != own.get(g)}
    layers = [replace(one, body={k: v for k, v in one.body.items() if k not in replaced}) for one in layers]
    chosen = Chosen(
        {group: option for group, option in options.items() if option != "null"},
        tuple(group for group, option in typed.groups.items() if option == "null" and group != "experiment"),
        tuple(layers),
        typed.values,
        typed.guessed,
    )
    if typed.unclear or len(found) > before:
        return nothing(chosen, library)
    for group, option in chosen.options.items():
        if library.names_twice(group, option):
            file = f"{library.config_dir}/{group}/{option}.yaml"
            found.add(Problem(Kind.TWICE, group, option, details={"place": file}))
    return chosen


def nothing(chosen: Chosen, library: Library) -> Chosen:
    """What remains of a choice if it is unclear what is trained."""
    values = tuple(v for v in chosen.values if v.key_or_group.partition(".")[0] not in BUILT)
    return Chosen(library.defaults(), values=values, guessed=chosen.guessed, unclear=True)


def _read(name: str, library: Library, found: Found, above: Sequence[Path] = ()) -> tuple[list[Layer], dict[str, str]]:
    """The layers of an experiment, and the options that it chooses."""
    path = library.find("experiment", name)
    assert path is not None
    file = library.named(path)
    body = _body(path, file, found)
    options: dict[str, str] = {}
    below: list[Layer] = []
    own: list[Layer] = []
    defaults = body.pop("defaults", [])
    for entry in defaults if isinstance(defaults, list) else [defaults]:
        if entry == "_self_":
            own = [Layer(file, body)]
            below += own
        elif problem := _wrong_default(entry, file, library):
            found.add(problem, about=f"{file} {entry}")
        elif isinstance(entry, dict):
            ((key, option),) = entry.items()
            options[key.split()[-1].lstrip("/")] = "null" if option is None else str(option)
        elif library.find("experiment", str(entry)) in (path, *above):
            found.add(Problem(Kind.CIRCLE, str(entry), file=file), about=f"{file} {entry}")
        else:
            layers, chosen = _read(str(entry), library, found, (path, *above))
            below += layers
            options = {**chosen, **options}
    return below if own else [*below, Layer(file, body)], options


def _body(path: Path, file: str, found: Found) -> dict[str, Any]:
    """The content of a file, {} if that can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
        read = OmegaConf.load(path)
        body: Any = OmegaConf.to_container(read)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        found.add(not_yaml(error, file), about=file)
        return {}
    if not isinstance(read, DictConfig):
        found.add(Problem(Kind.CONTENT, file))
        return {}
    if not any(line.replace(" ", "") == "#@package_global_" for line in text.splitlines()):
        found.add(Problem(Kind.PACKAGE, file))
    return {str(key): value for key, value in body.items()}


def not_yaml(error: Exception, file: str) -> Problem:
    """The problem that a file can't be parsed."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return Problem(Kind.YAML, f"{file}:{mark.line + 1}" if mark else file, details={"reason": what})


def _wrong_default(entry: Any, file: str, library: Library) -> Problem | None:
    """What is wrong with an entry of `defaults`."""
    if not isinstance(entry, dict) or len(entry) != 1:
        there = library.find("experiment", str(entry))
        return None if there else hints.no_such_option("experiment", entry, library, file)[0]
    key, option = next(iter(entry.items()))
    words = str(key).split()
    group = words[-1].lstrip("/") if words else ""
    if group not in GROUPS:
        near = difflib.get_close_matches(group, GROUPS, n=1)
        return Problem(Kind.GROUP, str(key), None, GROUPS, tuple(near), file)
    if words[0] != "override" or not words[-1].startswith("/"):
        return Problem(Kind.OVERRIDE, str(key), option, file=file, details={"group": group})
    if option is not None and not library.find(group, str(option)):
        return hints.no_such_option(group, option, library, file)[0]
    return None
