"""What a `_target_` stands for: whether it may be built, and which keywords it takes.

Signatures are read from the source where that is possible: a mistake is then told without importing torch, and a
config that comes from a stranger is judged without importing anything.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from types import MappingProxyType
from typing import Any, NamedTuple

from trivium.config import import_places
from trivium.config.annotations import Resolve, Rule, rule_of
from trivium.config.library import LEARNERS, PARTS, Library, listed_targets
from trivium.config.tree import get, has

EVERYTHING = ("*",)  # the `trusted` of a config that the user typed

_TORCH_MODULES = ("torch.nn", "torch.optim", "torch.optim.lr_scheduler")
_SPECIAL = ("_target_", "_partial_")

Problem = tuple[str, str]  # the dotted key, and what is wrong with it


class Unusable(Exception):
    """A `_target_` that can't be built; its text says why."""


class Parameters(NamedTuple):
    """The keywords of a constructor: all, those without a default, whether it accepts any other, and the rules that
    annotations state, by keyword, as far as its source can be read."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_any: bool
    rules: Mapping[str, Rule] = MappingProxyType({})


def chosen_groups(config: dict[str, Any]) -> dict[str, Any]:
    """The nodes of a config that are built: the parts, then the learner."""
    return {g: config[g] for g in (*PARTS, *LEARNERS) if config.get(g) is not None}


def problems(config: dict[str, Any], *, trusted: Collection[str] = EVERYTHING) -> list[Problem]:
    """What keeps the objects of a config from being built: names that do not exist or are not trusted, keywords that
    are not taken or are missing. Calls no constructor; imports only trusted modules, and those only if their source
    does not tell."""
    groups = chosen_groups(config)
    found: list[Problem] = []
    for group, node in groups.items():
        if not isinstance(node, dict) or "_target_" not in node:
            options = ", ".join(Library().options(group))
            found.append((group, f"has no _target_; choose {group}=<{options}> or name a constructor"))
            continue
        given = ("run", *(p for p in PARTS if p in groups)) if group in LEARNERS else ()
        found.extend(_check(node, group, given, trusted))
    return found


def _check(node: Any, path: str, given: Collection[str], trusted: Collection[str]) -> Iterator[Problem]:
    children = enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ()
    for key, value in children:
        yield from _check(value, f"{path}.{key}", (), trusted)
        named = str(value).partition(":")[0] if str(key).endswith("id") and ":" in str(value) else None
        if named and not is_trusted(named, trusted):
            yield f"{path}.{key}", f"{value} imports a module that this run folder may not import; --trust {named}"
    if not isinstance(node, dict) or "_target_" not in node:
        return
    try:
        takes = parameters(node["_target_"], trusted)
    except Unusable as error:
        yield f"{path}._target_", str(error)
        return
    yield from _bind(node, path, given, takes)


def _bind(node: dict[str, Any], path: str, given: Collection[str], takes: Parameters) -> Iterator[Problem]:
    target, keys = node["_target_"], [key for key in node if key not in _SPECIAL]
    if "run" in given and not takes.takes_any and "run" not in takes.names:
        yield f"{path}._target_", f"{target} is no learner: it takes no `run`"
        return
    for key in keys:
        if key in given:
            yield f"{path}.{key}", f"is given to {target} by Trivium and can't be set"
        elif not takes.takes_any and key not in takes.names:
            near = difflib.get_close_matches(str(key), takes.names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(takes.names)}"
            yield f"{path}.{key}", f"{target} takes no such keyword; {hint}"
        elif key in takes.rules and (problem := takes.rules[key].problem(node[key])):
            yield f"{path}.{key}", problem
    for name in given:
        if not takes.takes_any and name not in takes.names:
            yield f"{path}.{name}", f"{target} takes no {name}; choose {name}=null"
    if not node.get("_partial_"):
        for name in takes.required:
            if name in PARTS and given and name not in given:
                yield f"{path}.{name}", f"{target} needs one; choose {name}=<{', '.join(Library().options(name))}>"
            elif name not in keys and name not in given:
                hint = "; `_partial_: true` leaves it to the learner" if path.partition(".")[0] in PARTS else ""
                yield f"{path}.{name}", f"{target} needs a value for it{hint}"


# ----------------------------------------------------------------------------------------------- names


def resolve(name: str, trusted: Collection[str] = EVERYTHING) -> Callable[..., Any]:
    """The class or function that a dotted name stands for.

    Raises:
        Unusable: there is none, or it is not trusted; in the latter case nothing of a stranger's was imported.
    """
    _require_allowed(name, trusted)
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may fail in any way
        raise Unusable(f"{name}: {module_name} can't be imported: {type(error).__name__}: {error}") from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        raise Unusable(_no_such_name(name, [n for n in vars(module) if not n.startswith("_")]))
    if not (is_trusted(module_name, trusted) or name in listed_targets() or _is_part_of_torch(found)):
        raise Unusable(_REFUSED.format(name=name, module=module_name))
    return found


_REFUSED = "{name} is not a name that a run folder may build; --trust {module} allows it"


def _require_allowed(name: Any, trusted: Collection[str]) -> None:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")) or "." not in name:
        near = nearest_target(str(name)) if "." not in str(name) else None
        hint = f"; did you mean '{near}'?" if near else ""
        raise Unusable(f"{name} is not of the form package.module.Name{hint}")
    module_name, _, attribute = name.rpartition(".")
    torchs = module_name in _TORCH_MODULES and not attribute.startswith("_")
    if not (is_trusted(module_name, trusted) or torchs or name in listed_targets()):
        raise Unusable(_REFUSED.format(name=name, module=module_name))


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


def _no_such_name(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.rpartition(".")[2], list(names), n=1)
    return f"there is no {name}" + (f"; did you mean '{name.rpartition('.')[0]}.{near[0]}'?" if near else "")


# ----------------------------------------------------------------------------------------------- signatures


def parameters(name: str, trusted: Collection[str] = EVERYTHING) -> Parameters:
    """The keywords that a dotted name takes.

    Raises:
        Unusable: see `resolve`.
    """
    _require_allowed(name, trusted)
    read = _read(*name.rpartition(".")[::2])
    if read:
        return read
    try:
        signature = inspect.signature(resolve(name, trusted))
    except (ValueError, TypeError):  # built in: it does not tell
        return Parameters((), (), takes_any=True)
    every = signature.parameters.values()
    keywords = [p for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Parameters(
        tuple(p.name for p in keywords),
        tuple(p.name for p in keywords if p.default is p.empty),
        takes_any=any(p.kind is p.VAR_KEYWORD for p in every),
    )


def stated_parameters(name: Any) -> Parameters | None:
    """The parameters of a constructor as its source states them; None where that can't be read. Imports nothing."""
    with contextlib.suppress(Unusable, RecursionError):
        return _read(*str(name).rpartition(".")[::2]) if "." in str(name) else None
    return None


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
        tree = _tree(module_name or "torch.optim")
        public = [n for s in tree.body for n in _mentioned(s, deep=False) if n[:1].isupper()] if tree else []
        known.update({n: f"{module_name or 'torch.optim'}.{n}" for n in public})
    lower = {n.lower(): full for n, full in known.items()}
    near = difflib.get_close_matches(name.rpartition(".")[2].lower(), lower, n=1, cutoff=0.7)
    return lower[near[0]] if near else None


