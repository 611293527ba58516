"""From what the user typed to one checked, resolved config: a plain dict that nothing changes afterwards.

Hydra composes; every error of names, values and files is collected and said at once, each in one line with the
nearest valid name and the file. Composing and checking need no torch, so that a mistake is told in a moment.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trivium.boundary import untrusted
from trivium.config import checking as check
from trivium.config import constructors, hints, import_places, valid
from trivium.config.constructors import stated_by_learner
from trivium.config.errors import Config, ConfigError, Found, refuse
from trivium.config.library import GROUPS, LEARNERS, PARTS, Library
from trivium.config.overrides import (
    ALONE,
    apply,
    begin_experiments_again,
    begin_typed_again,
    hint_at_lists,
    is_known,
    parse_overrides,
    sort_overrides,
)
from trivium.config.tree import get, has, is_free, leaves, put

DEFAULT_EXPERIMENT = "mlp_digits"
RESUMABLE = ("budget", "log", "evaluation", "checkpoint", "monitor", "tracking")

_NOT_COMPOSED = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)


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
        config_dir: a folder with groups of YAML files of the user's own; modules beside it and in it can be imported
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
        check.check_run_folder(dir, found)
    library = Library(Path(config_dir).resolve() if config_dir is not None else None)
    if problem := library.folder_problem():  # nothing can be said of the options that it was to hold
        found.add("--config-dir", problem)
        refuse(found)
    if config_dir is not None:
        import_places.look_in(*import_places.beside(config_dir))
    parsed = parse_overrides(overrides, found, library)
    groups, values, unclear = sort_overrides(parsed, library, found, DEFAULT_EXPERIMENT)
    with _hydra():
        try:
            config = _compose(groups, values, unclear, library, found, trusted)
            if found.none_in("storage"):
                check.check_storage(config["storage"], found, holds_runs=dir is None)
        except _NOT_COMPOSED as error:
            found.add("", _one_line(error))
    refuse(found)
    return config


def _compose(
    groups: dict[str, str],
    values: list[Override],
    unclear: bool,
    library: Library,
    found: Found,
    trusted: Collection[str],
) -> Config:
    """Compose and check; where it is unclear what is trained, only what every run has is checked."""
    guessed = [group for group in GROUPS if group in found.lines]
    experiment = library.find("experiment", groups.get("experiment", ""))
    before = len(found.lines)
    body = check.experiment_body(experiment, library, found) if experiment else {}
    unclear = unclear or len(found.lines) > before
    # Groups of which another option than the experiment's was typed: what it sets for its own is not meant for them.
    replaced: set[str] = set()
    if not unclear:
        try:
            tree, choices = _composed(groups, library)
            typed = {g for g in groups if g in body and g in (*LEARNERS, *PARTS)}
            own = _composed({"experiment": groups["experiment"]}, library)[1] if typed else {}
            replaced = {g for g in typed if groups[g] != own.get(g)}
        except _NOT_COMPOSED as error:
            found.add("", _one_line(error))
            unclear = True
    if unclear:
        tree, choices = _composed({}, library)
        values = [v for v in values if v.key_or_group.partition(".")[0] not in (*LEARNERS, *PARTS)]
        body, experiment = {}, None
    plain, _ = _composed({group: choices[group] for group in choices if group != "experiment"}, library)
    reference = _as_it_stands(plain)
    hint_at_lists(found, reference)
    for group in replaced:
        tree[group] = plain.get(group)
    body = {key: value for key, value in body.items() if key not in replaced}
    for group, option in choices.items():
        if library.names_twice(group, option):
            file = f"{library.config_dir}/{group}/{option}.yaml"
            found.add(group, f"{group}={option}: Trivium has one of this name too; rename {file}")

    def where(path: str) -> str:
        """The file or variable that sets a key; what was typed stands in none."""
        if path == "tracking.project" and project:
            return "WANDB_PROJECT"
        return "" if any(f"{path}.".startswith(f"{v.key_or_group}.") for v in values) else file_of(path)

    def file_of(path: str) -> str:
        """The file that has a key or would have it."""
        if experiment and has(body, path):
            return library.named(experiment)
        group = path.partition(".")[0]
        file = library.find(group, choices[group]) if group in choices else None
        return library.named(file) if file else "configs/config.yaml"

    if experiment:
        layers = [{k: v for k, v in one.items() if k not in replaced} for one in check.bodies(experiment, library)]
        begin_experiments_again(layers, tree, reference)
        check.check_body(body, reference, library.named(experiment), found)
    gone = begin_typed_again(values, tree, reference)
    for v in values:
        if v.type == OverrideType.DEL and v.key_or_group in gone:
            gone.remove(v.key_or_group)
            continue
        fills = isinstance(v.value(), dict) and get(reference, v.key_or_group) == {}
        free = (fills or is_free(reference, v.key_or_group)) and v.type == OverrideType.CHANGE
        if free or is_known(v, _as_it_stands(tree), file_of(v.key_or_group), library, found):
            apply(v, tree)
    tied = _tied_to_budget(_as_it_stands(tree))
    resolved = {**_resolved(tree, found), **tied}
    config: Config = _with_home(valid.converted(resolved, constructors.rules_of(resolved)))
    if config.get("name") == reference["name"] and not experiment:
        config["name"] = _name(config, choices)
    typed_project = any("tracking.project".startswith(v.key_or_group) for v in values)
    project = None if typed_project or has(body, "tracking.project") else _project_of_environment(config)
    if project:
        config["tracking"]["project"] = project
    check.check_values(config, reference, where, found)
    check.check_paths(config, where, found)
    if not unclear:
        config = _with_direction(config)
        check.check_whole(config, found)
        check.check_env(config, found, trusted)
        check.check_constructors(config, where, found, trusted)
    _forget_guesses(guessed, values, found)
    return config


def _project_of_environment(config: Config) -> str | None:
    """The W&B project that the user's environment names for a run that W&B tracks."""
    tracked = get(config, "tracking.wandb") is True
    return os.environ.get("WANDB_PROJECT") or None if tracked else None


