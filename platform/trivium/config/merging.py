"""Merge what is chosen into one tree: Hydra composes the groups, then the experiment's layers and what was typed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trivium.config import constructors, hints
from trivium.config.errors import Config
from trivium.config.experiments import Chosen, Layer, not_yaml, nothing
from trivium.config.library import BUILT, Library
from trivium.config.overrides import ALGORITHM, ALONE
from trivium.config.problems import Found, Kind, Problem, show
from trivium.config.tree import get, has, is_free, leaves

NOT_COMPOSED = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)


@dataclass(frozen=True)
class Origins:
    """Where the values of a config come from.

    Attributes:
        options: by group, see `Chosen`.
        layers: see `Chosen`.
        typed: the keys that were typed.
        variables: the environment's variables that set a key, by key.
    """

    library: Library
    options: Mapping[str, str]
    layers: tuple[Layer, ...]
    typed: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """The file or variable that sets a key; "" for what was typed."""
        if key in self.variables:
            return self.variables[key]
        return "" if any(f"{key}.".startswith(f"{typed}.") for typed in self.typed) else self.file(key)

    def file(self, key: str) -> str:
        """The file that has a key or would have it."""
        layer = next((layer for layer in reversed(self.layers) if has(layer.body, key)), None)
        if layer:
            return layer.file
        group = key.partition(".")[0]
        file = self.library.find(group, self.options[group]) if group in self.options else None
        return self.library.named(file) if file else "configs/config.yaml"


@dataclass(frozen=True)
class Merged:
    """A config before its interpolations are resolved.

    Attributes:
        tree: keys and values.
        reference: the same keys with the values of the groups' own YAML, from which types and valid keys are known.
        origins: where the values come from.
        guessed, unclear: see `Chosen`.
    """

    tree: DictConfig
    reference: Config
    origins: Origins
    guessed: tuple[str, ...]
    unclear: bool


def merge(chosen: Chosen, library: Library, found: Found) -> Merged:
    """Compose the groups that are chosen, and set what the experiment and the user set. Errors are unknown keys."""
    try:
        tree = OmegaConf.create(library.base()) if chosen.unclear else _composed_by_hydra(chosen.options, library)
    except NOT_COMPOSED as error:
        found.add(not_composed(error))
        chosen = nothing(chosen, library)
        tree = OmegaConf.create(library.base())
    reference = as_it_stands(tree)
    origins = Origins(library, chosen.options, chosen.layers, tuple(v.key_or_group for v in chosen.values))
    hint_at_lists(found, reference)
    for layer in chosen.layers:
        for path, target in _targets_in(layer.body):
            _begin_again(path, target, tree, reference)
        tree.merge_with(layer.body)
    for group in chosen.emptied:
        tree[group] = None
    for layer in chosen.layers:
        _check_keys(layer, reference, found)
    gone = begin_typed_again(chosen.values, tree, reference)
    for override in chosen.values:
        key = override.key_or_group
        if override.type == OverrideType.DEL and key in gone:
            gone.remove(key)
            continue
        fills = isinstance(override.value(), dict) and get(reference, key) == {}
        free = (fills or is_free(reference, key)) and override.type == OverrideType.CHANGE
        if free or is_known(override, as_it_stands(tree), origins.file(key), library, found):
            apply(override, tree)
    return Merged(tree, reference, origins, chosen.guessed, chosen.unclear)


def as_it_stands(tree: DictConfig) -> Config:
    """A composed config as plain data, its interpolations as they are written."""
    return OmegaConf.to_container(tree)  # type: ignore[return-value]


def _composed_by_hydra(options: Mapping[str, str], library: Library) -> DictConfig:
    """The YAML files of the groups, merged. The only place where Hydra composes, once for each config.

    Raises:
        HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError: a file can't be read.
    """
    overrides = [f"{group}={option}" for group, option in options.items()]
    if library.config_dir:
        escaped = str(library.config_dir).replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.searchpath=['file://{escaped}']")
    with _hydra():
        tree = hydra_compose("config", overrides=overrides)
    OmegaConf.set_struct(tree, False)
    return tree


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


def not_composed(error: BaseException) -> Problem:
    """The problem that Hydra, OmegaConf or YAML raised."""
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        return not_yaml(error, mark.name if mark else "a config file")
    return Problem(Kind.COMPOSITION, details={"reason": one_line(error)})


def one_line(error: BaseException) -> str:
    """The first paragraph of an error of Hydra's or OmegaConf's, without line breaks."""
    return re.sub(r"\s+", " ", re.split(r"\n\n|\n\s*full_key", str(error))[0]).strip()


# ----------------------------------------------------------------------------------------------- unknown keys


def _check_keys(layer: Layer, reference: Config, found: Found) -> None:
    """An experiment may set only what the groups that it chooses have, and what a constructor that it names accepts."""
    written = [key.removesuffix("._target_") for key, _ in leaves(layer.body) if key.endswith("._target_")]
    for key, _ in leaves(layer.body):
        group = key.partition(".")[0]
        if not isinstance(get(reference, group), dict) and group in BUILT:
            continue  # a group that is written out here: its constructor decides
        parent = key
        while parent and not has(reference, parent):
            parent = parent.rpartition(".")[0]
        if parent == key or is_free(reference, key) or constructors.is_keyword(key, reference):
            continue
        below = get(reference, parent) if parent else reference
        if not isinstance(below, dict):
            continue  # a list or a null that is given content: the values' check decides
        if any(f"{key}.".startswith(f"{node}.") for node in written):
            continue
        depth = parent.count(".") + 2 if parent else 1
        problem = hints.unknown_key(".".join(key.split(".")[:depth]), reference, layer.file)
        found.add(problem, about=key)


def is_known(override: Override, base: dict[str, Any], file: str, library: Library, found: Found) -> bool:
    """Whether the keys of an override exist. In what is built, a constructor's keyword that its YAML leaves out may be
    given, with `+` also to one that accepts any, and `~` may leave out what the YAML has."""
    key = override.key_or_group
    group, built = key.partition(".")[0], key.partition(".")[0] in BUILT
    value, line = override.value(), override.input_line or ""
    added = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)

    def refuse(kind: Kind, nearest: tuple[str, ...] = (), valid: tuple[str, ...] = (), **details: str) -> bool:
        found.add(Problem(kind, key, line, valid, nearest, details=details))
        return False

    if key == ALGORITHM and not has(base, key):
        return refuse(Kind.ALGORITHM, (f"agent=rllib algorithm={show(value)}",))
    if built and not isinstance(base.get(group), dict):
        return refuse(Kind.NOTHING_CHOSEN, valid=(_choices(group, base, library),), group=group)
    if (override.type == OverrideType.DEL or added) and not (built and "." in key):
        return refuse(Kind.PLUS_OR_TILDE, groups=", ".join(BUILT))
    keys = [f"{key}.{k}" if k else key for k, _ in leaves(value)] if isinstance(value, dict) else [key]
    if added and isinstance(get(base, key.rpartition(".")[0]), dict):
        keys = []
    may_be_new = override.type != OverrideType.DEL
    unknown = [k for k in keys if not (has(base, k) or (may_be_new and constructors.is_keyword(k, base)))]
    for k in unknown:
        found.add(hints.unknown_key(k, base, file))
    if unknown:
        return False
    now = get(base, key)
    if override.type == OverrideType.ADD and now is not None and not isinstance(value, dict | list):
        return refuse(Kind.THERE_ALREADY, change=line[1:])
    if override.type == OverrideType.DEL and value is not None and value != now:
        return refuse(Kind.OTHER_VALUE, now=show(now))
    return key not in found


def _choices(group: str, base: dict[str, Any], library: Library) -> str:
    """What would choose a group, and an env only an agent can use."""
    if group == "env" and not base.get("agent"):
        return f"agent=<{', '.join(library.options('agent'))}>, which brings one"
    return f"{group}=<{', '.join(library.options(group))}>"


# ----------------------------------------------------------------------------------------------- applying


def hint_at_lists(found: Found, reference: Config) -> None:
    """Add to several values that were typed the list that was probably meant, where the key holds a list."""
    for text, problem in list(found.problems.items()):
        key, _, value = text.partition("=")
        if problem.kind is Kind.SEVERAL_VALUES and isinstance(get(reference, key), list):
            found.hint_at(text, f"{key}=[{value}]")


def apply(override: Override, tree: DictConfig) -> None:
    """As Hydra would while it composes, which takes a tenth of a second each time."""
    key, value = override.key_or_group, override.value()
    if override.type == OverrideType.DEL:
        parent, _, name = key.rpartition(".")
        del OmegaConf.select(tree, parent)[name]
    else:
        OmegaConf.update(tree, key, value, merge=True)


# A node of the config that is given another constructor begins again with the defaults of that constructor: keywords
# that YAML sets for the former one, such as AdamW's weight decay, are not meant for SGD.


def begin_typed_again(values: Sequence[Override], tree: DictConfig, reference: Config) -> set[str]:
    """Begin the nodes again to which overrides give another constructor, before any other override is applied.

    Returns:
        The keys that are gone.
    """
    gone: set[str] = set()
    for override in values:
        parent, _, last = override.key_or_group.rpartition(".")
        named = [(parent, override.value())] if last == "_target_" else []
        for path, target in [*named, *_targets_in(override.value(), override.key_or_group)]:
            gone |= _begin_again(path, target, tree, reference)
    return gone


def _begin_again(path: str, target: Any, tree: DictConfig, reference: Config) -> set[str]:
    before = get(as_it_stands(tree), path) if path.partition(".")[0] in BUILT else None
    if not isinstance(before, dict) or not isinstance(target, str) or before.get("_target_") in (None, target):
        return set()
    kept = {"_target_": target, **({"_partial_": before["_partial_"]} if "_partial_" in before else {})}
    OmegaConf.update(tree, path, kept, merge=False)
    parent, _, name = path.rpartition(".")
    above = get(reference, parent) if parent else reference
    if isinstance(above, dict):
        above[name] = kept
    return {f"{path}.{key}" for key in before if key not in kept}


def _targets_in(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The nodes of a nested dict that name a constructor, outer ones first: their dotted keys and what they name."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from _targets_in(value, f"{path}.{key}" if path else str(key))
