"""Which environments gymnasium knows, found without making one."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from trivium.config import import_places
from trivium.config.constructors import EVERYTHING, is_trusted
from trivium.config.problems import Kind, Problem

ATARI = "pip install 'trivium[atari]'"
NEEDS = {  # by the module that an env is in: the package that it imports, and how to get that
    "gymnasium.envs.box2d": ("Box2D", "pip install 'trivium[box2d]'"),
    "gymnasium.envs.mujoco": ("mujoco", "pip install 'trivium[mujoco]'"),
    "gymnasium.envs.phys2d": ("jax", "pip install 'gymnasium[jax]'"),
    "gymnasium.envs.tabular": ("jax", "pip install 'gymnasium[jax]'"),
    "ale_py": ("ale_py", ATARI),
}
REGISTERED_BY = {"ALE": "ale_py", "trivium": "trivium.agents.envs.registration"}  # modules, by the namespace of ids


def problem(env_id: str, trusted: Collection[str] = EVERYTHING) -> Problem | None:
    """What is wrong with `env.id`; None if gymnasium knows the id. As gymnasium does when it makes the env, imports the
    module that the id names as the one that registers it, if that is a trusted one."""
    module, colon, name = env_id.rpartition(":")

    def wrong(kind: Kind, near: Iterable[str] = (), **details: str) -> Problem:
        return Problem(kind, "env.id", env_id, nearest=tuple(near), details={"module": module, **details})

    if colon and not (module and name):
        return wrong(Kind.ENV_FORM)
    if module and not is_trusted(module, trusted):
        return wrong(Kind.ENV_UNTRUSTED)
    namespace = name.partition("/")[0]
    try:
        importlib.import_module(module or REGISTERED_BY.get(namespace, "gymnasium"))
    except (Exception, SystemExit) as error:  # the user's module may fail in any way
        if not module:
            return wrong(Kind.ENV_NEEDS, what="Atari games need", install=ATARI)
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            return wrong(Kind.ENV_MODULE, places=", ".join(import_places.of_the_user()))
        return wrong(Kind.ENV_IMPORT, reason=_one_line(error))
    import gymnasium

    spec = gymnasium.registry.get(name)
    missing = needs(spec) if spec else None
    if missing:
        return wrong(Kind.ENV_NEEDS, what="needs", install=missing)
    if spec and not _is_retired(spec):
        return None
    if module and any(one.startswith(f"{name}-v") for one in gymnasium.registry):
        return None  # without a version gymnasium takes the newest
    known = [one for one, _ in _offered()]
    near = [one for one in known if one.endswith(f"/{name}")][:1] or nearest(name, known)
    who = f"{module} registers" if module else "gymnasium knows"
    see = "" if near else "; see trivium list envs"
    return wrong(Kind.ENV, [f"{module}{colon}{one}" for one in near], who=who, see=see)


def described() -> dict[str, str]:
    """Every env that gymnasium can make, by id, sorted: its class, its limit of steps, and what it needs that is not
    installed. Atari games are listed with their newest ids only."""
    found = {"ALE/<game>-v5": f"Atari games, need {ATARI}"} if not importlib.util.find_spec("ale_py") else {}
    for env_id, spec in _offered():
        steps, missing = spec.max_episode_steps, needs(spec)
        limit = f"at most {steps} steps an episode" if steps else "no limit of steps"
        what = str(spec.entry_point or spec.vector_entry_point).partition(":")[2] or "environment"
        found[env_id] = f"{what}, {limit}" + (f", needs {missing}" if missing else "")
    return dict(sorted(found.items()))


def needs(spec: Any) -> str | None:
    """How to get what a registered env imports, if that is not installed."""
    module = str(spec.entry_point or spec.vector_entry_point).partition(":")[0]
    if callable(spec.entry_point or spec.vector_entry_point):
        return None
    for prefix, (package, install) in NEEDS.items():
        if f"{module}.".startswith(f"{prefix}."):
            return None if importlib.util.find_spec(package) else install
    package = module.partition(".")[0]
    return None if importlib.util.find_spec(package) else f"the package {package}"


def _is_retired(spec: Any) -> bool:
    """Whether gymnasium keeps the id only to say that it has moved to another package."""
    return getattr(spec.entry_point, "__name__", "").startswith("_raise_")


def _offered() -> Iterator[tuple[str, Any]]:
    """The ids that one would choose from, with their specs: none that is retired, and Atari's newest only."""
    import gymnasium

    for module in REGISTERED_BY.values():
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    for env_id, spec in gymnasium.registry.items():
        of_atari = str(spec.entry_point).startswith("ale_py")
        if not _is_retired(spec) and (env_id.startswith("ALE/") or not of_atari):
            yield env_id, spec


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def nearest(env_id: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> list[str]:
    """The ids of the nearest names, each in its newest version; as texts, any two that end in -v5 are near.

    Example:
        CartPol-v5, [Ant-v5, CartPole-v0, CartPole-v1] -> CartPole-v1;  Pong-v5 -> nothing.
    """

    def split(one: str) -> tuple[str, int]:
        name, _, version = one.rpartition("-v")
        return (name, int(version)) if name and version.isdecimal() else (one, -1)

    newest = {split(one)[0]: one for one in sorted(known, key=lambda one: split(one)[1])}
    return [newest[name] for name in difflib.get_close_matches(split(env_id)[0], newest, n=n, cutoff=cutoff)]
