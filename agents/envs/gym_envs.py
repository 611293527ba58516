"""Environments of gymnasium's API, made from their ids and stepped one after another in this process.

Shapes: N envs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from trivium.agents.attributes import to_tensors
from trivium.agents.envs import gym_api
from trivium.agents.envs.episodes import NONE, Episodes
from trivium.agents.envs.gym_api import (
    NotDrawable,
    actions_to_numpy,
    at,
    call,
    checked_mask,
    mask_source,
    named,
    one_by_one,
    raised,
)
from trivium.agents.envs.protocol import Step
from trivium.agents.envs.wrapper_state import Kept, State, from_checkpoint, keeping, merged
from trivium.agents.envs.wrappers import as_annotated, wrapped
from trivium.agents.observations import ACTION_MASK, Layout, with_mask
from trivium.agents.policies import head_sizes
from trivium.config.checks.env_ids import REGISTERED_BY, nearest
from trivium.learner import UserCodeError

OF_KEYWORDS = (
    "unexpected keyword|takes .*argument|missing .*argument|multiple values"  # in what TypeErrors of calls say
)


class GymEnvs:
    """`Envs` of any gymnasium id, stepped one after another in this process.

    The state of an env is captured as data: that of its random generator when the episode began, and the actions
    since. `load_state_dict` plays them again, and compares a checksum of all observations and rewards; the time it
    takes is that of the episodes in progress. What it cannot see is randomness that has had no effect yet and comes
    neither from the env's `np_random` nor from its first seed.

    Masks of the valid actions are taken from `info["action_mask"]`, from a method `action_masks()` of the env, or from
    the key `action_mask` of a Dict observation, and become part of the observation (`observations.with_mask`); flat
    over the heads of a MultiDiscrete action space. After the last step of an episode everything is valid.

    Args:
        id, wrappers, settings: see `envs.environment.make`.
        seeds: one an env, in [0, 2^31); or with `at_once` one an episode.
        device: where the tensors go.
        make_env: see `envs.environment.make`.
        at_once: the number of envs that play an episode with each of the seeds, see `EpisodicEnvs`; None: there is an
            env for each seed, which goes on in its stream of randomness.

    Raises:
        ValueError: see `envs.environment.make`.
        UserCodeError: also in `reset` and `step`, when the env raises an exception, or returns what is not of its
            spaces or not finite, or a mask that forbids everything.
    """

    def __init__(
        self,
        *,
        id: str,
        seeds: Sequence[int],
        device: torch.device,
        wrappers: Sequence[str | Mapping[str, Any]] = (),
        settings: Mapping[str, Any] | None = None,
        make_env: Callable[..., gym.Env] = gym.make,
        at_once: int | None = None,
    ) -> None:
        self._id = id
        self._device = device
        self._schedule = None if at_once is None else Episodes(seeds, at_once)
        seeds = seeds if self._schedule is None else self._schedule.first()
        self.num_envs = len(seeds)
        envs: list[gym.Env] = []
        with contextlib.ExitStack() as made:
            for _ in seeds:
                env = make_one(id, wrappers, settings or {}, make_env)
                made.callback(gym_api.close, env)
                if isinstance(env, Kept) and self._schedule is not None:
                    env.freeze({})
                envs.append(env)
            self._begin_first(envs, seeds)
            self._held = made.pop_all()

    def _begin_first(self, envs: Sequence[gym.Env], seeds: Sequence[int]) -> None:
        self.action_space: gym.Space = envs[0].action_space
        with named(self._id):
            gym_api.check_action_space(self.action_space)
            first = gym_api.reset(envs[0], seed=seeds[0])
            masks = mask_source(envs[0], first[1])
            self.observation_space: gym.Space = envs[0].observation_space
            if masks in ("info", "method"):
                self.observation_space = with_mask(self.observation_space, sum(head_sizes(self.action_space)))
            self._layout = Layout(self.observation_space)
            self._episodes = [_Episode(env, seed, self._layout, masks) for env, seed in zip(envs, seeds, strict=True)]
            others = zip(envs[1:], seeds[1:], strict=True)
            began = [first, *(gym_api.reset(env, seed=seed) for env, seed in others)]
            rows = [one.begun(result, seeded=True) for one, result in zip(self._episodes, began, strict=True)]
        self._obs = self._to_device(rows)
        self._untouched = True

    @property
    def obs(self) -> Tensor:
        return self._obs

    def reset(self, *, reseed: bool = False) -> Tensor:
        if not self._untouched:  # the constructor has reset them, with their seeds
            seeded = reseed or self._schedule is not None
            if self._schedule is not None:
                for episode, seed in zip(self._episodes, self._schedule.first(), strict=True):
                    episode.seed = seed
            with named(self._id):
                self._obs = self._to_device([episode.begin(seed=seeded) for episode in self._episodes])
        self._untouched = reseed
        return self._obs

    @property
    def playing_N(self) -> np.ndarray | None:
        """See `EpisodicEnvs`."""
        return None if self._schedule is None else self._schedule.playing_N

    def skip(self, which_N: np.ndarray) -> Tensor:
        """See `EpisodicEnvs`."""
        rows = list(self._obs.cpu().numpy())
        with named(self._id):
            for i in np.flatnonzero(which_N):
                rows[i] = self._next(int(i), rows[i])
        self._obs = self._to_device(rows)
        return self._obs

    def _next(self, i: int, last_obs: np.ndarray) -> np.ndarray:
        """The first observation of env i's next episode; the last one again if there is none."""
        if self._schedule is None:
            return self._episodes[i].begin()
        seed = self._schedule.begin(np.arange(self.num_envs) == i)[i]
        if self._schedule.playing_N[i] == NONE or seed is None:
            return last_obs
        self._episodes[i].seed = seed
        return self._episodes[i].begin(seed=True)

    def step(self, action: Tensor) -> Step:
        self._untouched = False
        rows: list[np.ndarray] = []
        rewards: list[float] = []
        terminations: list[bool] = []
        truncations: list[bool] = []
        actions = actions_to_numpy(self.action_space, action)
        given = one_by_one(self.action_space, actions.copy())  # an env may write to it
        with named(self._id):
            for i, (episode, one, kept) in enumerate(zip(self._episodes, given, actions, strict=True)):
                if self._schedule is not None and self._schedule.playing_N[i] == NONE:
                    row, reward, terminated, truncated = self._obs[i].cpu().numpy(), 0.0, False, False
                else:
                    row, reward, terminated, truncated = episode.step(one, kept)
                rows.append(row)
                rewards.append(reward)
                terminations.append(terminated)
                truncations.append(truncated)
            next_obs, reward_N = np.stack(rows), np.array(rewards)
            self._check(next_obs, reward_N)
            ended = [i for i in range(self.num_envs) if terminations[i] or truncations[i]]
            for i in ended:
                rows[i] = self._next(i, rows[i])
        next_obs_N = torch.from_numpy(next_obs).to(self._device)
        self._obs = self._to_device(rows) if ended else next_obs_N
        return Step(
            self._obs,
            torch.from_numpy(reward_N.astype(np.float32)).to(self._device),
            torch.tensor(terminations, device=self._device),
            torch.tensor(truncations, device=self._device),
            next_obs_N,
        )

    def _check(self, obs: np.ndarray, reward_N: np.ndarray) -> None:
        """What all envs returned in a step, at once: is it finite and within its space?"""
        found = self._layout.problem(obs) or gym_api.reward_problem(reward_N)
        if found is not None:
            i, problem = found
            raise UserCodeError(f"at step {self._episodes[i].length} {problem}")

    def kept(self) -> State:
        """What evaluation needs of what the envs' wrappers keep, see `wrapper_state.merged`."""
        return merged([episode.env.kept() for episode in self._episodes if isinstance(episode.env, Kept)])

    def freeze(self, kept: State) -> None:
        """Begin each episode from now on with this, see `Kept`; the present ones are to be begun anew."""
        for episode in self._episodes:
            if isinstance(episode.env, Kept):
                episode.env.freeze(kept)
                if episode.env.misfit:
                    raise ValueError(episode.env.misfit)
                self._untouched = False

    def close(self) -> None:
        """Close the envs, which may hold more than memory."""
        self._held.close()

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": [episode.state_dict() for episode in self._episodes]}

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        saved = state["episodes"]
        if len(saved) != self.num_envs:
            raise ValueError(f"saved with {len(saved)} envs on this worker, now there are {self.num_envs}")
        self._untouched = False
        with named(self._id):
            replayed = [episode.replay(one) for episode, one in zip(self._episodes, saved, strict=True)]
            lost = [obs is None for obs in replayed]
            if any(lost):
                warnings.warn(
                    f"env.id={self._id!r} is not deterministic, the same seed and actions led elsewhere in {sum(lost)} "
                    f"of {self.num_envs} envs: there the run resumes at an episode boundary and is no longer exact",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._obs = self._to_device(
                [episode.begin() if obs is None else obs for episode, obs in zip(self._episodes, replayed, strict=True)]
            )
        return torch.tensor(lost, device=self._device)

    def _to_device(self, rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(self._device)


class _Episode:
    """One env, and what playing its current episode again takes."""

    def __init__(self, env: gym.Env, seed: int, layout: Layout, masks: str) -> None:
        self.env = env
        self.seed = seed
        self._layout = layout
        self._masks = masks
        self._heads = head_sizes(env.action_space)
        self._rng = ""  # JSON, when the episode began; empty: with a reset by the seed
        self._actions: list[Any] = []
        self._checksum = 0

    def begin(self, *, seed: bool = False) -> np.ndarray:
        self._rng = "" if seed else json.dumps(self._bit_generator().state, default=np.ndarray.tolist)
        return self.begun(gym_api.reset(self.env, seed=self.seed if seed else None), seeded=seed)

    def begun(self, result: tuple[Any, Mapping[str, Any]], *, seeded: bool) -> np.ndarray:
        """The observation that a reset returned."""
        if seeded:
            self._rng = ""
        try:
            obs = self._pack(*result, ended=False)
            if found := self._layout.problem(obs[None]):
                raise UserCodeError(found[1])
        except UserCodeError as error:
            raise at("reset", error) from error.__cause__
        self._actions = []
        self._checksum = zlib.crc32(obs.tobytes())
        return obs

    @property
    def length(self) -> int:
        """How many steps the episode has had."""
        return len(self._actions)

    def step(self, action: Any, kept: Any) -> tuple[np.ndarray, float, bool, bool]:
        """A step, whose numbers are checked later, with those of the other envs.

        Args:
            action: as the env takes it.
            kept: a copy of it.
        """
        self._actions.append(kept)
        try:
            raw, reward, terminated, truncated, info = gym_api.step(self.env, action)
            obs = self._pack(raw, info, ended=terminated or truncated)
        except UserCodeError as error:
            raise at(f"step {self.length}", error) from error.__cause__
        self._checksum = zlib.crc32(obs.tobytes() + struct.pack("d", reward), self._checksum)
        return obs, reward, terminated, truncated

    def state_dict(self) -> dict[str, Any]:
        actions = torch.from_numpy(np.array(self._actions))
        state = {"seed": self.seed, "rng": self._rng, "actions": actions, "checksum": self._checksum}
        if isinstance(self.env, Kept):
            state["kept"] = to_tensors(self.env.kept(begun=True))
        return state

    def replay(self, state: Mapping[str, Any]) -> np.ndarray | None:
        """The current observation of a saved episode; None if the env does not do again what it did."""
        self.seed = state["seed"]
        self._begin_with(state)
        obs = self.begin(seed=True)  # also brings back what the env seeds beside its np_random
        if state["rng"]:
            self._bit_generator().state = json.loads(state["rng"])
            self._begin_with(state)
            obs = self.begin()
        ended = False
        actions = state["actions"].numpy()
        for action, kept in zip(one_by_one(self.env.action_space, actions.copy()), actions, strict=True):
            if ended:
                return None
            obs, _, terminated, truncated = self.step(action, kept)
            ended = terminated or truncated
        return None if ended or self._checksum != state["checksum"] else obs

    def _begin_with(self, state: Mapping[str, Any]) -> None:
        """Give the wrappers back what they kept when the episode began."""
        if isinstance(self.env, Kept):
            self.env.restored = from_checkpoint(state.get("kept", {}))
            if self.env.misfit:
                raise ValueError(self.env.misfit)

    def _bit_generator(self) -> np.random.BitGenerator:
        return self.env.unwrapped.np_random.bit_generator

    def _pack(self, raw: Any, info: Mapping[str, Any], *, ended: bool) -> np.ndarray:
        """As `Layout.pack`, with the mask put in and checked."""
        if self._masks == "none":
            return self._layout.pack(raw)
        if self._masks == "key":
            mask = np.asarray(raw[ACTION_MASK])
        elif self._masks == "method":
            mask = np.asarray(call(self.env.get_wrapper_attr("action_masks")))
        else:
            mask = np.asarray(info.get(ACTION_MASK, ()))
        mask = checked_mask(mask.reshape(-1), self._heads, ended=ended)
        parts = raw if isinstance(self.env.observation_space, gym.spaces.Dict) else {"obs": raw}
        return self._layout.pack({**parts, ACTION_MASK: mask})


def unknown_id(id: str, what: str, known: Iterable[str]) -> ValueError:
    """The error that it is not `what`, with the nearest that are."""
    near = nearest(id, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`module:id` imports your own module first"
    return ValueError(f"env.id={id!r} is not {what}; {hint}")


def register(id: str) -> None:
    """Import what registers the id, as its namespace or its module says."""
    module, _, name = id.rpartition(":")
    with contextlib.suppress(Exception, SystemExit):  # it comes again, and is told, when gymnasium makes the env
        importlib.import_module(module or REGISTERED_BY.get(name.partition("/")[0], "gymnasium"))


def constructor(id: str) -> Callable[..., Any]:
    """What makes an env of the id; where it can't be known something without a signature."""
    spec = gym.registry.get(id.rpartition(":")[2])
    entry = getattr(spec, "entry_point", None)
    if isinstance(entry, str):
        with contextlib.suppress(Exception):  # as in `register`
            entry = gym.envs.registration.load_env_creator(entry)
    return entry if callable(entry) else object


@contextlib.contextmanager
def making(id: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Say in a line why an env can't be made; see `make_one`."""
    try:
        yield
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"env.id={id!r} needs a package that is not installed: {error}") from None
    except ModuleNotFoundError as error:
        if error.name == id.partition(":")[0]:
            raise unknown_id(id, f"a gymnasium id ({error})", gym.registry) from None
        raise ValueError(f"env.id={id!r} needs a package that is not installed: {error}") from None
    except gym.error.UnregisteredEnv as error:
        raise unknown_id(id, f"a gymnasium id ({error})", gym.registry) from None
    except (NotDrawable, UserCodeError):
        raise
    except (Exception, SystemExit) as error:
        of_keywords = isinstance(error, TypeError) and re.search(OF_KEYWORDS, str(error))
        if of_keywords or isinstance(error, gym.error.Error):
            raise ValueError(f"env.settings={dict(settings)}: {error}") from None
        raise UserCodeError(f"env.id={id!r}: {raised('its constructor', error)}") from error


def make_one(
    id: str,
    wrappers: Sequence[str | Mapping[str, Any]],
    settings: Mapping[str, Any],
    make_env: Callable[..., gym.Env] = gym.make,
) -> gym.Env:
    """A single env; see `envs.environment.make`.

    Raises:
        ValueError: see `envs.environment.make`.
        UserCodeError: its constructor raised an exception.
    """
    register(id)
    with making(id, settings):
        env = make_env(id, disable_env_checker=True, **as_annotated(constructor(id), settings))
    return keeping(wrapped(env, wrappers))
