"""The rules that annotations state, read from source: `Literal["lstm", "gru"] | None`, `Fraction`, `Sequence[int]`.

Nothing is imported but `trivium.config.rules.kinds`. An annotation that is not understood, such as that of a class or a
callable, states no rule.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import operator
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from trivium.config.rules import kinds
from trivium.config.rules.kinds import Form, Range
from trivium.config.rules.rule import Rule, rule_of_type


class Defined(NamedTuple):
    """An assignment to a name: the module that contains it, the name there, and the expression."""

    module: str
    name: str
    value: ast.expr


Resolve = Callable[[str, str], Defined | None]
"""From a module and a name in it to the assignment of the name; None if there is none."""

_TYPES: Mapping[str, Any] = {
    **{kind.__name__: kind for kind in (float, int, bool, str, list, dict, tuple)},
    **{name: getattr(typing, name) for name in ("Literal", "Annotated", "Optional", "Union")},
    "Sequence": Sequence,
    "Mapping": Mapping,
    "List": list,
    "Dict": dict,
    "Tuple": tuple,
    "inf": math.inf,
    "Range": Range,
    "Form": Form,
}
_OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
}
_DEEPEST = 8  # aliases of aliases


class _Unknown(Exception):
    """A part of an annotation that is not understood."""


def rule_of(annotation: ast.expr | None, default: ast.expr | None, module: str, resolve: Resolve) -> Rule | None:
    """The rule that an annotation states; None if it states none.

    Args:
        annotation: of a parameter.
        default: its default; one of None allows None, even if the annotation does not.
        module: in which it is written.
        resolve: finds the aliases that it uses.
    """
    try:
        rule = None if annotation is None else rule_of_type(_type(annotation, module, resolve, _DEEPEST))
    except (_Unknown, TypeError, SyntaxError, RecursionError):
        return None
    if rule is not None and isinstance(default, ast.Constant) and default.value is None:
        return dataclasses.replace(rule, optional=True)
    return rule


def _type(node: ast.expr, module: str, resolve: Resolve, depth: int) -> Any:
    """The object that a piece of an annotation denotes.

    Raises:
        _Unknown, TypeError, SyntaxError: it is not understood.
    """

    def read(part: ast.expr) -> Any:
        return _type(part, module, resolve, depth - 1)

    if depth == 0:
        raise _Unknown
    if isinstance(node, ast.Constant):
        return read(ast.parse(node.value, mode="eval").body) if isinstance(node.value, str) else node.value
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(node, module, resolve, depth)
    if isinstance(node, ast.Subscript):
        origin = read(node.value)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if origin is typing.Literal:
            return typing.Literal[tuple(map(ast.literal_eval, items))]
        if origin is typing.Annotated:
            return typing.Annotated[tuple(map(read, items))]
        return origin[tuple(map(_optional(read), items)) if len(items) > 1 else _optional(read)(items[0])]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[_optional(read)(node.left), _optional(read)(node.right)]  # noqa: UP007  # of what is read
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](read(node.left), read(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -read(node.operand)
    if isinstance(node, ast.Call) and (called := read(node.func)) in (Range, Form):
        words = [ast.literal_eval(argument) for argument in node.args]
        return called(*words, **{k.arg: _number(k.value, read) for k in node.keywords if k.arg})
    raise _Unknown


def _number(node: ast.expr, read: Callable[[ast.expr], Any]) -> Any:
    return node.value if isinstance(node, ast.Constant) else read(node)


def _optional(read: Callable[[ast.expr], Any]) -> Callable[[ast.expr], Any]:
    """Reads a part of a union or of a generic: what is not understood is `Any` there, which states no rule."""

    def read_part(node: ast.expr) -> Any:
        try:
            return read(node)
        except (_Unknown, TypeError, SyntaxError):
            return Any

    return read_part


def _named(node: ast.Name | ast.Attribute, module: str, resolve: Resolve, depth: int) -> Any:
    """What a name denotes: an alias of the module's, a kind, or something of `typing`, `math` and the builtins."""
    name = node.id if isinstance(node, ast.Name) else node.attr
    found = resolve(module, name) if isinstance(node, ast.Name) else None
    if found is not None and found.module == kinds.__name__:
        return getattr(kinds, found.name)
    if found is not None:
        return _type(found.value, found.module, resolve, depth - 1)
    if name in _TYPES:
        return _TYPES[name]
    raise _Unknown
