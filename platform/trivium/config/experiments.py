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
from trivium.config.errors import Found, not_yaml
from trivium.config.library import BUILT, GROUPS, Library
from trivium.config.overrides import Typed


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
    before = len(found.lines)
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
    if typed.unclear or len(found.lines) > before:
        return nothing(chosen, library)
    for group, option in chosen.options.items():
        if library.names_twice(group, option):
            file = f"{library.config_dir}/{group}/{option}.yaml"
            found.add(group, f"{group}={option}: Trivium has one of this name too; rename {file}")
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
            found.add(f"{file} {next(iter(entry)) if isinstance(entry, dict) and entry else entry}", problem)
        elif isinstance(entry, dict):
            ((key, option),) = entry.items()
            options[key.split()[-1].lstrip("/")] = "null" if option is None else str(option)
        elif library.find("experiment", str(entry)) in (path, *above):
            found.add(f"{file} {entry}", f"defaults: {entry}: the experiment is based on itself ({file})")
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
        found.add(file, not_yaml(error, file))
        return {}
    if not isinstance(read, DictConfig):
        found.add(file, f"{file}: must hold keys and values")
        return {}
    if not any(line.replace(" ", "") == "#@package_global_" for line in text.splitlines()):
        found.add(file, f"{file}: an experiment must begin with the line '# @package _global_'")
    return {str(key): value for key, value in body.items()}


def _wrong_default(entry: Any, file: str, library: Library) -> str | None:
    """What is wrong with an entry of `defaults`."""
    if not isinstance(entry, dict) or len(entry) != 1:
        return (
            None
            if library.find("experiment", str(entry))
            else hints.no_such_option("experiment", entry, library, file)[0]
        )
    key, option = next(iter(entry.items()))
    words = str(key).split()
    group = words[-1].lstrip("/") if words else ""
    if group not in GROUPS:
        near = difflib.get_close_matches(group, GROUPS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(GROUPS)}"
        return f"defaults: {key}: there is no such group; {hint} ({file})"
    if words[0] != "override" or not words[-1].startswith("/"):
        return f"defaults: '{key}: {option}' must be written 'override /{group}: {option}' ({file})"
    if option is not None and not library.find(group, str(option)):
        return hints.no_such_option(group, option, library, file)[0]
    return None
