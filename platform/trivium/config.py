"""From what the user typed to one checked, resolved config: a plain dict that nothing changes afterwards.

Hydra composes; every error of names, values and files is collected and said at once, each in one line with the
nearest valid name and the file. Composing and checking need no torch, so that a mistake is told in a moment.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, grammar_parser
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from trivium import config_check as check
from trivium import constructors, untrusted, valid
from trivium.config_check import Found
from trivium.constructors import stated_by_learner
from trivium.library import GROUPS, LEARNERS, PARTS, Library

DEFAULT_EXPERIMENT = "mlp_digits"
SHORT = {"algorithm": "agent.algorithm"}  # for an agent that is another library's choice of algorithms
RESUMABLE = ("budget", "log", "evaluation", "checkpoint", "monitor", "tracking")

Config = dict[str, Any]
_alone = threading.RLock()  # what Hydra has composed, and the caches of its parsers, exist once in a process
_NOT_COMPOSED = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)


class ConfigError(Exception):
    """What is wrong with a config: one line per error.

    Args:
        errors: complete sentences that name the key, the value and what is valid.
    """

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__(errors)
        self.errors = list(errors)

    def __str__(self) -> str:
        return "\n".join(self.errors)


def refuse(found: Found) -> None:
    """
    Raises:
        ConfigError: of all that was found, if anything was.
    """
    if found.lines:
        raise ConfigError(list(found.lines.values()))


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
        config_dir: a folder with groups of YAML files of the user's own.
        dir: where the run is going to be, if that is known.
        trusted: the modules that may be imported to check it, see `trivium.builder`; all for what the user typed.

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
    groups, values, unclear = _sort_overrides(_parse(overrides, found), library, found)
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
        if experiment and check.has(body, path):
            return library.named(experiment)
        group = path.partition(".")[0]
        file = library.find(group, choices[group]) if group in choices else None
        return library.named(file) if file else "configs/config.yaml"

    if experiment:
        check.check_body(body, reference, library.named(experiment), found)
    for v in values:
        fills = isinstance(v.value(), dict) and check.get(reference, v.key_or_group) == {}
        free = (fills or check.is_free(reference, v.key_or_group)) and v.type == OverrideType.CHANGE
        if free or _known(v, _as_it_stands(tree), file_of(v.key_or_group), library, found):
            _apply(v, tree)
    tied = _tied_to_budget(_as_it_stands(tree))
    config: Config = valid.with_integers({**_resolved(tree, found), **tied})
    if config.get("name") == reference["name"] and not experiment:
        config["name"] = _name(config, choices)
    typed_project = any("tracking.project".startswith(v.key_or_group) for v in values)
    project = None if typed_project or check.has(body, "tracking.project") else _project_of_environment(config)
    if project:
        config["tracking"]["project"] = project
    check.check_values(config, reference, where, found)
    if not unclear:
        config = _with_direction(config)
        check.check_whole(config, found)
        check.check_env(config, found, trusted)
        check.check_constructors(config, where, found, trusted)
    _forget_guesses(guessed, values, found)
    return config


def _project_of_environment(config: Config) -> str | None:
    """The W&B project that the user's environment names for a run that W&B tracks."""
    tracked = check.get(config, "tracking.wandb") is True
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


def _tied_to_budget(tree: Any) -> Config:
    """Where there are any, under `tied_to_budget` and by unit, the keys that hold `${budget.<unit>}`: a resumed run
    with another budget gives them its value."""
    tied: dict[str, list[str]] = {}
    for path, value in check.leaves(tree):
        interpolation = re.fullmatch(r"\$\{budget\.(\w+)\}", value) if isinstance(value, str) else None
        if interpolation:
            tied.setdefault(interpolation[1], []).append(path)
    return {"tied_to_budget": tied} if tied else {}


# ----------------------------------------------------------------------------------------------- overrides


def _parse(overrides: Sequence[str], found: Found) -> list[Override]:
    with _alone:
        return _parsed(overrides, found)


def _parsed(overrides: Sequence[str], found: Found) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if key in SHORT:
            key = SHORT[key]
            text = f"{key}{equals}{value}"
        quoted = f"{key}='{value}'"  # what Hydra's grammar does not take bare: budget.target=eval/accuracy>=0.97
        for attempt in (text, quoted) if equals and "'" not in value else (text,):
            with contextlib.suppress(HydraException):
                override = parser.parse_overrides([attempt])[0]
                if not override.key_or_group or override.package:
                    continue
                if override.is_sweep_override():
                    found.add(text, f"{text}: one value at a time")
                elif (text_in_it := _bad_reference(override.value())) is not None:
                    reason = "${ begins a reference to another key, such as ${budget.epochs}; this is none"
                    found.add(key, f"{key}={text_in_it}: {reason}")
                else:
                    parsed.append(override)
                break
        else:
            found.add(text, f"{text}: is not of the form key=value")
    return parsed


def _bad_reference(value: Any) -> str | None:
    """The first text in a value that holds a `${` which OmegaConf can't read, if there is one."""
    if isinstance(value, dict | list):
        below = (_bad_reference(v) for v in (value.values() if isinstance(value, dict) else value))
        return next((text for text in below if text is not None), None)
    if isinstance(value, str) and "${" in value:
        try:
            grammar_parser.parse(value)
        except GrammarParseError:
            return str(value)
    return None


