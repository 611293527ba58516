"""The rules that a keyword's annotation states, read from source: `Literal["lstm", "gru"] | None`, `float`, `int`.

Nothing is imported. An annotation that is not understood, such as that of a class or a callable, states no rule.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SCALARS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}
Resolve = Callable[[str], ast.expr | None]
"""From a name in an annotation to what the module assigns to it; None if it is no such name."""


@dataclass(frozen=True)
class Rule:
    """What values a keyword may have.

    Attributes:
        choices: the values that are named, of `Literal`.
        kinds: the names of builtin scalars that are allowed besides.
        optional: whether None is allowed.
    """

    choices: tuple[Any, ...] = ()
    kinds: tuple[str, ...] = ()
    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, and what is valid; None if nothing is."""
        if value is None:
            return None if self.optional else f"must not be null; valid: {self._valid()}"
        if any(value == choice and type(value) is type(choice) for choice in self.choices):
            return None
        if any(_is_a(value, kind) for kind in self.kinds):
            return None
        near = difflib.get_close_matches(str(value), [str(choice) for choice in self.choices], 1)
        hint = f"did you mean {near[0]}?" if near and not self.kinds else f"valid: {self._valid()}"
        return f"{_shown(value)} is none of its values; {hint}" if self.choices else f"{_shown(value)}; {hint}"

    def _valid(self) -> str:
        parts = [str(choice) for choice in self.choices] + [SCALARS[kind] for kind in self.kinds]
        return ", ".join([*parts, *(["null"] if self.optional else [])])


def rule_of(annotation: ast.expr | None, default: ast.expr | None, resolve: Resolve) -> Rule | None:
    """The rule that an annotation states; None if it states none.

    Args:
        annotation: of a parameter.
        default: its default; one of None allows None, whatever the annotation says.
        resolve: finds the aliases that it uses.
    """
    if annotation is None:
        return None
    rule = _read(annotation, resolve, depth=0)
    if rule is not None and isinstance(default, ast.Constant) and default.value is None:
        return Rule(rule.choices, rule.kinds, optional=True)
    return rule


def _read(node: ast.expr, resolve: Resolve, depth: int) -> Rule | None:
    if isinstance(node, ast.Constant):
        if node.value is None:
            return Rule(optional=True)
        if isinstance(node.value, str) and depth < 5:  # an annotation in quotes
            try:
                return _read(ast.parse(node.value, mode="eval").body, resolve, depth + 1)
            except SyntaxError:
                return None
        return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _either(_read(node.left, resolve, depth), _read(node.right, resolve, depth))
    if isinstance(node, ast.Subscript):
        name = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", None)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal" and all(isinstance(item, ast.Constant) for item in items):
            values = tuple(item.value for item in items if isinstance(item, ast.Constant))
            return Rule(tuple(value for value in values if value is not None), optional=None in values)
        if name == "Optional":
            return _either(_read(items[0], resolve, depth), Rule(optional=True))
        if name == "Annotated":
            return _read(items[0], resolve, depth)
        return None
    if isinstance(node, ast.Name):
        if node.id in SCALARS:
            return Rule(kinds=(node.id,))
        found = resolve(node.id) if depth < 5 else None
        return None if found is None else _read(found, resolve, depth + 1)
    return None


def _either(one: Rule | None, other: Rule | None) -> Rule | None:
    """The rule of a union; none if a part states none, because that part may allow anything."""
    if one is None or other is None:
        return None
    return Rule(one.choices + other.choices, one.kinds + other.kinds, one.optional or other.optional)


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    if isinstance(value, str):
        return kind == "str"
    if kind == "int":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return kind == "float" and isinstance(value, (int, float))


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
