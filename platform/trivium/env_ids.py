"""Which environments gymnasium knows, told without making one."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Collection, Iterable

from trivium import import_places
from trivium.constructors import EVERYTHING, is_trusted

REGISTERED_BY = {"ALE": "ale_py", "trivium": "trivium.agents.registration"}  # modules, by the namespace of ids


def problem(env_id: str, trusted: Collection[str] = EVERYTHING) -> str | None:
    """What is wrong with `env.id`, as a line; None if gymnasium knows the id. As gymnasium does when it makes the env,
    imports the module that the id names as the one that registers it, if that is a trusted one."""
    module, colon, name = env_id.rpartition(":")
    if colon and not (module and name):
        return f"env.id='{env_id}': must be an id, or module:id to import the module that registers it"
    if module and not is_trusted(module, trusted):
        return f"env.id={env_id} imports a module that this run folder may not import; --trust {module}"
    namespace = name.partition("/")[0]
    try:
        importlib.import_module(module or REGISTERED_BY.get(namespace, "gymnasium"))
    except (Exception, SystemExit) as error:  # the user's module may fail in any way
        if not module:
            return f"env.id={env_id}: Atari games need pip install 'trivium[atari]'"
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            looked = ", ".join(import_places.of_the_user())
            return f"env.id={env_id}: there is no module {module}; looked in {looked} and the installed packages"
        return f"env.id={env_id}: {module} can't be imported: {_one_line(error)}"
    import gymnasium

    if name in gymnasium.registry or (module and any(one.startswith(f"{name}-v") for one in gymnasium.registry)):
        return None  # without a version gymnasium takes the newest
    near = nearest(name, gymnasium.registry)
    hint = f"did you mean '{module}{colon}{near[0]}'?" if near else "see trivium list envs"
    return f"env.id={env_id}: {f'{module} registers' if module else 'gymnasium knows'} no such id; {hint}"


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
