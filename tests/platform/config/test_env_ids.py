"""Which environments there are, and what those need that can't be made here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace

import gymnasium
import pytest
from gymnasium.error import DependencyNotInstalled

from trivium.config.checks.env_ids import described, needs, problem
from trivium.config.problems import Kind


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has a package look as if it were not installed."""
    find = importlib.util.find_spec

    def hide(package: str) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))

    return hide


@pytest.mark.filterwarnings("ignore")  # gymnasium warns of ids that have a newer version
def test_what_is_listed_as_it_is_can_be_made_and_the_rest_cannot() -> None:
    for env_id, text in described().items():
        module = str(gymnasium.registry[env_id].entry_point)
        if not module.startswith(("gymnasium.", "trivium.")) or "Jax" in module:  # other tests' own, Atari's
            continue
        if "needs" in text:
            with pytest.raises(DependencyNotInstalled):
                gymnasium.make(env_id)
        else:
            gymnasium.make(env_id).close()


def test_the_list_has_atari_and_triviums_own_and_no_id_that_has_moved_away() -> None:
    listed = described()
    assert "ALE/Pong-v5" in listed
    assert "trivium/CartPole-v1" in listed
    assert not {"Ant-v2", "GymV21Environment-v0", "PongNoFrameskip-v4"} & set(listed)
    assert {"Ant-v2", "PongNoFrameskip-v4"} <= set(gymnasium.registry)


@pytest.mark.parametrize(
    ("module", "package", "install"),
    [
        ("gymnasium.envs.box2d.lunar_lander:LunarLander", "Box2D", "pip install 'trivium[box2d]'"),
        ("gymnasium.envs.mujoco.ant_v5:AntEnv", "mujoco", "pip install 'trivium[mujoco]'"),
        ("ale_py.env:AtariEnv", "ale_py", "pip install 'trivium[atari]'"),
        ("somebodys_envs.maze:Maze", "somebodys_envs", "the package somebodys_envs"),
    ],
)
def test_what_an_env_needs(without: Callable[[str], None], module: str, package: str, install: str) -> None:
    without(package)
    assert needs(SimpleNamespace(entry_point=module, vector_entry_point=None)) == install


def test_without_atari_the_list_says_how_to_get_it(without: Callable[[str], None]) -> None:
    without("ale_py")
    assert "pip install 'trivium[atari]'" in described()["ALE/<game>-v5"]
    assert "needs pip install 'trivium[atari]'" in described()["ALE/Pong-v5"], "it was registered before"


@pytest.mark.parametrize(
    ("env_id", "nearest"),
    [
        ("Pong-v5", ("ALE/Pong-v5",)),
        ("Ant-v2", ("Ant-v5",)),
        ("CartPol-v5", ("CartPole-v1",)),
        ("nothing-v0", ()),
    ],
)
def test_an_id_that_does_not_exist_leads_to_one_that_does(env_id: str, nearest: tuple[str, ...]) -> None:
    said = problem(env_id)
    assert said is not None
    assert (said.kind, said.nearest) == (Kind.ENV, nearest)


def test_an_id_that_exists_is_no_problem() -> None:
    assert problem("CartPole-v1") is None
    assert problem("ALE/Pong-v5") is None


def test_what_an_env_needs_is_reported_before_the_run(without: Callable[[str], None]) -> None:
    without("Box2D")
    for env_id in ("LunarLander-v3", "gymnasium:LunarLander-v3"):
        said = problem(env_id)
        assert said is not None
        assert (said.kind, said.details["install"]) == (Kind.ENV_NEEDS, "pip install 'trivium[box2d]'")
