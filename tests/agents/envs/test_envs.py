from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_envs
import torch
from playing import assert_same, play
from torch import Tensor

from trivium.agents.envs.classic_control import ClassicControl
from trivium.agents.envs.environment import make
from trivium.agents.envs.gym_envs import GymEnvs
from trivium.agents.envs.protocol import Envs
from trivium.agents.envs.wrappers import as_annotated
from trivium.agents.observations import Layout
from trivium.agents.policies import Actions
from trivium.learner import Run


def build(id: str, num_envs: int = 3, seed: int = 0, **keywords: Any) -> Envs:
    return make(id=id, num_envs=num_envs, run=Run(seed=seed), stream="train", **keywords)


def test_native_envs_where_there_are_any() -> None:
    assert isinstance(build("CartPole-v1"), ClassicControl)
    assert isinstance(build("CartPole-v1", native=False), GymEnvs)
    assert isinstance(build("CliffWalking-v1"), GymEnvs)


def test_same_step_autoreset() -> None:
    envs = build("Count-v0", num_envs=2)
    assert envs.reset().tolist() == [[0, 0]] * 2
    for t in range(30):
        episode, step = divmod(t, 3)
        got = envs.step(torch.zeros(2, dtype=torch.int64))
        ended = step == 2
        terminated = ended and (episode % 2 == 0 or episode % 3 == 0)
        truncated = ended and (episode % 2 == 1 or episode % 3 == 0)
        assert got.reward.tolist() == [10 * episode + step + 1] * 2, "no step is lost to a reset"
        assert got.terminated.tolist() == [terminated] * 2
        assert got.truncated.tolist() == [truncated] * 2
        assert got.next_obs.tolist() == [[episode, step + 1]] * 2, "the episode's own last observation"
        assert got.obs.tolist() == [[episode + 1, 0] if ended else [episode, step + 1]] * 2
        assert torch.equal(got.obs, envs.obs)


@pytest.mark.parametrize("native", [True, False])
def test_truncated_episodes_bootstrap_from_their_last_observation(native: bool) -> None:
    envs = build("Pendulum-v1", native=native)
    envs.reset()
    steps = play(envs, 200, torch.Generator().manual_seed(0))
    assert steps[-1].truncated.all()
    assert not steps[-1].terminated.any()
    assert not torch.equal(steps[-1].obs, steps[-1].next_obs)
    # the angle moves by at most 8 rad/s * 0.05 s a step, the reset draws it from the whole circle
    assert (steps[-1].next_obs - steps[-2].obs)[:, :2].norm(dim=1).max() < 0.4


@pytest.mark.parametrize("id", ["CartPole-v1", "Count-v0", "Drift-v0"])
def test_envs_differ_and_are_seeded_once(id: str) -> None:
    envs = build(id, num_envs=4)
    first, again = envs.reset(), envs.reset()
    if id != "Count-v0":
        assert len(first.unique(dim=0)) == 4
        assert not torch.equal(first, again), "a later reset goes on in the stream of randomness"
        assert torch.equal(envs.reset(reseed=True), first)
        assert torch.equal(build(id, num_envs=4).reset(), first)
        assert not torch.equal(build(id, num_envs=4, seed=1).reset(), first)
    else:
        assert isinstance(envs, GymEnvs)
        play(envs, 10, torch.Generator())
        seeds = [episode.env.unwrapped.seeds for episode in envs._episodes]
        assert all(len(s) == 5 and s[0] is not None and s[1:] == [None] * 4 for s in seeds)
        assert len({s[0] for s in seeds}) == 4


def test_ranks_and_streams_have_episodes_of_their_own() -> None:
    for native in (True, False):
        starts = [
            make(id="CartPole-v1", num_envs=2, run=run, stream=stream, native=native).reset()
            for run in (Run(rank=0, world_size=2), Run(rank=1, world_size=2))
            for stream in ("train", "eval", "test")
        ]
        assert [len(start) for start in starts] == [1, 2, 2, 1, 2, 2], "only the training envs are shared out"
        assert len(torch.cat(starts).unique(dim=0)) == 10


@pytest.mark.parametrize(
    ("id", "native"),
    [
        ("CartPole-v1", True),
        ("CartPole-v1", False),
        ("Drift-v0", True),
        ("Identity-v0", True),
        ("Pendulum-v1", True),
        ("Pendulum-v1", False),
        ("FrozenLake-v1", True),
        ("Acrobot-v1", True),
        ("Acrobot-v1", False),
        ("MountainCar-v0", True),
        ("MountainCarContinuous-v0", True),
    ],
)
@pytest.mark.parametrize("steps", [0, 1, 37])
def test_state_is_exact_mid_episode(saved: Callable[[Any], Any], id: str, native: bool, steps: int) -> None:
    envs, generator = build(id, native=native), torch.Generator().manual_seed(0)
    envs.reset()
    play(envs, steps, generator)
    state, obs = saved(envs.state_dict()), envs.obs
    again = build(id, native=native)
    again.reset()
    assert not again.load_state_dict(state).any()
    assert torch.equal(again.obs, obs)
    other = torch.Generator()
    other.set_state(generator.get_state())
    assert_same(play(envs, 300, generator), play(again, 300, other))
    assert str(envs.state_dict()) == str(again.state_dict())


