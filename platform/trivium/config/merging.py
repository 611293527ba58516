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
from trivium.config.errors import Config, Found, not_yaml
from trivium.config.experiments import Chosen, Layer, nothing
from trivium.config.library import BUILT, Library
from trivium.config.overrides import ALGORITHM, ALONE, SEVERAL
from trivium.config.rules.rule import show
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
        found.add("", one_line(error))
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


def one_line(error: BaseException) -> str:
    """What Hydra, OmegaConf or YAML says, as one line."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.YAMLError):
        return not_yaml(error, mark.name if mark else "a config file")
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
        found.add(key, hints.unknown_key(".".join(key.split(".")[:depth]), reference, layer.file))


def is_known(override: Override, base: dict[str, Any], file: str, library: Library, found: Found) -> bool:
    """Whether the keys of an override exist. In what is built, a constructor's keyword that its YAML leaves out may be
    given, with `+` also to one that accepts any, and `~` may leave out what the YAML has."""
    key = override.key_or_group
    group, built = key.partition(".")[0], key.partition(".")[0] in BUILT
    added = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)
    if key == ALGORITHM and not has(base, key):
        meant = f"agent=rllib algorithm={show(override.value())}"
        found.add(key, f"{key}: only RLlib's agent has algorithms; did you mean '{meant}'?")
        return False
    if built and not isinstance(base.get(group), dict):
        found.add(key, f"{key}: no {group} is chosen; valid: {_choices(group, base, library)}")
        return False
    if (override.type == OverrideType.DEL or added) and not (built and "." in key):
        found.add(key, f"{override.input_line}: + and ~ are for keys of {', '.join(BUILT)}")
        return False
    value = override.value()
    keys = [f"{key}.{k}" if k else key for k, _ in leaves(value)] if isinstance(value, dict) else [key]
    if added and isinstance(get(base, key.rpartition(".")[0]), dict):
        keys = []
    may_be_new = override.type != OverrideType.DEL
    unknown = [k for k in keys if not (has(base, k) or (may_be_new and constructors.is_keyword(k, base)))]
    for k in unknown:
        found.add(k, hints.unknown_key(k, base, file))
    if unknown:
        return False
    now = get(base, key)
    if override.type == OverrideType.ADD and now is not None and not isinstance(value, dict | list):
        found.add(key, f"{override.input_line}: {key} is there already; {(override.input_line or '')[1:]} changes it")
    elif override.type == OverrideType.DEL and value is not None and value != now:
        found.add(key, f"{override.input_line}: {key} is {show(now)}; ~{key} leaves it out")
    return key not in found.lines


def _choices(group: str, base: dict[str, Any], library: Library) -> str:
    """What would choose a group, and an env only an agent can use."""
    if group == "env" and not base.get("agent"):
        return f"agent=<{', '.join(library.options('agent'))}>, which brings one"
    return f"{group}=<{', '.join(library.options(group))}>"


# ----------------------------------------------------------------------------------------------- applying


def hint_at_lists(found: Found, reference: dict[str, Any]) -> None:
    """Add to what was said of several values the list that was probably meant, where the key holds a list."""
    for text, line in found.lines.items():
        key, _, value = text.partition("=")
        if line.endswith(SEVERAL) and isinstance(get(reference, key), list):
            found.lines[text] = f"{line}; did you mean '{key}=[{value}]'?"


def apply(override: Override, tree: DictConfig) -> None:
    """As Hydra would while it composes, which takes a tenth of a second each time."""
    key, value = override.key_or_group, override.value()
    if override.type == OverrideType.DEL:
        parent, _, name = key.rpartition(".")
        del OmegaConf.select(tree, parent)[name]
    else:
        OmegaConf.update(tree, key, value, merge=True)


# Where a node of the config names another constructor than it did, it begins again with that one's own defaults:
# keywords that YAML sets for the former one, such as AdamW's weight decay, are not meant for SGD.


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
