"""Where vector envs come from: gymnasium's Sync and Async ones, an id's own, EnvPool's; see `vector_envs`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

from trivium.agents.envs import gym_api
from trivium.agents.envs.gym_api import Checked, mask_source, named
from trivium.agents.envs.gym_envs import make_one, making, register, unknown_id
from trivium.agents.envs.vector_envs import SEED_FORMS, SEEDS, VectorEnvs, seed_of
from trivium.agents.envs.wrapper_state import Kept
from trivium.agents.envs.wrappers import as_annotated
from trivium.agents.observations import ACTION_MASK, Layout
from trivium.boundary.output import lasting_streams
from trivium.learner import UserCodeError


class Pool(gym.vector.VectorEnv):
    """EnvPool's envs as a vector env of gymnasium's API with autoreset disabled: EnvPool resets some envs by their
    numbers, so that none spends a step on it. It takes a seed when it is made, of which the i-th env has `seed + i`;
    a reset with another one makes it again."""

    def __init__(self, id: str, num_envs: int, settings: Mapping[str, Any], *, seed: int) -> None:
        self._pool: Any = None
        try:
            import envpool
        except ImportError as error:
            raise ValueError(f"env.vector=envpool: {error}; pip install 'trivium[envpool]'") from None
        known = envpool.list_all_envs()
        if id not in known:
            raise unknown_id(id, "an id of EnvPool", known)
        self._make = functools.partial(envpool.make_gymnasium, id, num_envs=num_envs, **settings)
        try:
            self._pool = self._make(seed=seed)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"env.settings={dict(settings)}: {str(error).partition(chr(10))[0]}") from None
        self._begins_with: int | None = seed
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        with warnings.catch_warnings():  # of the precision of its bounds
            warnings.simplefilter("ignore")
            self.single_observation_space = self._pool.observation_space
            self.single_action_space = self._pool.action_space
        self._obs: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None and not isinstance(seed, int):
            raise TypeError(f"one seed for all, not {seed!r}")
        if options is not None:
            index = np.flatnonzero(options["reset_mask"])
            some, info = self._pool.reset(index)
            self._obs = self._obs.copy()
            self._obs[index] = some
            return self._obs, info
        if seed is not None and seed != self._begins_with:
            self._pool.close()
            self._pool = self._make(seed=seed)
        self._begins_with = None
        self._obs, info = self._pool.reset()
        return self._obs, info

    def step(self, actions: np.ndarray) -> Any:
        self._obs, *rest = self._pool.step(actions)
        return self._obs, *rest

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.close()


class Processes(gym.vector.AsyncVectorEnv):
    """Gymnasium's, which waits for ever where one of its processes has ended: then the others end too."""

    def reset(self, **keywords: Any) -> Any:
        with _alive(self):
            return super().reset(**keywords)

    def step(self, actions: Any) -> Any:
        with _alive(self):
            return super().step(actions)

    def _raise_if_errors(self, successes: Any) -> None:
        with warnings.catch_warnings():  # of each exception that it raises
            warnings.simplefilter("ignore")
            super()._raise_if_errors(successes)


@contextlib.contextmanager
def _alive(vector: Processes | None = None) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        if vector is not None:
            vector._state = AsyncState.DEFAULT  # nothing is waited for any more
            vector.close(terminate=True)
        raise UserCodeError("the process of one of its envs has ended") from error


class Singles(gym.vector.VectorEnv):
    """Vector envs of one env each as one whose envs are reset one by one, each with a seed of its own, where a vector
    env takes only one seed for all. Autoreset is disabled: what the vector env does after an episode is not looked at.

    Args:
        make: makes a vector env of one env.
        num_envs: N.

    Attributes:
        parts: the vector envs of one env each.
    """

    def __init__(self, make: Callable[[], gym.vector.VectorEnv], num_envs: int) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.parts = [make() for _ in range(num_envs)]
        self.single_observation_space = self.parts[0].single_observation_space
        self.single_action_space = self.parts[0].single_action_space
        self._obs: list[Any] = [None] * num_envs

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        which_N = np.ones(self.num_envs, dtype=bool) if options is None else options["reset_mask"]
        infos: list[Mapping[str, Any]] = [{}] * self.num_envs
        for i in np.flatnonzero(which_N):
            self._obs[i], infos[i] = self.parts[i].reset(seed=seed[i])
        return joined(self._obs), _joined_masks(infos)

    def step(self, actions: np.ndarray) -> Any:
        results = [env.step(actions[i : i + 1]) for i, env in enumerate(self.parts)]
        obs, *rest, infos = zip(*results, strict=True)
        self._obs = list(obs)
        return joined(obs), *map(np.concatenate, rest), _joined_masks(infos)

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.parts:
            env.close()


def joined(batches: Sequence[Any]) -> Any:
    """Batches of observations, perhaps composed, one after another as one."""
    if isinstance(batches[0], Mapping):
        return {key: joined([batch[key] for batch in batches]) for key in batches[0]}
    if isinstance(batches[0], tuple):
        return tuple(map(joined, zip(*batches, strict=True)))
    return np.concatenate(batches)


