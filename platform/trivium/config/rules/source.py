"""Modules as their source states them: what defines a name, and what a class states. Imports nothing."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from importlib.machinery import ModuleSpec

from trivium.config import import_places
from trivium.config.library import listed_targets
from trivium.config.problems import Kind, Problem
from trivium.config.rules.annotations import Defined

_STATE_NO_KINDS = frozenset(sys.stdlib_module_names) | {
    "torch",
    "numpy",
    "gymnasium",
}  # packages that are large to read


class Unusable(Exception):
    """A `_target_` that can't be built.

    Args:
        problem: why, without the key.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def definition(
    module_name: str, name: str, *, skip: Collection[str] = (), imports: int = 0
) -> tuple[str, ast.stmt] | None:
    """The statement that defines a module's name and the module that it is in, which may be another that the name is
    imported from; None if there is no such statement.

    Args:
        skip: packages in which no import is followed.
        imports: that were followed to this module.

    Raises:
        Unusable: there is no such module, or it has a syntax error.
    """
    tree = parsed(module_name)
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
                    if origin.partition(".")[0] in skip:
                        return None
                    return definition(origin, alias.name, skip=skip, imports=imports + 1)
    return None


def assigned(module_name: str, name: str) -> Defined | None:
    """What a module, or the one that it imports the name from, assigns to a name; None if that can't be read."""
    with contextlib.suppress(Unusable):
        module, statement = definition(module_name, name, skip=_STATE_NO_KINDS) or ("", None)
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            return Defined(module, statement.targets[0].id, statement.value)
    return None


def binds(statement: ast.stmt, name: str) -> bool:
    """Whether a statement of a class or module gives a name a meaning there; what a function does inside does not."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name == name
    return any(
        (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)
        for node in ast.walk(statement)
    )


def _assigns(statement: ast.stmt, name: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def parsed(module_name: str) -> ast.Module | None:
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
        details = {"line": error.lineno, "reason": error.msg}
        raise Unusable(Problem(Kind.SYNTAX, value=module_name, details=details)) from error


@functools.lru_cache(maxsize=256)
def _parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def mentioned(tree: ast.AST, *, deep: bool = True) -> Iterator[str]:
    """The names that a piece of source defines, imports or uses; unless `deep` those of its first level."""
    for node in ast.walk(tree) if deep else [tree]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def no_such_name(name: str, names: Iterable[str]) -> Unusable:
    """The error for a name that a module lacks.

    Args:
        names: those that it has.
    """
    module, _, last = name.rpartition(".")
    near = difflib.get_close_matches(last, list(names), n=1)
    return Unusable(Problem(Kind.NAME, value=name, nearest=tuple(f"{module}.{n}" for n in near)))


def _source(module_name: str) -> str | None:
    spec = _spec(module_name)
    if spec is None:
        near = difflib.get_close_matches(module_name, {n.rpartition(".")[0] for n in listed_targets()}, n=1, cutoff=0.8)
        looked = ", ".join(import_places.of_the_user())
        where = "" if near else f"; looked in {looked} and the installed packages"
        raise Unusable(Problem(Kind.MODULE, value=module_name, nearest=tuple(near), details={"where": where}))
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
