"""What a `_target_` names: whether it may be built, and which keywords it accepts.

Signatures are read from the source where that is possible: mistakes are then found without importing torch, and a
config that comes from a stranger is checked without importing anything.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trivium.config.library import LEARNERS, PARTS, Library, listed_targets
from trivium.config.problems import Kind, Problem
from trivium.config.rules.foreign import foreign_rules
from trivium.config.rules.rule import Rule
from trivium.config.rules.settings import rules_of_settings
from trivium.config.rules.signatures import Parameters, read, stated, stated_parameters
from trivium.config.rules.source import Unusable, mentioned, no_such_name, parsed
from trivium.config.tree import get, has

EVERYTHING = ("*",)  # the `trusted` of a config that the user typed

_TORCH_MODULES = ("torch.nn", "torch.optim", "torch.optim.lr_scheduler")
_SPECIAL = ("_target_", "_partial_")


def chosen_groups(config: dict[str, Any]) -> dict[str, Any]:
    """The nodes of a config that are built: the parts, then the learner."""
    return {g: config[g] for g in (*PARTS, *LEARNERS) if config.get(g) is not None}


def problems(config: dict[str, Any], *, trusted: Collection[str] = EVERYTHING) -> list[Problem]:
    """What keeps the objects of a config from being built: names that do not exist or are not trusted, keywords that
    are not accepted or are missing. Calls no constructor; imports a module only if it is trusted and its source does
    not show the signature."""
    groups = chosen_groups(config)
    found: list[Problem] = []
    for group, node in groups.items():
        if not isinstance(node, dict) or "_target_" not in node:
            found.append(Problem(Kind.NO_TARGET, group, details={"options": _options(group)}))
            continue
        given = ("run", *(p for p in PARTS if p in groups)) if group in LEARNERS else ()
        found.extend(_check(node, group, given, trusted))
    return found


def _options(group: str) -> str:
    return ", ".join(Library().options(group))


def _check(node: Any, path: str, given: Collection[str], trusted: Collection[str]) -> Iterator[Problem]:
    children = enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ()
    for key, value in children:
        yield from _check(value, f"{path}.{key}", (), trusted)
        named = str(value).partition(":")[0] if str(key).endswith("id") and ":" in str(value) else None
        if named and not is_trusted(named, trusted):
            yield Problem(Kind.UNTRUSTED_ENV, f"{path}.{key}", value, details={"module": named})
    if not isinstance(node, dict) or "_target_" not in node:
        return
    try:
        takes = parameters(node["_target_"], trusted)
    except Unusable as error:
        yield replace(error.problem, key=f"{path}._target_")
        return
    yield from _bind(node, path, given, takes)


def _bind(node: dict[str, Any], path: str, given: Collection[str], takes: Parameters) -> Iterator[Problem]:
    target, keys = node["_target_"], [key for key in node if key not in _SPECIAL]

    def problem(kind: Kind, name: str, near: Sequence[str] = (), valid: Sequence[str] = (), **details: str) -> Problem:
        details = {"target": target, **details}
        return Problem(kind, f"{path}.{name}", node.get(name), tuple(valid), tuple(near), details=details)

    if "run" in given and not takes.takes_any and "run" not in takes.names:
        yield Problem(Kind.NO_LEARNER, f"{path}._target_", target)
        return
    for key in keys:
        if key in given:
            yield problem(Kind.GIVEN, key)
        elif not takes.takes_any and key not in takes.names:
            near = difflib.get_close_matches(str(key), takes.names, n=1)
            yield problem(Kind.KEYWORD, key, near, takes.names)
    for name in given:
        if not takes.takes_any and name not in takes.names:
            yield problem(Kind.TAKES_NO, name, part=name)
    if not node.get("_partial_"):
        for name in takes.required:
            if name in PARTS and given and name not in given:
                yield problem(Kind.NEEDS_PART, name, part=name, options=_options(name))
            elif name not in keys and name not in given:
                part = path.partition(".")[0] in PARTS
                otherwise = "; `_partial_: true` leaves it to the learner" if part else ""
                yield problem(Kind.NEEDS_VALUE, name, otherwise=otherwise)


# ----------------------------------------------------------------------------------------------- names


def resolve(name: str, trusted: Collection[str] = EVERYTHING) -> Callable[..., Any]:
    """The class or function that a dotted name names.

    Raises:
        Unusable: there is none, or it is not trusted; in the latter case nothing of a stranger's was imported.
    """
    _require_allowed(name, trusted)
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may fail in any way
        details = {"module": module_name, "reason": f"{type(error).__name__}: {error}"}
        raise Unusable(Problem(Kind.IMPORT, value=name, details=details)) from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        raise no_such_name(name, [n for n in vars(module) if not n.startswith("_")])
    if not (is_trusted(module_name, trusted) or name in listed_targets() or _is_part_of_torch(found)):
        raise _untrusted(name, module_name)
    return found


def _untrusted(name: str, module: str) -> Unusable:
    return Unusable(Problem(Kind.UNTRUSTED, value=name, details={"module": module}))


def _require_allowed(name: Any, trusted: Collection[str]) -> None:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")) or "." not in name:
        near = nearest_target(str(name)) if "." not in str(name) else None
        raise Unusable(Problem(Kind.NOT_A_NAME, value=name, nearest=(near,) if near else ()))
    module_name, _, attribute = name.rpartition(".")
    torchs = module_name in _TORCH_MODULES and not attribute.startswith("_")
    if not (is_trusted(module_name, trusted) or torchs or name in listed_targets()):
        raise _untrusted(name, module_name)


def to_trust(config: dict[str, Any]) -> list[str]:
    """The modules of the user's own that are needed to build a config."""
    found: set[str] = set()

    def look(node: Any) -> None:
        for key, value in enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ():
            look(value)
            if str(key).endswith("id") and ":" in str(value):
                found.add(str(value).partition(":")[0])
            if key == "_target_":
                try:
                    _require_allowed(value, ())
                except Unusable:
                    found.add(str(value).rpartition(".")[0])

    look(chosen_groups(config))
    return sorted(filter(None, found))