def _joined_masks(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The action masks that the infos of vector envs of one env hold, as the info of one vector env has them."""
    known = [ACTION_MASK in info for info in infos]
    if not any(known):
        return {}
    masks = [np.asarray(info[ACTION_MASK][0]) if has else None for info, has in zip(infos, known, strict=True)]
    return {ACTION_MASK: masks, f"_{ACTION_MASK}": np.array(known)}


def make_vector_envs(
    *,
    id: str,
    seeds: Sequence[int],
    device: torch.device,
    kind: Literal["sync", "async", "own", "envpool"],
    wrappers: Sequence[str | Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
    vector_settings: Mapping[str, Any] | None = None,
    at_once: int | None = None,
) -> VectorEnvs:
    """See `envs.environment.make`; `seeds`, `device` and `at_once` as for `gym_envs.GymEnvs`.

    Raises:
        ValueError: the id is unknown, has no vector env of its own, or a keyword is not known to the env.
    """
    settings, vector_settings = dict(settings or {}), dict(vector_settings or {})
    if kind in ("own", "envpool"):
        for name, given in (("wrappers", wrappers), ("vector_settings", vector_settings)):
            if given:
                raise ValueError(f"env.{name}: env.vector={kind} takes none, sync and async do")
        number = at_once or len(seeds)
        make: Callable[[], gym.vector.VectorEnv]
        if kind == "own":
            make = functools.partial(_own if at_once is None else _own_by_seeds, id, number, settings)
        elif at_once is None:
            make = functools.partial(Pool, id, number, settings, seed=seed_of(seeds[0], 0))
        else:
            first = seeds[0] % (SEEDS - len(seeds))
            seeds = [first + i for i in range(len(seeds))]
            make = functools.partial(Pool, id, number, settings, seed=seeds[0])
        return VectorEnvs(id=id, make=make, seeds=seeds, device=device, try_seeds=True, at_once=at_once)
    mode = AutoresetMode.DISABLED
    asked = vector_settings.pop("autoreset_mode", None)
    if asked is not None:
        names = {each.name.lower(): each for each in AutoresetMode}
        if str(asked).lower() not in names:
            raise ValueError(f"env.vector_settings: autoreset_mode={asked!r}; valid are {', '.join(names)}")
        if at_once is None:  # those that play a list of episodes begin each of them by its seed
            mode = names[str(asked).lower()]
    makers = [functools.partial(_make_in_worker, os.getpid(), id, wrappers, settings)] * (at_once or len(seeds))
    vector: Any = gym.vector.SyncVectorEnv if kind == "sync" else Processes
    unknown = sorted(set(vector_settings) - set(inspect.signature(vector).parameters))
    if unknown:
        valid = [name for name in inspect.signature(vector).parameters if name != "env_fns"]
        name = "SyncVectorEnv" if kind == "sync" else "AsyncVectorEnv"
        raise ValueError(f"env.vector_settings: {name} knows no {unknown[0]}; valid are {', '.join(valid)}")
    with contextlib.ExitStack() as made, named(id):
        probe = make_one(id, wrappers, settings)
        made.callback(gym_api.close, probe)
        gym_api.check_action_space(probe.action_space)
        Layout(probe.observation_space)
        masks = mask_source(probe, gym_api.reset(probe, seed=seeds[0])[1])
    keeps = isinstance(probe, Kept)

    def started() -> gym.vector.VectorEnv:
        with named(id), _alive():
            return vector(makers, autoreset_mode=mode, **vector_settings)  # type: ignore[no-any-return]

    return VectorEnvs(id=id, make=started, seeds=seeds, device=device, masks=masks, at_once=at_once, keeps=keeps)


def _make_in_worker(parent: int, *args: Any) -> gym.Env:
    """An env, perhaps in a process that an async vector env has started: that one must not keep the parent's handlers
    of signals, which it is ended by; it must end with the parent, and not because nobody reads what it prints."""
    if os.getpid() != parent:
        starter = os.getppid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):  # they reach all processes: the parent decides
            signal.signal(number, signal.SIG_IGN)
        lasting_streams()

        def end_with_parent() -> None:
            while os.getppid() == starter:
                time.sleep(1.0)
            os._exit(1)

        threading.Thread(target=end_with_parent, daemon=True).start()
    return Checked(make_one(*args))


def _own(id: str, num_envs: int, settings: Mapping[str, Any]) -> gym.vector.VectorEnv:
    register(id)
    name = id.rpartition(":")[2]
    try:
        spec = gym.spec(name)
    except gym.error.Error as error:
        raise unknown_id(id, f"a gymnasium id ({error})", gym.registry) from None
    if spec.vector_entry_point is None:
        raise ValueError(f"env.vector=own: {id} has no vector env of its own; sync and async make one of any id")
    entry: Any = spec.vector_entry_point
    entry = entry if callable(entry) else gym.envs.registration.load_env_creator(entry)
    with making(id, settings):
        return gym.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **as_annotated(entry, settings))


def _own_by_seeds(id: str, num_envs: int, settings: Mapping[str, Any]) -> gym.vector.VectorEnv:
    """An id's own vector env where each env can be given a seed, or `Singles` of it."""
    vector = _own(id, num_envs, settings)
    for form in SEED_FORMS[:-1]:
        with contextlib.suppress(Exception):
            vector.reset(seed=form(range(num_envs)))
            return vector
    vector.close()
    return Singles(functools.partial(_own, id, 1, settings), num_envs)
