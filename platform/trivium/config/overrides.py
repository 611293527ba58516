"""What the user typed: `group=option` and `dotted.key=value`, by Hydra's grammar, read and sorted."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import grammar_parser
from omegaconf.errors import GrammarParseError

from trivium.config import hints
from trivium.config.checks.places import is_path
from trivium.config.library import GROUPS, LEARNERS, Library
from trivium.config.problems import Found, Kind, Problem

ALGORITHM = "agent.algorithm"
SHORT = {"algorithm": ALGORITHM}  # for an agent that is another library's choice of algorithms
OPTIMIZER = "learner.optimizer"
OPTIMIZERS = {  # short names of torch's; any other class by learner.optimizer._target_
    name.lower(): f"torch.optim.{name}"
    for name in (
        "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop",
        "Adafactor",
    )
}  # fmt: skip
ALONE = threading.RLock()  # what Hydra has composed, and the caches of its parsers, exist once in a process


def parse_overrides(overrides: Sequence[str], found: Found, library: Library | None = None) -> list[Override]:
    """The overrides that can be read.

    Hydra's grammar parses a value. It is an unchanged text where the grammar can't parse it
    (`budget.target=eval/accuracy>=0.97`) and where a path is expected, because a path may contain any character.

    Args:
        library: to find what was probably meant by a word that is no override; None: it is not looked for.
    """
    with ALONE:
        parser = OverridesParser.create()
        pairs = [(text, _override(parser, text)) for text in overrides]
    for is_none, series in itertools.groupby(pairs, lambda pair: pair[1] is None):
        words = [text for text, _ in series] if is_none else []
        for problem in hints.not_overrides(words, library):
            found.add(problem)
    parsed = []
    for text, override in pairs:
        if override is None:
            continue
        if override.key_or_group == OPTIMIZER and isinstance(override.value(), str):
            name = str(override.value())
            near = difflib.get_close_matches(name.lower(), OPTIMIZERS, n=1)
            nearest = tuple(f"{OPTIMIZER}={one}" for one in near)
            found.add(Problem(Kind.OPTIMIZER, OPTIMIZER, name, tuple(OPTIMIZERS), nearest))
            continue
        if override.is_sweep_override():
            found.add(Problem(Kind.SEVERAL_VALUES, text))
        elif (text_in_it := _bad_reference(override.value())) is not None:
            found.add(Problem(Kind.REFERENCE, override.key_or_group, text_in_it))
        else:
            parsed.append(override)
    return parsed


def _override(parser: OverridesParser, text: str) -> Override | None:
    """One override; None if the text is no override."""

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


@dataclass(frozen=True)
class Typed:
    """What the user typed.

    Attributes:
        groups: the option of each group that was typed, `null` for none; each exists.
        values: the overrides of keys.
        guessed: the groups whose option is the nearest one, because the one that was typed does not exist.
        unclear: whether an option does not exist and has no nearest one.
    """

    groups: Mapping[str, str]
    values: tuple[Override, ...]
    guessed: tuple[str, ...] = ()
    unclear: bool = False


def read_typed(overrides: Sequence[str], library: Library, found: Found, *, default_experiment: str) -> Typed:
    """Parse overrides, and sort them into options of groups and values of keys. An option that does not exist is
    replaced by its nearest one, so that the rest can be checked."""
    groups: dict[str, str] = {}
    values: list[Override] = []
    guessed: list[str] = []
    unclear = False
    for override in parse_overrides(overrides, found, library):
        key, option = override.key_or_group, override.value()
        if key not in GROUPS or isinstance(option, dict) or override.type == OverrideType.DEL:
            values.append(override)
        elif option is None and key != "launch":
            groups[key] = "null"
        elif library.find(key, str(option)):
            groups[key] = str(option)
        else:
            problem, near = hints.no_such_option(key, option, library)
            found.add(problem)
            guessed.append(key)
            if near:
                groups[key] = near
            unclear = unclear or not near
    if not any(groups.get(g, "null") != "null" for g in ("experiment", *LEARNERS)):
        groups["experiment"] = default_experiment
    if groups.get("agent", "null") != "null" and "experiment" not in groups:
        groups.setdefault("env", "gymnasium")
    return Typed(groups, tuple(values), tuple(guessed), unclear)
