"""What the user typed: `group=option` and `dotted.key=value`, by Hydra's grammar, and what it does to a config."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, grammar_parser
from omegaconf.errors import GrammarParseError

from trivium.config import constructors, hints
from trivium.config.checking import is_path
from trivium.config.errors import Found
from trivium.config.library import GROUPS, LEARNERS, PARTS, Library
from trivium.config.rules.rule import show
from trivium.config.tree import get, has, leaves

SHORT = {"algorithm": "agent.algorithm"}  # for an agent that is another library's choice of algorithms
OPTIMIZER = "learner.optimizer"
OPTIMIZERS = {  # short names of torch's; any other class by learner.optimizer._target_
    name.lower(): f"torch.optim.{name}"
    for name in (
        "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop",
        "Adafactor",
    )
}  # fmt: skip
ALONE = threading.RLock()  # what Hydra has composed, and the caches of its parsers, exist once in a process
BUILT = (*LEARNERS, *PARTS)
SEVERAL = ": one value at a time"


def parse_overrides(overrides: Sequence[str], found: Found, library: Library | None = None) -> list[Override]:
    """The overrides that can be read.

    A value is what Hydra's grammar makes of it, and a text as it stands where the grammar has no place for it
    (`budget.target=eval/accuracy>=0.97`), or where a path is expected, which may hold any character.

    Args:
        library: what a word that is none may have meant.
    """
    with ALONE:
        parser = OverridesParser.create()
        pairs = [(text, _override(parser, text)) for text in overrides]
    for is_none, series in itertools.groupby(pairs, lambda pair: pair[1] is None):
        words = [text for text, _ in series] if is_none else []
        for word, line in hints.not_overrides(words, library):
            found.add(word, line)
    parsed = []
    for text, override in pairs:
        if override is None:
            continue
        if override.key_or_group == OPTIMIZER and isinstance(override.value(), str):
            name = str(override.value())
            near = difflib.get_close_matches(name.lower(), OPTIMIZERS, n=1)
            hint = f"did you mean '{OPTIMIZER}={near[0]}'?" if near else f"valid: {', '.join(OPTIMIZERS)}"
            found.add(OPTIMIZER, f"{OPTIMIZER}={name}: no such optimizer; {hint}")
            continue
        if override.is_sweep_override():
            found.add(text, f"{text}{SEVERAL}")
        elif (text_in_it := _bad_reference(override.value())) is not None:
            key, reason = override.key_or_group, "${ begins a reference to another key, such as ${budget.epochs}"
            found.add(key, f"{key}={text_in_it}: {reason}; this is none")
        else:
            parsed.append(override)
    return parsed


def hint_at_lists(found: Found, reference: dict[str, Any]) -> None:
    """Add to what was said of several values the list that was probably meant, where the key holds a list."""
    for text, line in found.lines.items():
        key, _, value = text.partition("=")
        if line.endswith(SEVERAL) and isinstance(get(reference, key), list):
            found.lines[text] = f"{line}; did you mean '{key}=[{value}]'?"


def _override(parser: OverridesParser, text: str) -> Override | None:
    """One override; None if it is none."""

    def read(text: str) -> Override | None:
        with contextlib.suppress(HydraException):
            override = parser.parse_overrides([text])[0]
            return override if override.key_or_group and not override.package else None
        return None

    key, equals, value = text.partition("=")
    key = SHORT.get(key, key)
    if key == OPTIMIZER and value.lower() in OPTIMIZERS:
        key, value = f"{OPTIMIZER}._target_", OPTIMIZERS[value.lower()]
    if not equals:
        return read(key)
    literal = read(f"{key}=_")
    if literal is None:
        return None
    literal._value, literal.input_line = value, f"{key}={value}"
    quoted = re.fullmatch(r"'.*'|\".*\"|null", value, re.DOTALL)
    structure = value[:1] in ("[", "{") and key != "storage"
    if is_path(literal.key_or_group) and not quoted and not structure:
        return literal
    return read(f"{key}={value}") or literal


def _bad_reference(value: Any) -> str | None:
    """The first text in a value that holds a `${` which OmegaConf can't read, if there is one."""
    if isinstance(value, dict | list):
        below = (_bad_reference(v) for v in (value.values() if isinstance(value, dict) else value))
        return next((text for text in below if text is not None), None)
    if isinstance(value, str) and "${" in value:
        try:
            with ALONE:
                grammar_parser.parse(value)
        except GrammarParseError:
            return str(value)
    return None


def sort_overrides(
    parsed: list[Override], library: Library, found: Found, default_experiment: str
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
            line, near = hints.no_such_option(key, option, library)
            found.add(key, line)
            if near:
                groups[key] = near
            unclear = unclear or not near
    if not any(groups.get(g, "null") != "null" for g in ("experiment", *LEARNERS)):
        groups["experiment"] = default_experiment
    if groups.get("agent", "null") != "null" and "experiment" not in groups:
        groups.setdefault("env", "gymnasium")
    return groups, values, unclear


def is_known(override: Override, base: dict[str, Any], file: str, library: Library, found: Found) -> bool:
    """Whether the keys of an override exist. In what is built, a constructor's keyword that its YAML leaves out may be
    given, with `+` also to one that accepts any, and `~` may leave out what the YAML has."""
    key = override.key_or_group
    group, built = key.partition(".")[0], key.partition(".")[0] in BUILT
    added = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)
    if key == SHORT["algorithm"] and not has(base, key):
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


def begin_experiments_again(layers: Sequence[dict[str, Any]], tree: DictConfig, reference: dict[str, Any]) -> None:
    """Of the nodes to which an experiment gives another constructor.

    Args:
        layers: what the experiments set, the last has the last word.
        tree, reference: the composed config and Trivium's own values, are changed.
    """
    for i, layer in enumerate(layers):
        for path, target in _targets_in(layer):
            _begin_again(path, get(reference, f"{path}._target_"), target, layers[i:], tree, reference)


def begin_typed_again(values: Sequence[Override], tree: DictConfig, reference: dict[str, Any]) -> set[str]:
    """Of the nodes to which overrides give another constructor, before any other override is applied.

    Returns:
        The keys that are gone.
    """
    gone: set[str] = set()
    for override in values:
        parent, _, last = override.key_or_group.rpartition(".")
        named = [(parent, override.value())] if last == "_target_" else []
        for path, target in [*named, *_targets_in(override.value(), override.key_or_group)]:
            now = get(OmegaConf.to_container(tree), f"{path}._target_")
            gone |= _begin_again(path, now, target, [], tree, reference)
    return gone


def _begin_again(
    path: str, now: Any, target: Any, layers: Sequence[dict[str, Any]], tree: DictConfig, reference: dict[str, Any]
) -> set[str]:
    if path.partition(".")[0] not in BUILT or now is None or not isinstance(target, str) or target == now:
        return set()
    before = get(OmegaConf.to_container(tree), path)
    kept = {"_target_": target, **({"_partial_": before["_partial_"]} if "_partial_" in before else {})}
    fresh = OmegaConf.merge(kept, *(node for layer in layers if isinstance(node := get(layer, path), dict)))
    OmegaConf.update(tree, path, fresh, merge=False)
    parent, _, name = path.rpartition(".")
    above = get(reference, parent) if parent else reference
    if isinstance(above, dict):
        above[name] = kept
    return {f"{path}.{key}" for key in before if key not in fresh}


def _targets_in(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The nodes of a nested dict that name a constructor, outer ones first: their dotted keys and what they name."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from _targets_in(value, f"{path}.{key}" if path else str(key))
