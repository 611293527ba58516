"""From what the user typed to one checked, resolved, read-only config: a plain dict.

Hydra composes; every error of names, values and files is collected and said at once, each in one line with the
nearest valid name and the file. Importing and checking need no torch, so that a mistake is told in a moment.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trivium import valid

PARTS = ("model", "data", "env")  # groups that are built and handed to the learner
LEARNERS = ("learner", "agent")  # two names of one group: exactly one is chosen
GROUPS = (*LEARNERS, *PARTS, "launch", "experiment")
DEFAULT_EXPERIMENT = "mlp_digits"

Config = dict[str, Any]


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


@dataclass
class Library:
    """The YAML files that can be chosen: Trivium's own and, before them, those of `--config-dir`."""

    config_dir: Path | None = None
    own: Path = field(default_factory=lambda: Path(str(files("trivium.configs"))))

    def find(self, group: str, option: str) -> Path | None:
        paths = (folder / group / f"{option}.yaml" for folder in self._folders())
        return next((path for path in paths if path.is_file()), None)

    def options(self, group: str) -> dict[str, str]:
        """The group's options, sorted, each with the first comment in its file: what it is."""
        found: dict[str, str] = {}
        for folder in self._folders():
            for path in sorted((folder / group).glob("*.yaml")):
                lines = (line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
                found.setdefault(path.stem, next((line for line in lines if not line.startswith("@package")), ""))
        return dict(sorted(found.items()))

    def named(self, path: Path) -> str:
        """How messages name a file: Trivium's own relative to the repository's root."""
        return f"configs/{path.relative_to(self.own)}" if path.is_relative_to(self.own) else str(path)

    def _folders(self) -> list[Path]:
        return [self.config_dir, self.own] if self.config_dir else [self.own]


def compose(overrides: Sequence[str], config_dir: Path | str | None = None) -> Config:
    """Compose, check and resolve a config.

    Args:
        overrides: `group=option` and `dotted.key=value`, as typed on the command line. Without an experiment, learner
            or agent among them, the default experiment is trained.
        config_dir: a folder with groups of YAML files of the user's own.

    Returns:
        Nested plain dicts, lists and scalars; interpolations are resolved.

    Raises:
        ConfigError: every error found.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError([f"--config-dir: {config_dir} is not a folder"])
    library = Library(Path(config_dir).resolve() if config_dir is not None else None)
    errors: list[str] = []
    groups, values = _sort_overrides(_parse(overrides, errors), library, errors)
    with _hydra():
        try:
            return _compose_checked(groups, values, library, errors)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError([*errors, _first_line(error)]) from error


def _compose_checked(groups: dict[str, str], values: list[Override], library: Library, errors: list[str]) -> Config:
    base, choices = _tree(groups, [], library)
    reference, _ = _tree({g: c for g, c in choices.items() if g != "experiment"}, [], library)
    _check_experiment(groups.get("experiment"), reference, library, errors)
    good = [v for v in values if _known(v, base, choices, library, errors)]
    tree, _ = _tree(groups, [v.input_line or "" for v in good], library)
    config = _resolve(tree, errors)
    _check_values(config, OmegaConf.to_container(reference), errors)
    _check_whole(config, errors)
    if errors:
        raise ConfigError(list(dict.fromkeys(errors)))
    return config


# ----------------------------------------------------------------------------------------------- overrides


def _parse(overrides: Sequence[str], errors: list[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        key, equals, value = text.partition("=")
        quoted = f"{key}='{value}'"  # what Hydra's grammar does not take bare: budget.target=eval/accuracy>=0.97
        for attempt in (text, quoted) if equals and "'" not in value else (text,):
            with contextlib.suppress(HydraException):
                override = parser.parse_overrides([attempt])[0]
                if override.is_sweep_override():
                    errors.append(f"{text}: one value at a time; to search over several, use trivium tune")
                else:
                    parsed.append(override)
                break
        else:
            errors.append(f"{text}: is not of the form key=value")
    return parsed


def _sort_overrides(
    parsed: list[Override], library: Library, errors: list[str]
) -> tuple[dict[str, str], list[Override]]:
    """Groups with a valid option (a wrong one is replaced by its nearest, so that the rest can be checked), and the
    rest."""
    groups: dict[str, str] = {}
    values: list[Override] = []
    for override in parsed:
        key, option = override.key_or_group, override.value()
        if key not in GROUPS or isinstance(option, dict):
            values.append(override)
        elif option is None:
            groups[key] = "null"
        elif library.find(key, str(option)):
            groups[key] = str(option)
        else:
            options = list(library.options(key))
            near = difflib.get_close_matches(str(option), options, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(options)}"
            errors.append(f"{key}={option}: there is no such {key}; {hint} (configs/{key}/)")
            if near:
                groups[key] = near[0]
            elif key == "experiment" or key in LEARNERS:
                raise ConfigError(errors)
    if not any(groups.get(g, "null") != "null" for g in ("experiment", *LEARNERS)):
        groups["experiment"] = DEFAULT_EXPERIMENT
    if "agent" in groups and "experiment" not in groups:
        groups.setdefault("env", "gymnasium")
    return groups, values


def _known(override: Override, base: DictConfig, choices: dict[str, str], library: Library, errors: list[str]) -> bool:
    """Whether the key of a value override exists; `+` may add what a constructor takes and its YAML leaves out."""
    path, added = override.key_or_group, override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)
    parent = path.rpartition(".")[0]
    if override.type == OverrideType.DEL or path.startswith("hydra"):
        errors.append(f"{override.input_line}: only key=value and +key=value can be given here")
        return False
    group = path.partition(".")[0]
    if group in (*LEARNERS, *PARTS) and OmegaConf.select(base, group) is None:
        errors.append(f"{path}: no {group} is chosen; valid: {group}=<{', '.join(library.options(group))}>")
        return False
    if _has(base, path) or (added and parent and _has(base, parent)):
        return True
    errors.append(_unknown_key(path, base, _file_of(path, choices, library)))
    return False


def _unknown_key(path: str, tree: DictConfig, file: str) -> str:
    every = [p for p, _ in leaves(OmegaConf.to_container(tree))]
    prefix, _, last = path.rpartition(".")
    siblings = [p for p in every if p.rpartition(".")[0] == prefix]
    near = difflib.get_close_matches(path, siblings or every, n=1, cutoff=0.6)
    near = near or [p for p in every if p.rpartition(".")[2] == last][:1]
    near = near or difflib.get_close_matches(path, [*every, *tree], n=1, cutoff=0.6)
    names = ", ".join(s.rpartition(".")[2] for s in siblings if not s.endswith(("_target_", "_partial_")))
    hint = f"did you mean '{near[0]}'?" if near else f"valid: {names or ', '.join(map(str, tree))}"
    return f"{path}: there is no such key; {hint} ({file})"


def _file_of(path: str, choices: dict[str, str], library: Library) -> str:
    group = path.partition(".")[0]
    found = library.find(group, choices[group]) if choices.get(group) else None
    return library.named(found) if found else "configs/config.yaml"


# ----------------------------------------------------------------------------------------------- Hydra


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    previous = GlobalHydra.instance().hydra  # the caller may use Hydra too
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("trivium.configs", version_base=None, job_name="trivium"):
            yield
    finally:
        GlobalHydra.instance().hydra = previous


def _tree(groups: dict[str, str], values: list[str], library: Library) -> tuple[DictConfig, dict[str, str]]:
    """The composed tree and which option of each group it holds."""
    overrides = [f"{group}={option}" for group, option in groups.items()] + values
    if library.config_dir:
        overrides.append(f"hydra.searchpath=['file://{library.config_dir}']")
    tree = hydra_compose("config", overrides=overrides, return_hydra_config=True)
    choices = {g: c for g, c in tree.hydra.runtime.choices.items() if g in GROUPS and c not in (None, "null")}
    OmegaConf.set_struct(tree, False)
    del tree["hydra"]
    return tree, choices


def _resolve(tree: DictConfig, errors: list[str]) -> Config:
    try:
        return OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError([*errors, _first_line(error)]) from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}:{mark.line + 1}: not valid YAML: {error.problem}"
    return re.sub(r"\s+", " ", str(error).split("\n\n")[0]).strip()


# ----------------------------------------------------------------------------------------------- checks


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a nested dict and their values; an empty dict is a leaf."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _has(tree: DictConfig, path: str) -> bool:
    node: Any = tree
    for name in path.split("."):
        if not isinstance(node, DictConfig) or name not in node:
            return False
        node = node._get_node(name)
    return True


def _check_experiment(option: str | None, reference: DictConfig, library: Library, errors: list[str]) -> None:
    """The keys in an experiment's own body must exist in the groups that it chooses."""
    path = library.find("experiment", option) if option else None
    if path is None:
        return
    body = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(body, dict)
    body.pop("defaults", None)
    for key, _ in leaves(body):
        parent = reference
        for name in key.split("."):
            if not isinstance(parent, DictConfig):
                break  # below a group that is not chosen or a list: the experiment's own content
            if name not in parent:
                if "_target_" in body.get(key.partition(".")[0], {}):
                    break  # the experiment names a constructor of its own; its signature decides
                errors.append(_unknown_key(key, reference, library.named(path)))
                break
            parent = parent._get_node(name)  # type: ignore[assignment]


def _check_values(config: Config, reference: Any, errors: list[str]) -> None:
    defaults = dict(leaves(reference))
    for path, value in leaves(config):
        expected = valid.problem(path, value, defaults.get(path))
        if expected:
            errors.append(f"{path}={valid.show(value)}: must be {expected}")
        elif path.rpartition(".")[2] in ("path", "file") and value is not None and not Path(str(value)).exists():
            errors.append(f"{path}={value}: there is no such file or folder")


def _check_whole(config: Config, errors: list[str]) -> None:
    """What concerns several keys."""
    chosen = [g for g in LEARNERS if config.get(g)]
    if len(chosen) != 1:
        errors.append(f"{' and '.join(chosen) or 'nothing'} chosen: exactly one of learner=<...> and agent=<...>")
    if all(value is None for value in config["budget"].values()):
        errors.append(f"budget: nothing ends this run; set at least one of {', '.join(config['budget'])}")
    if config["monitor"]["patience"] is not None and config["monitor"]["metric"] is None:
        errors.append("monitor.patience: early stopping needs monitor.metric, e.g. monitor.metric=eval/loss")
    workers = config["launch"]["workers"]
    if config["launch"]["engine"] == "inline" and workers != 1:
        errors.append(f"launch.workers={workers}: one process runs inline; several need launch=ray")
    evaluates = any(config["evaluation"].values())
    if not evaluates and (config["budget"]["target"] or config["monitor"]["patience"]):
        errors.append("evaluation: a target or patience needs evaluation.every_updates or evaluation.every_s")
    env_id = (config.get("env") or {}).get("id")
    if env_id is not None:
        errors.extend(_check_env(str(env_id)))
    if str(config["device"]).startswith(("cuda", "mps")) and config["launch"]["engine"] == "inline":
        errors.extend(_check_device(config["device"]))


def _check_env(env_id: str) -> list[str]:
    import gymnasium

    if ":" in env_id:
        return []  # registered by a module that the builder imports
    known = sorted(gymnasium.registry)
    if env_id in known:
        return []
    near = difflib.get_close_matches(env_id, known, n=1)
    return [
        f"env.id={env_id}: gymnasium knows no such id; "
        + (f"did you mean '{near[0]}'?" if near else "see trivium list envs")
    ]


def _check_device(device: str) -> list[str]:
    import torch

    kind, _, index = device.partition(":")
    if kind == "mps":
        return [] if torch.backends.mps.is_available() else [f"device={device}: this machine has no MPS device"]
    count = torch.cuda.device_count()
    if int(index or 0) < count:
        return []
    return [
        f"device={device}: this machine has {count or 'no'} CUDA device{'s' if count > 1 else ''}; valid: auto, cpu"
    ]


RESUMABLE = ("budget", "log", "evaluation", "checkpoint", "monitor", "tracking")


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A run's config with other values where a resumed run may differ from the one it continues.

    Raises:
        ConfigError: a key that does not exist or may not change, or an impossible value.
    """
    errors: list[str] = []
    tree = OmegaConf.create(config)
    for override in _parse(overrides, errors):
        path = override.key_or_group
        if path.partition(".")[0] not in RESUMABLE:
            errors.append(f"{path}: can't change when a run is resumed; valid: {', '.join(RESUMABLE)}")
        elif not _has(tree, path):
            errors.append(_unknown_key(path, tree, "config.yaml"))
        else:
            OmegaConf.update(tree, path, override.value())
    changed: Config = OmegaConf.to_container(tree)  # type: ignore[assignment]
    _check_values(changed, config, errors)
    _check_whole(changed, errors)
    if errors:
        raise ConfigError(errors)
    return changed