def _read(module_name: str, attribute: str) -> Parameters | None:
    """The parameters as the source states them; None where only importing can tell: inherited, decorated, made.

    Raises:
        Unusable: there is no such module, it has a syntax error, or the name occurs nowhere in it.
    """
    found = _definition(module_name, attribute)
    if found:
        return _keywords(found[1], lambda name: _assigned(found[0], name))
    tree = _tree(module_name)
    if tree and not {attribute, "*", "__getattr__", "globals"} & set(_mentioned(tree)):
        public = [n for s in tree.body for n in _mentioned(s, deep=False) if not n.startswith("_")]
        raise Unusable(_no_such_name(f"{module_name}.{attribute}", public))
    return None


def stated(name: Any, attribute: str) -> Any:
    """The value of a class's attribute where its source, or that of its only base, states it as a literal; None where
    that can't be read. Imports nothing."""
    with contextlib.suppress(Unusable, ValueError, RecursionError):
        return _stated(*str(name).rpartition(".")[::2], attribute)
    return None


def stated_by_learner(config: dict[str, Any], attribute: str) -> Any:
    """What the source of the learner that is chosen states, or that of its task; None if it is neither."""
    nodes = [node for group in (*LEARNERS, "task") if isinstance(node := config.get(group), dict)]
    found = (stated(node.get("_target_"), attribute) for node in nodes)
    return next((value for value in found if value is not None), None)


def _stated(module_name: str, name: str, attribute: str) -> Any:
    module_name, node = (_definition(module_name, name) if module_name else None) or ("", None)
    if not isinstance(node, ast.ClassDef) or node.decorator_list or node.keywords:
        return None
    if any(isinstance(inner, ast.Attribute) and inner.attr == attribute for inner in ast.walk(node)):
        return None  # each instance may set it
    bound = [statement for statement in node.body if _binds(statement, attribute)]
    if bound:
        if len(bound) == 1 and isinstance(bound[0], ast.Assign | ast.AnnAssign):
            value = bound[0].value
            if isinstance(value, ast.Name):
                value = getattr((_definition(module_name, value.id) or ("", None))[1], "value", None)
            return ast.literal_eval(value) if value else None
        return None  # only running it can tell
    base = node.bases[0] if len(node.bases) == 1 else None
    return _stated(module_name, base.id, attribute) if isinstance(base, ast.Name) else None


