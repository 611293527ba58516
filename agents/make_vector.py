"""Where vector envs come from: gymnasium's Sync and Async ones, an id's own, EnvPool's; see `vector_envs`."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from trivium.agents.gym_envs import call, make_one, mask_source, named, register, unknown_id
from trivium.agents.vector_envs import VectorEnvs
from trivium.agents.wrappers import as_annotated
from trivium.output import lasting_streams


class Pool(gym.vector.VectorEnv):
    """EnvPool's envs as a vector env of gymnasium's API with autoreset disabled: EnvPool resets some envs by their
    numbers, so that none spends a step on it. It takes one seed, when it is made."""

    def __init__(self, id: str, num_envs: int, settings: Mapping[str, Any], *, seed: int) -> None:
        self._pool: Any = None
        try:
            import envpool
        except ImportError as error:
            raise ValueError(f"env.vector=envpool: {error}; pip install 'trivium[envpool]'") from None
        known = envpool.list_all_envs()
        if id not in known:
            raise unknown_id(id, "an id of EnvPool", known)
        try:
            self._pool = envpool.make_gymnasium(id, num_envs=num_envs, seed=seed, **settings)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"env.settings={dict(settings)}: {str(error).partition(chr(10))[0]}") from None
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        with warnings.catch_warnings():  # of the precision of its bounds
            warnings.simplefilter("ignore")
            self.single_observation_space = self._pool.observation_space
            self.single_action_space = self._pool.action_space
        self._obs: Any = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if options is None:
            self._obs, info = self._pool.reset()
            return self._obs, info
        index = np.flatnonzero(options["reset_mask"])
        some, info = self._pool.reset(index)
        self._obs = self._obs.copy()
        self._obs[index] = some
        return self._obs, info

    def step(self, actions: np.ndarray) -> Any:
        self._obs, *rest = self._pool.step(actions)
        return self._obs, *rest

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.close()


def make_vector_envs(
    *,
    id: str,
    seeds: Sequence[int],
    device: torch.device,
    kind: Literal["sync", "async", "own", "envpool"],
    wrappers: Sequence[str | Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
    vector_settings: Mapping[str, Any] | None = None,
) -> VectorEnvs:
    """See `envs.make`; `seeds` and `device` as for `gym_envs.GymEnvs`.

    Raises:
        ValueError: the id is unknown, has no vector env of its own, or a keyword is not known to the env.
    """
    settings, vector_settings = dict(settings or {}), dict(vector_settings or {})
    make: Callable[..., gym.vector.VectorEnv]
    if kind in ("own", "envpool"):
        for name, given in (("wrappers", wrappers), ("vector_settings", vector_settings)):
            if given:
                raise ValueError(f"env.{name}: env.vector={kind} takes none, sync and async do")
        if kind == "envpool":
            make = functools.partial(Pool, id, len(seeds), settings)
            return VectorEnvs(id=id, make=make, seeds=seeds, device=device, seeding="made")
        make = functools.partial(_own, id, len(seeds), settings)
        return VectorEnvs(id=id, make=make, seeds=seeds, device=device, seeding="tried")
    mode = AutoresetMode.DISABLED
    asked = vector_settings.pop("autoreset_mode", None)
    if asked is not None:
        names = {each.name.lower(): each for each in AutoresetMode}
        if str(asked).lower() not in names:
            raise ValueError(f"env.vector_settings: autoreset_mode={asked!r}; valid are {', '.join(names)}")
        mode = names[str(asked).lower()]
    probe = make_one(id, wrappers, settings)
    makers = [functools.partial(_make_in_worker, os.getpid(), id, wrappers, settings)] * len(seeds)
    vector: Any = gym.vector.SyncVectorEnv if kind == "sync" else gym.vector.AsyncVectorEnv
    unknown = sorted(set(vector_settings) - set(inspect.signature(vector).parameters))
    if unknown:
        valid = [name for name in inspect.signature(vector).parameters if name != "env_fns"]
        raise ValueError(f"env.vector_settings: {vector.__name__} knows no {unknown[0]}; valid are {', '.join(valid)}")
    make = functools.partial(vector, makers, autoreset_mode=mode, **vector_settings)
    with named(id):
        masks = mask_source(probe, call(probe.reset, seed=seeds[0])[1])
    probe.close()
    return VectorEnvs(id=id, make=make, seeds=seeds, device=device, masks=masks)


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
    return make_one(*args)


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
    try:
        return gym.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **as_annotated(entry, settings))
    except (TypeError, gym.error.Error) as error:
        raise ValueError(f"env.settings={dict(settings)}: {error}") from None