@pytest.mark.parametrize("id", ["Wild-v0", "Hidden-v0"])
def test_a_nondeterministic_env_is_named_and_begins_anew(saved: Callable[[Any], Any], id: str) -> None:
    envs = build(id)
    envs.reset()
    play(envs, 5, torch.Generator())
    again = build(id)
    with pytest.warns(RuntimeWarning, match=f"{id}' is not deterministic.* in 3 of 3 envs.*no longer exact"):
        begun_anew = again.load_state_dict(saved(envs.state_dict()))
    assert begun_anew.tolist() == [True] * 3
    assert not again.obs.any(), "the first observation of an episode"
    play(again, 5, torch.Generator())


def test_state_of_another_number_of_envs_is_refused() -> None:
    for id in ("CartPole-v1", "Count-v0"):
        envs = build(id, num_envs=2)
        envs.reset()
        with pytest.raises(ValueError, match="saved with 2 envs on this worker, now there are 3"):
            build(id, num_envs=3).load_state_dict(envs.state_dict())


def test_module_ids_and_dtypes() -> None:
    envs = build("tiny_envs:Identity-v0", num_envs=4)
    obs = envs.reset()
    assert obs.dtype == torch.int64
    assert set(obs.tolist()) <= {0, 1, 2, 3}, "counted from 0, whatever the space's start"
    step = envs.step(torch.arange(4))
    assert step.reward.dtype == torch.float32
    assert step.terminated.dtype == step.truncated.dtype == torch.bool
    assert torch.equal(step.reward, (obs == torch.arange(4)).float())
    assert build("Drift-v0").reset().dtype == torch.float32


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("CartPol-v1", "did you mean 'CartPole-v1'"),
        ("CartPole-v9", "did you mean 'CartPole-v1'"),
        ("Qwxk-v5", "; `module:id` imports your own"),
        ("no_such_module:Env-v0", "no_such_module"),
        ("Zzyzx", "module:id"),
        ("Words-v0", "Words-v0': the observation space Text.*valid are Box, Discrete"),
        ("tiny_envs:Shapeless-v0", r"Shapeless-v0': at reset it returned an observation of shape \(\), .* says \(1,\)"),
        ("Broken-v0", "Broken-v0': at step 2 it returned an observation with NaN"),
        ("BrokenReward-v0", "BrokenReward-v0': at step 1 it returned the reward NaN"),
        ("Raises-v0", r"Raises-v0': at step 2 its step\(\) raised RuntimeError: the simulator is$"),
        ("Forbidding-v0", r"Forbidding-v0': at step 1 its action mask forbids every action: \[0, 0, 0, 0\]"),
    ],
)
def test_what_is_wrong_with_an_env_is_said_with_its_name(id: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"env.id='.*{message}"):  # noqa: PT012  some fail at once, some when played
        envs = build(id)
        envs.reset()
        play(envs, 2, torch.Generator())


def test_num_envs_must_divide_among_the_workers() -> None:
    with pytest.raises(ValueError, match=r"env.num_envs=3 must be a positive multiple of the 2 workers"):
        make(id="CartPole-v1", num_envs=3, run=Run(world_size=2), stream="train")


# action masks


def mask(envs: Envs, obs: Tensor) -> Tensor:
    found = Layout(envs.observation_space).action_mask(obs)
    assert found is not None
    return found


@pytest.mark.parametrize("source", ["info", "method", "key"])
def test_masks_become_part_of_the_observation(saved: Callable[[Any], Any], source: str) -> None:
    envs = build(f"Masked-{source}-v0", num_envs=4)
    assert isinstance(envs, GymEnvs)
    obs, ends = envs.reset(), 0
    for _ in range(25):
        valid = mask(envs, obs)
        assert valid.sum(1).tolist() == [2] * 4
        inner: list[Any] = [episode.env.unwrapped for episode in envs._episodes]
        assert valid.tolist() == [env.mask.tolist() for env in inner]
        layout = Layout(envs.observation_space)
        assert layout.unpack(obs, layout.leaves[0]).flatten().tolist() == [env.x for env in inner]
        step = envs.step(valid.long().argmax(1))
        ended = step.terminated | step.truncated
        assert mask(envs, step.next_obs)[ended].all(), "where nobody acts any more nothing is forbidden"
        assert torch.equal(mask(envs, step.next_obs)[~ended], mask(envs, step.obs)[~ended])
        obs, ends = step.obs, ends + int(ended.sum())
    assert ends == 8
    again = build(f"Masked-{source}-v0", num_envs=4)
    assert not again.load_state_dict(saved(envs.state_dict())).any()
    assert torch.equal(again.obs, obs)