def is_trusted(module: str, trusted: Collection[str]) -> bool:
    """Whether a module is one of those that may be imported, or in one of them."""
    return any(t == "*" or module == t or module.startswith(f"{t}.") for t in trusted)


def _is_part_of_torch(found: Any) -> bool:
    from torch import nn, optim

    return isinstance(found, type) and issubclass(found, optim.Optimizer | optim.lr_scheduler.LRScheduler | nn.Module)


# ----------------------------------------------------------------------------------------------- signatures


def rules_of(config: Mapping[Any, Any], path: str = "") -> dict[str, Rule]:
    """The rules of a config's keys: those of what every run has, and those that the signatures of the constructors that
    it names state. Imports nothing."""
    found: dict[str, Rule] = {} if path else dict(rules_of_settings())
    takes = stated_parameters(config["_target_"]) if "_target_" in config else None
    stated = {**takes.rules, **foreign_rules(config["_target_"])} if takes else {}
    for key, value in config.items():
        below = f"{path}.{key}" if path else str(key)
        if key in stated:
            found[below] = stated[key]
        if isinstance(value, dict):
            found.update(rules_of(value, below))
    return found


def parameters(name: str, trusted: Collection[str] = EVERYTHING) -> Parameters:
    """The keywords that a dotted name takes.

    Raises:
        Unusable: see `resolve`.
    """
    _require_allowed(name, trusted)
    written = read(*name.rpartition(".")[::2])
    if written:
        return written
    try:
        signature = inspect.signature(resolve(name, trusted))
    except (ValueError, TypeError):  # a builtin shows no signature
        return Parameters((), (), takes_any=True)
    every = signature.parameters.values()
    keywords = [p for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Parameters(
        tuple(p.name for p in keywords),
        tuple(p.name for p in keywords if p.default is p.empty),
        takes_any=any(p.kind is p.VAR_KEYWORD for p in every),
    )


def is_keyword(key: str, tree: dict[str, Any]) -> bool:
    """Whether a key that a config lacks is a keyword of the constructor that its node names, by its source. Not of one
    that the node above has too, as `lr`: it hands that down and would overrule this one."""
    parent, _, name = key.rpartition(".")
    target = get(tree, f"{parent}._target_")
    if not parent or target is None or has(tree, f"{parent.rpartition('.')[0]}.{name}"):
        return False
    takes = stated_parameters(target)
    return takes is not None and name in takes.names


def nearest_target(name: str, module_name: str | None = None) -> str | None:
    """The whole name of what was probably meant by its last part: `Adam` is torch.optim.Adam.

    Args:
        module_name: where it is looked for; None: among all that Trivium's own YAML names and torch's optimizers.
    """
    known = {} if module_name else {full.rpartition(".")[2]: full for full in sorted(listed_targets())}
    with contextlib.suppress(Unusable):
        tree = parsed(module_name or "torch.optim")
        public = [n for s in tree.body for n in mentioned(s, deep=False) if n[:1].isupper()] if tree else []
        known.update({n: f"{module_name or 'torch.optim'}.{n}" for n in public})
    lower = {n.lower(): full for n, full in known.items()}
    near = difflib.get_close_matches(name.rpartition(".")[2].lower(), lower, n=1, cutoff=0.7)
    return lower[near[0]] if near else None


def stated_by_learner(config: dict[str, Any], attribute: str) -> Any:
    """What the source of the learner that is chosen states, or that of its task; None if it is neither."""
    nodes = [node for group in (*LEARNERS, "task") if isinstance(node := config.get(group), dict)]
    found = (stated(node.get("_target_"), attribute) for node in nodes)
    return next((value for value in found if value is not None), None)