def _definition(module_name: str, name: str, *, imports: int = 0) -> tuple[str, ast.stmt] | None:
    """The statement that defines a module's name and the module that it stands in, which may be another that the name
    is imported from; None if there is none such.

    Raises:
        Unusable: there is no such module, or it has a syntax error.
    """
    tree = _tree(module_name)
    for statement in tree.body if tree else ():
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name == name:
            return module_name, statement
        if _assigns(statement, name):
            return module_name, statement
        if isinstance(statement, ast.ImportFrom) and imports < 5:
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    base = module_name.split(".") if _is_package(module_name) else module_name.split(".")[:-1]
                    base = base[: len(base) - statement.level + 1] if statement.level else []
                    origin = ".".join([*base, *([statement.module] if statement.module else [])])
                    return _definition(origin, alias.name, imports=imports + 1)
    return None


def _binds(statement: ast.stmt, name: str) -> bool:
    """Whether a statement gives a name a meaning, at whatever depth."""
    return any(
        (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)
        for node in ast.walk(statement)
    )


def _assigns(statement: ast.stmt, name: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _tree(module_name: str) -> ast.Module | None:
    """A module's source, parsed; None if it has none that can be read.

    Raises:
        Unusable: there is no such module, or it has a syntax error.
    """
    source = _source(module_name)
    if source is None:
        return None
    try:
        return _parsed(source)
    except SyntaxError as error:
        raise Unusable(f"{module_name} has a syntax error in line {error.lineno}: {error.msg}") from error


@functools.lru_cache(maxsize=256)
def _parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _mentioned(tree: ast.AST, *, deep: bool = True) -> Iterator[str]:
    """The names that a piece of source defines, imports or uses; unless `deep` those of its first level."""
    for node in ast.walk(tree) if deep else [tree]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _assigned(module_name: str, name: str) -> ast.expr | None:
    """What a module, or the one that it imports the name from, assigns to a name; None if that can't be read."""
    with contextlib.suppress(Unusable):
        found = _definition(module_name, name)
        if found and isinstance(found[1], ast.Assign):
            return found[1].value
    return None


def _keywords(node: ast.stmt, resolve: Resolve) -> Parameters | None:
    skip = 0
    if isinstance(node, ast.ClassDef):
        methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
        if node.decorator_list or node.keywords or "__new__" in methods or "__init__" not in methods:
            return None
        node, skip = methods["__init__"], 1
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return None
    a = node.args
    positional = [p.arg for p in a.args][skip:]
    needed = positional[: max(0, len(positional) - len(a.defaults))]
    needed += [p.arg for p, default in zip(a.kwonlyargs, a.kw_defaults, strict=True) if default is None]
    defaults: list[ast.expr | None] = [*([None] * (len(a.args) - len(a.defaults))), *a.defaults]
    every = [*list(zip(a.args, defaults, strict=True))[skip:], *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    stated = {p.arg: rule_of(p.annotation, default, resolve) for p, default in every}
    rules = {name: rule for name, rule in stated.items() if rule is not None}
    return Parameters((*positional, *(p.arg for p in a.kwonlyargs)), tuple(needed), a.kwarg is not None, rules)


def _source(module_name: str) -> str | None:
    spec = _spec(module_name)
    if spec is None:
        near = difflib.get_close_matches(module_name, {n.rpartition(".")[0] for n in listed_targets()}, n=1, cutoff=0.8)
        looked = ", ".join(import_places.of_the_user())
        hint = f"did you mean '{near[0]}'?" if near else f"looked in {looked} and the installed packages"
        raise Unusable(f"there is no module {module_name}; {hint}")
    try:
        source: str | None = spec.loader.get_source(module_name)  # type: ignore[union-attr]
        return source
    except (AttributeError, ImportError, OSError, ValueError):
        return None  # compiled, a namespace, or not UTF-8


def _is_package(module_name: str) -> bool:
    spec = _spec(module_name)
    return spec is not None and spec.submodule_search_locations is not None


def _spec(module_name: str) -> ModuleSpec | None:
    """Where a module is. Unlike `importlib.util.find_spec`, imports no parent: that of torch.optim takes seconds."""
    spec: ModuleSpec | None = None
    path = None
    parts = module_name.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        finders = (f.find_spec(name, path, None) for f in sys.meta_path if hasattr(f, "find_spec"))
        spec = next((s for s in finders if s), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and i + 1 < len(parts):
            return None
    return spec