def test_the_masks_of_taxi_are_taken() -> None:
    envs = build("Taxi-v3", num_envs=8)
    obs = envs.reset()
    assert isinstance(envs, GymEnvs)
    inner: list[Any] = [episode.env.unwrapped for episode in envs._episodes]
    assert mask(envs, obs).long().tolist() == [env.action_mask(env.s).tolist() for env in inner]


def test_masks_of_several_heads_are_flat() -> None:
    envs = build("Recall-v0", num_envs=4)
    assert mask(envs, envs.reset()).shape == (4, 5)


# composed observations, wrappers


def test_a_tuple_is_packed() -> None:
    envs = build("Blackjack-v1", num_envs=4)
    obs, layout = envs.reset(), Layout(envs.observation_space)
    assert obs.dtype == torch.uint8
    player, dealer, ace = (layout.unpack(obs, leaf) for leaf in layout.leaves)
    assert player.dtype == dealer.dtype == torch.int64
    assert ((player >= 4) & (player <= 21) & (dealer >= 1) & (dealer <= 10) & (ace <= 1)).all()


def test_wrappers_that_write_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RecordVideo is not for training"):
        build("CartPole-v1", wrappers=[{"RecordVideo": {"video_folder": str(tmp_path / "elsewhere")}}])
    assert not (tmp_path / "elsewhere").exists()