def _sort_overrides(
    parsed: list[Override], library: Library, found: Found
) -> tuple[dict[str, str], list[Override], bool]:
    """Groups with a valid option (a wrong one is replaced by its nearest, so that the rest can be checked), the rest,
    and whether it is unclear what is trained: a wrong option has no nearest."""
    groups: dict[str, str] = {}
    values: list[Override] = []
    unclear = False
    for override in parsed:
        key, option = override.key_or_group, override.value()
        if key not in GROUPS or isinstance(option, dict) or override.type == OverrideType.DEL:
            values.append(override)
        elif option is None and key != "launch":
            groups[key] = "null"
        elif library.find(key, str(option)):
            groups[key] = str(option)
        else:
            line, near = check.no_such_option(key, option, library)
            found.add(key, line)
            if near:
                groups[key] = near
            unclear = unclear or not near
    if not any(groups.get(g, "null") != "null" for g in ("experiment", *LEARNERS)):
        groups["experiment"] = DEFAULT_EXPERIMENT
    if groups.get("agent", "null") != "null" and "experiment" not in groups:
        groups.setdefault("env", "gymnasium")
    return groups, values, unclear


def _name(config: Config, choices: Mapping[str, str]) -> str:
    """What a run without an experiment is called: what on what, as experiments are."""
    what = next((choices[g] for g in LEARNERS if g in choices), "run")
    on = (config.get("env") or {}).get("id") if "env" in choices else choices.get("data")
    return re.sub(r"[^\w.-]+", "-", f"{what}_{on}" if on else what)


def _known(override: Override, base: Config, file: str, library: Library, found: Found) -> bool:
    """Whether the keys of an override exist. In what is built, `+` may add what a constructor takes and its YAML leaves
    out, and `~` may leave out what the YAML has: the constructor decides."""
    key = override.key_or_group
    group, built = key.partition(".")[0], key.partition(".")[0] in (*LEARNERS, *PARTS)
    added = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)
    if built and not isinstance(base.get(group), dict):
        found.add(key, f"{key}: no {group} is chosen; valid: {group}=<{', '.join(library.options(group))}>")
        return False
    if (override.type == OverrideType.DEL or added) and not (built and "." in key):
        found.add(key, f"{override.input_line}: + and ~ are for keys of {', '.join((*LEARNERS, *PARTS))}")
        return False
    value = override.value()
    keys = [f"{key}.{k}" if k else key for k, _ in check.leaves(value)] if isinstance(value, dict) else [key]
    if added and isinstance(check.get(base, key.rpartition(".")[0]), dict):
        keys = []
    unknown = [k for k in keys if not check.has(base, k)]
    for k in unknown:
        found.add(k, check.unknown_key(k, base, file))
    if unknown:
        return False
    now = check.get(base, key)
    if override.type == OverrideType.ADD and now is not None and not isinstance(value, dict | list):
        found.add(key, f"{override.input_line}: {key} is there already; {(override.input_line or '')[1:]} changes it")
    elif override.type == OverrideType.DEL and value is not None and value != now:
        found.add(key, f"{override.input_line}: {key} is {valid.show(now)}; ~{key} leaves it out")
    return key not in found.lines


# ----------------------------------------------------------------------------------------------- Hydra


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    with _alone:
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


def _apply(override: Override, tree: DictConfig) -> None:
    """As Hydra would while it composes, which takes a tenth of a second each time."""
    key, value = override.key_or_group, override.value()
    if override.type == OverrideType.DEL:
        parent, _, name = key.rpartition(".")
        del OmegaConf.select(tree, parent)[name]
    else:
        OmegaConf.update(tree, key, value, merge=True)


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
            if not check.has(OmegaConf.to_container(tree), key):
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
    parsed = _parse(overrides, found)
    typed = {override.key_or_group for override in parsed}
    for override in parsed:
        path = override.key_or_group
        group = path.partition(".")[0]
        if group not in config:
            found.add(path, check.unknown_key(path, {key: config[key] for key in RESUMABLE}, "config.yaml"))
        elif group not in RESUMABLE:
            found.add(path, f"{path}: can't change when a run is resumed; valid: {', '.join(RESUMABLE)}")
        elif override.type != OverrideType.CHANGE:
            found.add(path, f"{override.input_line}: only key=value can be given here")
        elif not check.has(config, path) or isinstance(override.value(), dict):
            found.add(path, check.unknown_key(path, config, "config.yaml"))
        else:
            check.put(tree, path, override.value())
    for unit, tied in config.get("tied_to_budget", {}).items():
        for path in tied:
            check.put(tree, path, check.get(tree, f"budget.{unit}"))
    if {"monitor.metric", "monitor.mode"} & typed == {"monitor.metric"}:  # the mode was another metric's
        check.put(tree, "monitor.mode", None)
    changed: Config = _with_direction(valid.with_integers(tree))
    check.check_values(changed, config, lambda _: "config.yaml", found)
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
    except FileNotFoundError:
        raise ConfigError([f"{folder} is not a run folder: it has no config.yaml"]) from None
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
    missing = [key for key, _ in check.leaves(own) if not check.has(config, key)]
    for key in missing:
        found.add(key, f"{key}: is missing ({path})")
    check.check_tied(config, str(path), found)
    if found.none_in("tied_to_budget"):
        check.check_values(config, own, lambda _: str(path), found)
    refuse(found)
    return config