def _with_direction(config: Config) -> Config:
    """Where `monitor.mode` is null, the direction that the learner's source states for the metric that is followed."""
    monitor = config["monitor"]
    if not isinstance(monitor, dict) or monitor.get("mode") is not None:
        return config
    evaluates = stated_by_learner(config, "evaluates")
    return {**config, "monitor": {**monitor, "mode": valid.direction(evaluates, monitor.get("metric"))}}


def _forget_guesses(guessed: Sequence[str], typed: Sequence[Override], found: Found) -> None:
    """Take back what is wrong below options that were guessed, but not with what the user typed there."""
    groups = (*LEARNERS, *PARTS) if "experiment" in guessed else guessed
    keys = tuple(v.key_or_group for v in typed)
    below = [key for key in found.lines if key.startswith(tuple(f"{group}." for group in groups))]
    found.forget(key for key in below if not key.startswith(keys))


def _with_home(node: Any, path: str = "") -> Any:
    """A copy of a nested dict in which `~` is the home folder where a path begins with it."""
    if isinstance(node, dict):
        return {key: _with_home(value, f"{path}.{key}" if path else str(key)) for key, value in node.items()}
    return os.path.expanduser(node) if isinstance(node, str) and check.is_path(path) else node


def _tied_to_budget(tree: Any) -> Config:
    """Where there are any, under `tied_to_budget` and by unit, the keys that hold `${budget.<unit>}`: a resumed run
    with another budget gives them its value."""
    tied: dict[str, list[str]] = {}
    for path, value in leaves(tree):
        interpolation = re.fullmatch(r"\$\{budget\.(\w+)\}", value) if isinstance(value, str) else None
        if interpolation:
            tied.setdefault(interpolation[1], []).append(path)
    return {"tied_to_budget": tied} if tied else {}


def keys(overrides: Sequence[str], config_dir: Path | str | None = None) -> Config:
    """The keys that there are with what is chosen by overrides that may be wrong, with the values of Trivium's YAML."""
    found = Found()
    library = Library(Path(config_dir).resolve() if config_dir is not None else None)
    library = Library() if library.folder_problem() else library
    groups, _, unclear = sort_overrides(parse_overrides(overrides, found), library, found, DEFAULT_EXPERIMENT)
    with _hydra():
        try:
            return _as_it_stands(_composed({} if unclear else groups, library)[0])
        except _NOT_COMPOSED:
            return _as_it_stands(_composed({}, Library())[0])