def test_wrappers_by_name_the_innermost_first() -> None:
    envs = build("Pixels-v0", wrappers=["GrayscaleObservation", {"FrameStackObservation": {"stack_size": 3}}],
                 settings={"shape": (12, 12, 3)})  # fmt: skip
    assert envs.observation_space.shape == (3, 12, 12)
    obs = envs.reset()
    assert obs.shape == (3, 3, 12, 12)
    assert obs.dtype == torch.uint8, "a byte stays a byte"
    limited = build("Wild-v0", wrappers=[{"TimeLimit": {"max_episode_steps": 4}}])
    assert [step.truncated.all().item() for step in play(limited, 4, torch.Generator())] == [False] * 3 + [True]
    assert isinstance(build("CartPole-v1", wrappers=[{"TimeLimit": {"max_episode_steps": 4}}]), GymEnvs)


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        (["FrameStackObservatio"], "env.wrappers has 'FrameStackObservatio'.*did you mean 'FrameStackObservation'"),
        pytest.param(
            ["JaxToNumpy"],
            "env.wrappers: JaxToNumpy needs a package that is not installed",
            marks=pytest.mark.skipif(find_spec("jax") is not None, reason="it is installed"),
        ),
        (["Zzyzx"], "env.wrappers has 'Zzyzx', which gymnasium.wrappers has not; valid are "),
        (["FrameStackObservation"], r"env.wrappers: FrameStackObservation\(\) raised TypeError"),
        ([{"TimeLimit": {"max_episode_steps": -1}}], r"env.wrappers: TimeLimit\(.*-1.*\) raised "),
        ([{"TimeLimit": {"steps": 1}}], r"env.wrappers: TimeLimit\(.*\) raised TypeError"),
        ([{"TransformReward": {"func": "abs"}}], "env.wrappers: TransformReward: func='abs' must be a function"),
    ],
)
def test_what_is_wrong_with_a_wrapper_is_named(wrappers: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("Count-v0", wrappers=wrappers)


def test_lists_become_what_a_wrapper_asks_for() -> None:
    shaped = build("Pendulum-v1", wrappers=[{"ReshapeObservation": {"shape": [3, 1]}}])
    assert shaped.reset().shape == (3, 3, 1)
    rescaled = build("Pendulum-v1", wrappers=[{"RescaleAction": {"min_action": [-1.0], "max_action": [1.0]}}])
    assert rescaled.action_space.high.tolist() == [1.0]  # type: ignore[attr-defined]
    same = build("Pendulum-v1", wrappers=[{"DtypeObservation": {"dtype": "float32"}}])
    assert same.observation_space.dtype == np.float32
    assert len(play(same, 2, torch.Generator())) == 2
    signs = build("Count-v0", wrappers=[{"TransformReward": {"func": functools.partial(np.sign)}}])
    assert [step.reward.tolist() for step in play(signs, 2, torch.Generator())] == [[1.0] * 3] * 2


def test_lists_become_what_an_envs_constructor_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sized(gym.Env):
        action_space = gym.spaces.Discrete(2)

        def __init__(self, size: tuple[int, int], corners: Any = ((0, 0), (1, 1)), names: Any = None) -> None:
            assert (size, corners, names) == ((3, 4), ((2, 2), (3, 3)), ["a"])
            self.observation_space = gym.spaces.Box(0, 1, size)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
            return np.zeros((3, 4), np.float32), {}

    spec = gym.envs.registration.EnvSpec("Sized-v0", entry_point=Sized)
    monkeypatch.setitem(gym.registry, "Sized-v0", spec)
    settings = {"size": [3, 4], "corners": [[2, 2], [3, 3]], "names": ["a"]}
    assert build("Sized-v0", settings=settings).reset().shape == (3, 3, 4)


def test_keywords_as_annotated() -> None:
    def function(
        either: int | tuple[int, ...] = 1,
        bounds: float | np.ndarray = 0.0,
        names: Sequence[str] = (),
        dtype: Any = None,
        func: Callable[..., Any] | None = None,
    ) -> None: ...

    given = as_annotated(function, {"either": [1, [2]], "bounds": [0.1], "dtype": "uint8", "other": [1], "func": None})
    assert given.pop("bounds").dtype == np.float32
    assert given == {"either": (1, (2,)), "dtype": np.uint8, "other": [1], "func": None}
    assert as_annotated(function, {"either": 3, "bounds": 2.0}) == {"either": 3, "bounds": 2.0}
    with pytest.raises(ValueError, match=r"func='abs' must be a function"):
        as_annotated(function, {"func": "abs"})
    assert as_annotated(dict, {"a": [1]}) == {"a": [1]}, "without a signature"


def test_what_is_wrong_with_the_settings_is_named() -> None:
    with pytest.raises(ValueError, match=r"env.settings=\{'gravity': 3\}: .*gravity"):
        build("Count-v0", settings={"gravity": 3})


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("Short-v0", "env.id='Short-v0': .*4"),
        ("Keyless-v0", "env.id='Keyless-v0': at reset it returned an observation without 'b'"),
    ],
)
def test_an_env_that_breaks_the_api_is_named_in_one_line(id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:  # noqa: PT012  some fail at once, some when played
        envs = build(id)
        play(envs, 1, torch.Generator())
    assert "\n" not in str(error.value)


def test_an_exception_in_action_masks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_envs

    class Broken(tiny_envs.Masked):
        def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
            def action_masks() -> Any:
                raise RuntimeError("no\nmask")

            result = super().reset(seed=seed)
            self.action_masks = action_masks
            return result

    spec = gym.envs.registration.EnvSpec("Masks-v0", entry_point=Broken, kwargs={"source": "method"})
    monkeypatch.setitem(gym.registry, "Masks-v0", spec)
    with pytest.raises(ValueError, match=r"^env.id='Masks-v0': at reset its action_masks\(\) raised RuntimeError: no$"):
        build("Masks-v0")


ACTION_SPACES = {
    "float64": gym.spaces.Box(-0.3, 0.3, (2,), np.float64),
    "float16": gym.spaces.Box(-0.1, np.inf, (2,), np.float16),
    "scalar": gym.spaces.Box(-0.3, 0.3, (), np.float64),
    "uint8": gym.spaces.Box(0, 255, (2,), np.uint8),
    "int64": gym.spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
    "start": gym.spaces.Discrete(3, start=5),
    "grid": gym.spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "bits": gym.spaces.MultiBinary(3),
}


@pytest.mark.parametrize("vector", [None, "sync"])
@pytest.mark.parametrize("name", ACTION_SPACES)
def test_an_env_is_given_actions_of_its_space_and_may_write_to_them(name: str, vector: Any, saved: Any) -> None:
    """Also when the episode is played again: the log holds what the env was given, not what it made of it."""
    space = ACTION_SPACES[name]
    spec = gym.envs.registration.EnvSpec("Strict-v0", entry_point=tiny_envs.Strict, kwargs={"space": space})
    gym.registry["Strict-v0"] = spec
    try:
        if vector and name == "scalar":
            return  # gymnasium's SyncVectorEnv makes NumPy's numbers of arrays without dimensions, and warns of them
        actions = Actions(space, squash=name in ("uint8", "int64"))
        envs, others = (build("Strict-v0", vector=vector) for _ in range(2))
        generator = torch.Generator().manual_seed(0)
        envs.reset()
        for scale in (0.1, 1.0, 30.0):
            policy = actions.policy(torch.zeros(3, actions.num_logits), torch.tensor(scale).log(), None)
            step = envs.step(actions.to_env(policy.sample(actions.noise(1, 3, generator)[0])))
        assert not others.load_state_dict(saved(envs.state_dict())).any()
        assert torch.equal(others.obs, step.obs)
        assert step.obs.any()
    finally:
        del gym.registry["Strict-v0"]
