"""The signature of a constructor, read from its source: its keywords and the rules that their annotations state."""

from __future__ import annotations

import ast
import contextlib
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from trivium.config.rules.annotations import rule_of
from trivium.config.rules.rule import Rule
from trivium.config.rules.source import Unusable, assigned, binds, definition, mentioned, no_such_name, parsed

_UNCHANGING = ("trivium", "torch")  # packages whose source nobody edits while a process runs
CHECKED = "checks_keywords"  # the only decorator that leaves a signature as it is written


class Parameters(NamedTuple):
    """The keywords of a constructor: all, those without a default, whether it accepts any other, and the rules that
    annotations state, by keyword, as far as its source can be read."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_any: bool
    rules: Mapping[str, Rule] = MappingProxyType({})


def stated_parameters(name: Any) -> Parameters | None:
    """The parameters of a constructor as its source states them; None where that can't be read. Imports nothing."""
    with contextlib.suppress(Unusable, RecursionError):
        return read(*str(name).rpartition(".")[::2]) if "." in str(name) else None
    return None


def read(module_name: str, attribute: str) -> Parameters | None:
    """The parameters as the source states them; None where the source does not show them, because the
    constructor is inherited, decorated or computed.

    Raises:
        Unusable: there is no such module, it has a syntax error, or the name occurs nowhere in it.
    """
    if module_name.partition(".")[0] in _UNCHANGING:
        return _read_once(module_name, attribute)
    return _read(module_name, attribute)


@functools.cache
def _read_once(module_name: str, attribute: str) -> Parameters | None:
    return _read(module_name, attribute)


def _read(module_name: str, attribute: str) -> Parameters | None:
    found = definition(module_name, attribute)
    if found:
        return _keywords(found[1], found[0])
    tree = parsed(module_name)
    if tree and not {attribute, "*", "__getattr__", "globals"} & set(mentioned(tree)):
        public = [n for s in tree.body for n in mentioned(s, deep=False) if not n.startswith("_")]
        raise no_such_name(f"{module_name}.{attribute}", public)
    return None


def stated(name: Any, attribute: str) -> Any:
    """The value of a class's attribute where its source, or that of its only base, states it as a literal; None where
    that can't be read. Imports nothing."""
    with contextlib.suppress(Unusable, ValueError, RecursionError):
        return _stated(*str(name).rpartition(".")[::2], attribute)
    return None


def _stated(module_name: str, name: str, attribute: str) -> Any:
    module_name, node = (definition(module_name, name) if module_name else None) or ("", None)
    if not isinstance(node, ast.ClassDef) or node.decorator_list or node.keywords:
        return None
    if attribute in _set_by_instances(node):
        return None  # each instance may have its own
    bound = [statement for statement in node.body if binds(statement, attribute)]
    if bound:
        if len(bound) == 1 and isinstance(bound[0], ast.Assign | ast.AnnAssign):
            value = bound[0].value
            if isinstance(value, ast.Name):
                value = getattr((definition(module_name, value.id) or ("", None))[1], "value", None)
            return ast.literal_eval(value) if value else None
        return None  # known only when it runs
    base = node.bases[0] if len(node.bases) == 1 else None
    return _stated(module_name, base.id, attribute) if isinstance(base, ast.Name) else None


def _keywords(node: ast.stmt, module: str) -> Parameters | None:
    skip = 0
    if isinstance(node, ast.ClassDef):
        methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
        if node.decorator_list or node.keywords or "__new__" in methods or "__init__" not in methods:
            return None
        node, skip = methods["__init__"], 1
    if not isinstance(node, ast.FunctionDef) or not all(map(_is_check, node.decorator_list)):
        return None
    a = node.args
    positional = [p.arg for p in a.args][skip:]
    needed = positional[: max(0, len(positional) - len(a.defaults))]
    needed += [p.arg for p, default in zip(a.kwonlyargs, a.kw_defaults, strict=True) if default is None]
    defaults: list[ast.expr | None] = [*([None] * (len(a.args) - len(a.defaults))), *a.defaults]
    every = [*list(zip(a.args, defaults, strict=True))[skip:], *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    stated = {p.arg: rule_of(p.annotation, default, module, assigned) for p, default in every}
    rules = {name: rule for name, rule in stated.items() if rule is not None}
    return Parameters((*positional, *(p.arg for p in a.kwonlyargs)), tuple(needed), a.kwarg is not None, rules)


def _is_check(decorator: ast.expr) -> bool:
    return (decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")) == CHECKED


@functools.lru_cache(maxsize=64)
def _set_by_instances(node: ast.ClassDef) -> frozenset[str]:
    """The attributes that the source of a class assigns to anything, such as `self.evaluates = ...`."""
    every = (inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute))
    return frozenset(inner.attr for inner in every if not isinstance(inner.ctx, ast.Load))