def _name(config: Config, choices: Mapping[str, str]) -> str:
    """What a run without an experiment is called: what on what, as experiments are."""
    what = next((choices[g] for g in LEARNERS if g in choices), "run")
    on = (config.get("env") or {}).get("id") if "env" in choices else choices.get("data")
    return re.sub(r"[^\w.-]+", "-", f"{what}_{on}" if on else what)


# ----------------------------------------------------------------------------------------------- Hydra


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    with ALONE:
        previous = GlobalHydra.instance().hydra  # the caller may use Hydra too
        try:
            GlobalHydra.instance().clear()
            with initialize_config_module("trivium.configs", version_base=None, job_name="trivium"):
                yield
        finally:
            GlobalHydra.instance().hydra = previous


def _as_it_stands(tree: DictConfig) -> Config:
    """A composed config as plain data, its interpolations as they stand."""
    return OmegaConf.to_container(tree)  # type: ignore[return-value]


def _composed(groups: dict[str, str], library: Library) -> tuple[DictConfig, dict[str, str]]:
    """The composed config, and which option of each group it holds."""
    none = [group for group, option in groups.items() if option == "null"]  # Hydra can't take a choice back
    overrides = [f"{group}={option}" for group, option in groups.items() if group not in none]
    if library.config_dir:
        escaped = str(library.config_dir).replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.searchpath=['file://{escaped}']")
    tree = hydra_compose("config", overrides=overrides, return_hydra_config=True)
    choices = {g: c for g, c in tree.hydra.runtime.choices.items() if g in GROUPS and c not in (None, "null")}
    OmegaConf.set_struct(tree, False)
    del tree["hydra"]
    for group in none:
        tree[group] = None
        choices.pop(group, None)
    return tree, choices


def _resolved(tree: DictConfig, found: Found) -> Config:
    """Plain data; a value that can't be resolved is an error and null."""
    while True:
        try:
            return OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
        except OmegaConfBaseException as error:
            key = re.sub(r"\[(\w+)\]", r".\1", str(error.full_key or ""))
            if not has(OmegaConf.to_container(tree), key):
                raise
            found.add(key, f"{key}: {_one_line(error)}")
            OmegaConf.update(tree, key, None)


def _one_line(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.YAMLError):
        return check.not_yaml(error, mark.name if mark else "a config file")
    return re.sub(r"\s+", " ", re.split(r"\n\n|\n\s*full_key", str(error))[0]).strip()


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
            found.add(path, hints.unknown_key(path, {key: config[key] for key in RESUMABLE}, "config.yaml"))
        elif group not in RESUMABLE:
            found.add(path, f"{path}: can't change when a run is resumed; valid: {', '.join(RESUMABLE)}")
        elif override.type != OverrideType.CHANGE:
            found.add(path, f"{override.input_line}: only key=value can be given here")
        elif not has(config, path) or isinstance(override.value(), dict):
            found.add(path, hints.unknown_key(path, config, "config.yaml"))
        else:
            put(tree, path, override.value())
    for unit, tied in config.get("tied_to_budget", {}).items():
        for path in tied:
            put(tree, path, get(tree, f"budget.{unit}"))
    if {"monitor.metric", "monitor.mode"} & typed == {"monitor.metric"}:  # the mode was another metric's
        put(tree, "monitor.mode", None)
    changed: Config = _with_direction(valid.converted(tree, constructors.rules_of(tree)))
    check.check_values(changed, config, lambda _: "config.yaml", found)
    check.check_paths(changed, lambda _: "config.yaml", found)
    check.check_whole(changed, found)
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
    own = yaml.safe_load((Library().own / "config.yaml").read_text(encoding="utf-8"))
    own["launch"] = {"engine": "inline", "workers": 1}
    del own["defaults"]
    if not isinstance(config, dict) or not set(own) <= set(config):
        raise ConfigError([f"{path} is not the config of a run"])
    found = Found()
    for key, _ in leaves(own):
        group = get(config, key.rpartition(".")[0]) if "." in key else config
        if isinstance(group, dict) and not has(config, key):  # of a group that is none, that is said
            found.add(key, f"{key}: is missing ({path})")
    check.check_tied(config, str(path), found)
    if found.none_in("tied_to_budget"):
        check.check_values(config, own, lambda _: str(path), found)
    check.check_paths(config, lambda _: str(path), found, must_exist=False)
    refuse(found)
    return config
