"""From what the user typed to one checked, resolved config: a plain dict that nothing changes afterwards.

Each stage is a function; what it returns is what the next one gets: `Typed`, `Chosen`, `Merged`, `Resolved`. All
problems are collected and reported together, each in one line with the nearest valid name and the file. Composing and
checking import no torch, so that a mistake is reported within a second.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.override_parser.types import OverrideType

from trivium.boundary import untrusted
from trivium.config import constructors, hints, import_places
from trivium.config.checks import places, several, values
from trivium.config.errors import Config, ConfigError, refuse
from trivium.config.experiments import choose
from trivium.config.library import BUILT, Library
from trivium.config.merging import NOT_COMPOSED, as_it_stands, merge, not_composed
from trivium.config.overrides import ALONE, parse_overrides, read_typed
from trivium.config.problems import Found, Kind, Problem
from trivium.config.resolving import Resolved, converted, resolve, with_direction
from trivium.config.tree import get, has, leaves, put

DEFAULT_EXPERIMENT = "mlp_digits"
RESUMABLE = ("budget", "log", "evaluation", "checkpoint", "monitor", "tracking")


def compose(
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
    dir: Path | str | None = None,
    trusted: Collection[str] = constructors.EVERYTHING,
) -> Config:
    """Compose, check and resolve a config.

    Args:
        overrides: `group=option` and `dotted.key=value`, as typed on the command line. Without an experiment, learner
            or agent among them, the default experiment is trained.
        config_dir: a folder with groups of YAML files of the user's own; modules next to it and in it can be imported
            from now on.
        dir: where the run is going to be, if that is known.
        trusted: the modules that may be imported to check it, see `trivium.training.builder`; by default all.

    Returns:
        Nested plain dicts, lists and scalars; interpolations are resolved.

    Raises:
        ConfigError: every error found.
    """
    found = Found()
    if dir is not None:
        places.check_run_folder(dir, found)
    library = Library(Path(config_dir).resolve() if config_dir is not None else None)
    if problem := library.folder_problem():  # its options are unknown
        found.add(problem)
        refuse(found)
    if config_dir is not None:
        import_places.look_in(*import_places.beside(config_dir))
    config: Config = {}
    with ALONE:
        typed = read_typed(overrides, library, found, default_experiment=DEFAULT_EXPERIMENT)
        try:
            merged = merge(choose(typed, library, found), library, found)
            resolved = resolve(merged, found)
            check(resolved, found, trusted, holds_runs=dir is None)
            config = resolved.config
        except NOT_COMPOSED as error:
            found.add(not_composed(error))
    refuse(found)
    return config


def check(resolved: Resolved, found: Found, trusted: Collection[str], *, holds_runs: bool) -> None:
    """Check the values. Where it is unclear what is trained, only what every run has is checked.

    Args:
        trusted, holds_runs: see `compose`, `places.check_storage`.
    """
    config, where = resolved.config, resolved.origins.where
    values.check_values(config, resolved.reference, where, found)
    places.check_paths(config, where, found)
    if not resolved.unclear:
        several.check_whole(config, found)
        values.check_env(config, found, trusted)
        values.check_constructors(config, where, found, trusted)
    _forget_guesses(resolved, found)
    if found.none_in("storage"):
        places.check_storage(config["storage"], found, holds_runs=holds_runs)


def _forget_guesses(resolved: Resolved, found: Found) -> None:
    """Drop the problems of keys below options that were guessed, except for keys that the user typed."""
    groups = BUILT if "experiment" in resolved.guessed else resolved.guessed
    below = [key for key in found.problems if key.startswith(tuple(f"{group}." for group in groups))]
    found.forget(key for key in below if not key.startswith(resolved.origins.typed))


def keys(overrides: Sequence[str], config_dir: Path | str | None = None) -> Config:
    """The keys that there are with what is chosen by overrides that may be wrong, with the values of YAML."""
    found = Found()
    library = Library(Path(config_dir).resolve() if config_dir is not None else None)
    library = Library() if library.folder_problem() else library
    with ALONE:
        typed = read_typed(overrides, library, found, default_experiment=DEFAULT_EXPERIMENT)
        chosen = choose(replace(typed, values=()), library, found)
        return as_it_stands(merge(chosen, library, found).tree)


# ----------------------------------------------------------------------------------------------- run folders


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A run's config with other values where a resumed run may differ from the one it continues.

    Schedules that were written as `${budget.<unit>}` have the length of the new budget.

    Args:
        config: is not changed.

    Raises:
        ConfigError: keys that do not exist or may not change, or impossible values; all of them.
    """
    found = Found()
    tree = copy.deepcopy(config)  # plain data: OmegaConf would resolve what a stranger's text refers to
    parsed = parse_overrides(overrides, found)
    typed = {override.key_or_group for override in parsed}
    for override in parsed:
        path = override.key_or_group
        group = path.partition(".")[0]
        if group not in config:
            found.add(hints.unknown_key(path, {key: config[key] for key in RESUMABLE}, "config.yaml"))
        elif group not in RESUMABLE:
            found.add(Problem(Kind.FIXED, path, valid=RESUMABLE))
        elif override.type != OverrideType.CHANGE:
            found.add(Problem(Kind.ONLY_VALUES, path, override.input_line))
        elif not has(config, path) or isinstance(override.value(), dict):
            found.add(hints.unknown_key(path, config, "config.yaml"))
        else:
            put(tree, path, override.value())
    for unit, tied in config.get("tied_to_budget", {}).items():
        for path in tied:
            put(tree, path, get(tree, f"budget.{unit}"))
    if {"monitor.metric", "monitor.mode"} & typed == {"monitor.metric"}:  # the mode was another metric's
        put(tree, "monitor.mode", None)
    changed: Config = with_direction(converted(tree, constructors.rules_of(tree)))
    values.check_values(changed, config, lambda _: "config.yaml", found)
    places.check_paths(changed, lambda _: "config.yaml", found)
    several.check_whole(changed, found)
    refuse(found)
    return changed


def read(folder: Path) -> Config:
    """The config of a run folder. YAML's tags are not followed: nothing in it can run.

    Raises:
        ConfigError: there is none, it can't be read, or it is not the config of a run.
    """
    path = folder / "config.yaml"
    try:
        config = untrusted.read_yaml(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError([hints.no_run_folder(folder)]) from None
    except untrusted.Refused as error:
        raise ConfigError([str(error)]) from error
    except OSError as error:
        raise ConfigError([f"{path} can't be read: {error.strerror}"]) from error
    own = Library().base()
    own["launch"] = {"engine": "inline", "workers": 1}
    if not isinstance(config, dict) or not set(own) <= set(config):
        raise ConfigError([f"{path} is not the config of a run"])
    found = Found()
    for key, _ in leaves(own):
        group = get(config, key.rpartition(".")[0]) if "." in key else config
        if isinstance(group, dict) and not has(config, key):  # what is no group is reported as such
            found.add(Problem(Kind.MISSING, key, file=str(path)))
    places.check_tied(config, str(path), found)
    if found.none_in("tied_to_budget"):
        values.check_values(config, own, lambda _: str(path), found)
    places.check_paths(config, lambda _: str(path), found, must_exist=False)
    refuse(found)
    return config
