"""The structure of the source: no import circles, imports in one direction between rooms, no overfull folder."""

from __future__ import annotations

import ast
import functools
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("agents", "generative", "supervised")
# From what imports to what is imported: a room imports only rooms of lower rows.
ROWS = (
    ("cli", "demo"),
    ("search",),
    ("launch",),
    ("on_ray",),
    ("judging",),
    ("loaded",),
    ("trained",),
    ("training", "callbacks"),
    ("report",),
    ("run_folder",),
    ("tracking",),
    ("checkpoints",),
    ("declared", "python"),
    ("data", "ema", "latents", "quality", "untouched"),
    ("learner",),
    ("config", "borrowed", "parallel", "saved", "schedules"),
    ("boundary",),
)
# What imports upward nevertheless, in a function.
UPWARD = {
    ("trivium.run_folder.folder", "trivium.trained"),  # `Result.learner` is loaded when it is asked for
    ("trivium.config.checks.several", "trivium.on_ray.cluster"),
}
FOR_RAY = ("trivium.agents.rollouts.env_runners", "trivium.agents.rllib.learner")
MOST_FILES = 14  # of Python in a folder, its `__init__` included


@functools.cache
def modules() -> dict[str, Path]:
    """The path of each module that ships, by its dotted name."""
    found = {}
    for folder, package in (("platform/trivium", "trivium"), *((name, f"trivium.{name}") for name in FAMILIES)):
        for path in (ROOT / folder).rglob("*.py"):
            below = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *below]).removesuffix(".__init__")] = path
    return found


@functools.cache
def imports(module: str) -> set[str]:
    """Trivium's modules that one imports anywhere, for types only and within functions too."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & set(modules()) or {node.module} & set(modules())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(modules())
    return found - {module}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({module: imports(module) for module in modules()}).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_imports_of_the_platform_only_what_learners_need(family: str) -> None:
    below = {family, *(name for names in ROWS[-5:] for name in names)}
    used = {(module, name) for module in modules() if room(module) == family for name in imports(module)}
    wrong = {pair for pair in used if room(pair[1]) not in below}
    assert {pair for pair in wrong if pair not in {(module, "trivium.on_ray.cluster") for module in FOR_RAY}} == set()


def test_the_platform_imports_no_family() -> None:
    used = {(module, name) for module in modules() if room(module) not in FAMILIES for name in imports(module)}
    assert [pair for pair in sorted(used) if room(pair[1]) in FAMILIES] == []


def test_rooms_import_in_one_direction() -> None:
    row = {name: i for i, names in enumerate(ROWS) for name in names}
    wrong = []
    for module in modules():
        if room(module) in ("", "__main__", *FAMILIES):
            continue
        wrong += [
            (module, name) for name in imports(module) if room(name) in row and row[room(name)] < row[room(module)]
        ]
    assert set(wrong) == UPWARD


def test_no_folder_is_overfull() -> None:
    counts: dict[Path, int] = {}
    for path in modules().values():
        counts[path.parent] = counts.get(path.parent, 0) + 1
    assert {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    names = {module.rpartition(".")[2] for module in modules()} | {path.stem for path in (ROOT / "tests").rglob("*.py")}
    assert names & sys.stdlib_module_names == set()
