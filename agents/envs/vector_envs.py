"""Vector envs of gymnasium's API: its Sync and Async ones, an env's own, EnvPool's. Here, and only here, is what one
has to know of their autoreset modes:

- same step: the env returns the first observation of the next episode, and the last one of the ended beside it;
- disabled: the ended envs are reset at once, by a mask; EnvPool's by their numbers;
- next step: the env returns the last observation, ignores the next action and returns the first one then. That step is
  no transition: `Step.live` is False there.

Shapes: N envs, S logits of all heads.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from trivium.agents.attributes import to_tensors
from trivium.agents.envs import gym_api
from trivium.agents.envs.episodes import NONE, Episodes
from trivium.agents.envs.gym_api import actions_to_numpy, call, checked_mask, named
from trivium.agents.envs.protocol import Step
from trivium.agents.envs.wrapper_state import State, WrapperState, from_checkpoint, merged, statistics_of
from trivium.agents.observations import ACTION_MASK, Layout, with_mask
from trivium.agents.policies import head_sizes
from trivium.learner import UserCodeError

CLOSE_S = 5.0  # how long processes may take to say what their envs keep before they are ended
SEEDS = 2**31  # some simulators take no larger ones
SEED_FORMS: tuple[Callable[[Sequence[Any]], Any], ...] = (list, np.array, lambda seeds: seeds[0])


class VectorEnvs:
    """`Envs` of a vector env.

    With autoreset disabled every episode begins with a seed of its own, derived from the env's, and its actions are
    kept: `load_state_dict` plays the episodes in progress again, all at once, and compares a checksum of what was seen.
    In the other modes, and from EnvPool, the env chooses how episodes begin: a resumed run begins a new one in each.

    Args:
        id: for messages.
        make: makes the vector env.
        seeds: one an env, or with `at_once` one an episode, in [0, 2^31).
        device: where the tensors go.
        masks: where masks of the valid actions are, see `mask_source`; None: in the observations' `action_mask`, or in
            `info["action_mask"]`, where there is one.
        try_seeds: it may not take a list of seeds, one an env, but an array or one for all: find out.
        at_once: see `gym_envs.GymEnvs`. Envs that take no seed when one of them is reset begin their episodes together;
            those that take one seed for all must give the i-th of them what `seed + i` means, and the seeds be such.
        keeps: whether its envs are `Kept` ones.

    Attributes:
        vector: the vector env.
        mode: when it begins the next episode.
        dead_steps: whether in a step of its own.

    Raises:
        ValueError, UserCodeError: as of `gym_envs.GymEnvs`.
    """

    def __init__(
        self,
        *,
        id: str,
        make: Callable[[], gym.vector.VectorEnv],
        seeds: Sequence[int],
        device: torch.device,
        masks: str | None = None,
        try_seeds: bool = False,
        at_once: int | None = None,
        keeps: bool = False,
    ) -> None:
        self._id = id
        self._device = device
        self._schedule = None if at_once is None else Episodes(seeds, at_once)
        self._seeds = list(seeds)[:at_once]
        self._forms = SEED_FORMS if try_seeds else SEED_FORMS[:1]
        self.num_envs = len(self._seeds)
        self._episodes = [0] * self.num_envs  # how many were begun
        self._replayed: list[State] = []  # what wrappers kept when saved episodes began, while they are played again
        self._wrapped_envs = keeps
        self._length_N = np.zeros(self.num_envs, dtype=np.int64)  # of the episodes in progress
        self.vector: Any = make()
        # Wrappers of the vector env itself, or of each of the vector envs that it is made of.
        self._states = [WrapperState(one) for one in getattr(self.vector, "parts", [self.vector])]
        self._frozen: State | None = None
        self._kept_at_last: State | None = None
        if self._schedule is not None:
            self.freeze({})
        try:
            with named(id):
                self._start(masks)
        except BaseException:
            self.close()
            raise
        self._untouched = True

    def _start(self, masks: str | None) -> None:
        """Begin the first episodes, and find out how the env wants to be treated."""
        space = self.vector.single_observation_space
        self.action_space: gym.Space = self.vector.single_action_space
        self.mode = AutoresetMode(self.vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.dead_steps = self.mode is AutoresetMode.NEXT_STEP
        self._composed = isinstance(space, gym.spaces.Dict)
        self._masks = masks or "none"
        gym_api.check_action_space(self.action_space)
        self._heads = head_sizes(self.action_space)
        self._mask_NS = np.ones((self.num_envs, sum(self._heads)), dtype=bool)
        self._exact = self._rounds = False
        self._begin_all(seeded=True)
        # What wrappers of the vector env itself kept when an episode of one of its envs began is not known.
        replayable = self._schedule is not None or not any(state.keeps for state in self._states)
        self._exact = self.mode is AutoresetMode.DISABLED and self._forms[0] is list and replayable
        self._rounds = self._schedule is not None and not self._exact
        if masks is None and isinstance(space, gym.spaces.Dict) and ACTION_MASK in space.spaces:
            self._masks = "key"
        elif masks is None and self._heads and ACTION_MASK in self._info:
            self._masks = "info"
        if self._masks in ("info", "method"):
            space = with_mask(space, sum(self._heads))
        self.observation_space: gym.Space = space
        self._layout = Layout(space)
        self._first()

    # ------------------------------------------------------------------------------------------- Envs

    @property
    def obs(self) -> Tensor:
        return self._to_device(self._packed)

    def reset(self, *, reseed: bool = False) -> Tensor:
        if not self._untouched:
            with named(self._id):
                self._begin_all(seeded=reseed)
                self._first()
        self._untouched = reseed
        return self.obs

    def step(self, action: Tensor) -> Step:
        self._untouched = False
        with named(self._id):
            return self._step(actions_to_numpy(self.action_space, action))

    @property
    def playing_N(self) -> np.ndarray | None:
        """See `EpisodicEnvs`."""
        return None if self._schedule is None else self._schedule.playing_N

    def skip(self, which_N: np.ndarray) -> Tensor:
        """See `EpisodicEnvs`."""
        with named(self._id):
            if self._rounds:
                self._end(which_N)
            else:
                self._begin(which_N)
        return self.obs

    def kept(self) -> State:
        """What evaluation needs of what wrappers keep, see `wrapper_state.merged`."""
        if self._kept_at_last is not None:
            return self._kept_at_last
        kept = merged(self._kept(begun=False))
        return kept if self._wrapped_envs else statistics_of(kept)

    def freeze(self, kept: State) -> None:
        """Begin each episode from now on with this, see `Kept`; the present ones are to be begun anew."""
        if self._wrapped_envs:
            self.vector.call("freeze", kept)
            self._check_kept()
        elif any(state.keeps for state in self._states):
            self._frozen = kept
        else:
            return
        self._untouched = False

    def _kept(self, *, begun: bool) -> Sequence[State]:
        """What the wrappers of each env keep, now or when its episode began, or those of the vector env now."""
        if self._wrapped_envs:
            return self.vector.call("kept", begun)  # type: ignore[no-any-return]
        return [state.get() for state in self._states]

    def _saved_kept(self, state: Mapping[str, Any]) -> list[State]:
        saved = state.get("kept", [])
        if not isinstance(saved, list) or len(saved) not in (0, self.num_envs if self._wrapped_envs else 1):
            raise ValueError(f"what wrappers kept is not of the {self.num_envs} envs")
        kept = [from_checkpoint(one) for one in saved]
        self._give(kept)
        self._check_kept()
        return kept

    def _check_kept(self) -> None:
        misfit = next(filter(None, self.vector.get_attr("misfit")), "") if self._wrapped_envs else ""
        if misfit:
            raise ValueError(misfit)

    def _give(self, kept: Sequence[State | None]) -> None:
        """What wrappers are to begin their next episodes with, of each env or of the vector env."""
        if self._wrapped_envs and kept:
            self.vector.set_attr("restored", list(kept))
            return
        for state, one in zip(self._states, kept, strict=False):
            state.set(one or {})

    def close(self) -> None:
        """End the processes of an async vector env; what wrappers keep is known as before."""
        with contextlib.suppress(Exception):
            if self._wrapped_envs and hasattr(self.vector, "call_async"):  # one of the processes may hang
                self.vector.call_async("kept")
                self._kept_at_last = merged(self.vector.call_wait(timeout=CLOSE_S))
        with contextlib.suppress(Exception):
            self.vector.close()

    def state_dict(self) -> dict[str, Any]:
        actions = [torch.from_numpy(np.array(each)) for each in self._actions]
        return {
            "seeds": list(self._seeds),
            "episodes": list(self._episodes),
            "actions": actions if self._exact else [],
            "checksums": list(self._checksums),
            "kept": to_tensors(list(self._kept(begun=self._exact))),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        saved = state["seeds"]
        if len(saved) != self.num_envs:
            raise ValueError(f"saved with {len(saved)} envs on this worker, now there are {self.num_envs}")
        self._seeds, self._episodes = list(saved), [int(each) for each in state["episodes"]]
        self._untouched = False
        lost_N = np.ones(self.num_envs, dtype=bool)
        with named(self._id):
            if self._exact:
                lost_N = self._replay(state)
                if lost_N.any():
                    self._begin(lost_N)
                    warnings.warn(
                        f"env.id={self._id!r} is not deterministic, the same seed and actions led elsewhere in "
                        f"{lost_N.sum()} of {self.num_envs} envs: there the run resumes at an episode boundary and is "
                        "no longer exact",
                        RuntimeWarning,
                        stacklevel=2,
                    )
            else:  # other episodes than those that the run has had already
                self._saved_kept(state)
                self._seeds = [seed_of(seed, n) for seed, n in zip(self._seeds, self._episodes, strict=True)]
                self._begin_all(seeded=True)
                self._first()
        return torch.from_numpy(lost_N).to(self._device)

    # ------------------------------------------------------------------------------------------- episodes

    def _begin_all(self, *, seeded: bool) -> None:
        """A new episode in every env: the first ones of their seeds, or the next ones."""
        if seeded:
            self._episodes = [0] * self.num_envs
        if self._schedule is not None and seeded:
            self._schedule.restart()
        seeds = self._next_seeds(np.ones(self.num_envs, dtype=bool))
        if not (seeded or self._exact or self._schedule):
            seeds = [None] * self.num_envs  # the env goes on in its own stream of randomness
        self._ended_N = np.zeros(self.num_envs, dtype=bool)
        self._give_begun(np.ones(self.num_envs, dtype=bool))
        self._raw, self._info = self._reset(seeds)

    def _give_begun(self, which_N: np.ndarray) -> None:
        """Before these envs are reset: what their wrappers begin with, in a saved episode or in evaluation."""
        if self._replayed and self._wrapped_envs:
            self._give([one if which else None for one, which in zip(self._replayed, which_N, strict=True)])
        if self._frozen is not None:
            every = [True] * len(self._states) if which_N.all() else which_N
            for state, which in zip(self._states, every, strict=False):
                if which:
                    state.set(self._frozen)
                    state.stop_statistics()

    def _reset(self, seeds: Sequence[int | None]) -> tuple[Any, Mapping[str, Any]]:
        """A reset of all envs, with the seeds in the first form that the vector env accepts."""
        if seeds[0] is None:
            return gym_api.reset(self.vector)
        for form in self._forms[:-1]:
            with contextlib.suppress(UserCodeError):  # the last form's error is told
                result = gym_api.reset(self.vector, seed=form(seeds))
                self._forms = (form,)
                return result
        self._forms = self._forms[-1:]
        return gym_api.reset(self.vector, seed=self._forms[0](seeds))

    def _next_seeds(self, which_N: np.ndarray) -> list[int | None]:
        """For the next episode of some envs; None for the others."""
        if self._schedule is not None:
            return self._schedule.begin(which_N)
        seeds: list[int | None] = [None] * self.num_envs
        for i in np.flatnonzero(which_N):
            seeds[i] = seed_of(self._seeds[i], self._episodes[i])
            self._episodes[i] += 1
        return seeds

    def _first(self) -> None:
        """Take in the first observations of new episodes in all envs."""
        self._mask_NS = self._read_masks(np.zeros(self.num_envs, dtype=bool))
        self._length_N[:] = 0
        self._packed = self._pack(self._raw)
        self._actions: list[list[Any]] = [[] for _ in range(self.num_envs)]
        self._checksums = [zlib.crc32(row.tobytes()) for row in self._packed] if self._exact else []

    def _begin(self, which_N: np.ndarray) -> None:
        """New episodes in some envs, with autoreset disabled."""
        seeds = {} if self._rounds else {"seed": self._next_seeds(which_N)}
        options = {"reset_mask": which_N.copy()}
        self._give_begun(which_N)
        self._raw, self._info = gym_api.reset(self.vector, options=options, **(seeds if self._exact else {}))
        self._mask_NS = self._read_masks(np.zeros(self.num_envs, dtype=bool))
        self._length_N[which_N] = 0
        self._packed = self._pack(self._raw)
        for i in np.flatnonzero(which_N) if self._exact else ():
            self._actions[i] = []
            self._checksums[i] = zlib.crc32(self._packed[i].tobytes())

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step of the vector env, as it is: reward, terminated and truncated, [N] each."""
        result = gym_api.stepped(call(self.vector.step, actions.copy()))  # an env may write to it
        self._raw, reward, terminated, truncated, self._info = result
        self._length_N += 1
        reward_N = gym_api.of_envs("reward", reward, self.num_envs, np.float64)
        terminated_N = gym_api.of_envs("terminated", terminated, self.num_envs, np.bool_)
        truncated_N = gym_api.of_envs("truncated", truncated, self.num_envs, np.bool_)
        self._check(gym_api.reward_problem(reward_N))
        nothing_to_do_N = (terminated_N | truncated_N) & (self.mode is not AutoresetMode.SAME_STEP)
        self._mask_NS = self._read_masks(nothing_to_do_N)
        self._packed = self._pack(self._raw)
        if self._exact:
            for i in range(self.num_envs):
                self._actions[i].append(actions[i])
                seen = self._packed[i].tobytes() + struct.pack("d", reward_N[i])
                self._checksums[i] = zlib.crc32(seen, self._checksums[i])
        return reward_N, terminated_N, truncated_N

    def _step(self, actions: np.ndarray) -> Step:
        dead_N = self._ended_N
        reward_N, terminated_N, truncated_N = self._advance(actions)
        ended_N, next_packed, live = terminated_N | truncated_N, self._packed, None
        if self.dead_steps:
            self._length_N[dead_N] = 0
            self._ended_N, live = ended_N, self._to_device(~dead_N)
        elif ended_N.any():
            if self.mode is AutoresetMode.DISABLED:
                self._begin(ended_N)
            else:
                next_packed = self._with_final(ended_N)
                self._length_N[ended_N] = 0
        next_obs = self._to_device(next_packed)
        if self._rounds and ended_N.any():
            self._end(ended_N)
        return Step(
            next_obs if next_packed is self._packed else self._to_device(self._packed),
            self._to_device(reward_N.astype(np.float32)),
            self._to_device(terminated_N),
            self._to_device(truncated_N),
            next_obs,
            live,
        )

    def _end(self, which_N: np.ndarray) -> None:
        """Where episodes of a list begin together: the next ones once all have ended."""
        assert self._schedule is not None
        self._schedule.end(which_N)
        if self._schedule.left and (self._schedule.playing_N == NONE).all():
            self._begin_all(seeded=False)
            self._first()

    def _with_final(self, ended_N: np.ndarray) -> np.ndarray:
        """The observations, with the last one of the ended episodes where the first one of the next is."""
        if "final_obs" not in self._info:
            raise UserCodeError("it resets in the same step but returns no info['final_obs']")
        packed = self._packed.copy()
        for i in np.flatnonzero(ended_N):
            raw = _of_env(self._info["final_obs"], int(i))
            if self._masks != "none":
                raw = {**(raw if self._composed else {"obs": raw}), ACTION_MASK: np.ones(sum(self._heads), dtype=bool)}
            packed[i] = self._layout.pack(raw)
        self._check(self._layout.problem(packed))
        return packed

    def _replay(self, state: Mapping[str, Any]) -> np.ndarray:
        """Play saved episodes again, so that all end at the same time; bool [N], where it led elsewhere."""
        self._replayed = self._saved_kept(state)
        logs = [each.numpy() for each in state["actions"]]
        length_N = np.array([len(log) for log in logs])
        self._episodes = [n - 1 for n in self._episodes]
        self._begin_all(seeded=False)
        self._first()
        lost_N = np.zeros(self.num_envs, dtype=bool)
        played_N = np.zeros(self.num_envs, dtype=int)
        for left in range(int(length_N.max()), 0, -1):
            # Until its turn comes an env plays its own beginning, over and over: what else is sure to be valid?
            actions = [
                log[n] if len(log) else self._valid_action(i, logs)
                for i, (log, n) in enumerate(zip(logs, played_N, strict=True))
            ]
            _, terminated_N, truncated_N = self._advance(np.array(actions))
            played_N += 1
            ended_N = terminated_N | truncated_N
            lost_N |= ended_N & (length_N >= left)
            again_N = ended_N | (length_N == left - 1) | ((played_N == length_N) & (length_N < left))
            if again_N.any():
                self._episodes = [n - bool(again) for n, again in zip(self._episodes, again_N, strict=True)]
                played_N[again_N] = 0
                self._begin(again_N)
        self._replayed = []
        lost_N |= np.array(self._checksums) != np.array(state["checksums"])
        return lost_N

    def _valid_action(self, i: int, logs: Sequence[np.ndarray]) -> Any:
        """One that an env without a log may be given now."""
        some = next(log[0] for log in logs if len(log))
        if not self._heads:
            return some
        heads = np.split(self._mask_NS[i], np.cumsum(self._heads)[:-1])
        start = np.asarray(self.action_space.start) if hasattr(self.action_space, "start") else 0
        return (np.array([head.argmax() for head in heads]).reshape(np.shape(some)) + start).astype(
            np.asarray(some).dtype
        )

    # ------------------------------------------------------------------------------------------- observations

    def _read_masks(self, ended_N: np.ndarray) -> np.ndarray:
        """bool [N, S]: the masks as they are now, everything where an episode ended."""
        if self._masks == "none":
            return self._mask_NS
        if self._masks == "key":
            given: Any = self._raw[ACTION_MASK]
        elif self._masks == "method":
            try:
                given = self.vector.call("action_masks")  # Sync and Async ones have it
            except Exception as error:
                raise gym_api.raised("its action_masks()", error) from error
        else:
            given = self._info.get(ACTION_MASK, ())
        told_N = self._info.get(f"_{ACTION_MASK}") if self._masks == "info" else None
        if told_N is None:
            told_N = np.full(self.num_envs, len(given) == self.num_envs)
        mask_NS = self._mask_NS.copy()
        for i in range(self.num_envs):
            if ended_N[i]:
                mask_NS[i] = True
            elif told_N[i]:
                mask_NS[i] = checked_mask(np.asarray(given[i]).reshape(-1), self._heads)
        return mask_NS

    def _pack(self, raw: Any) -> np.ndarray:
        """Observations of all envs as one array, with their masks."""
        if self._masks != "none":
            raw = {**(raw if self._composed else {"obs": raw}), ACTION_MASK: self._mask_NS}
        packed = self._layout.pack(raw, batch=(self.num_envs,))
        self._check(self._layout.problem(packed))
        return packed

    def _check(self, found: tuple[int, str] | None) -> None:
        if found is not None:
            length = self._length_N[found[0]]
            raise gym_api.at(f"step {length}" if length else "reset", UserCodeError(found[1]))

    def _to_device(self, packed: np.ndarray) -> Tensor:
        return torch.from_numpy(packed).to(self._device)


def _of_env(batch: Any, i: int) -> Any:
    """What a batch, perhaps composed, holds of one env."""
    return {key: _of_env(value, i) for key, value in batch.items()} if isinstance(batch, Mapping) else batch[i]


def seed_of(seed: int, episode: int) -> int:
    """The seed of an env's episode of this number."""
    return zlib.crc32(struct.pack("<qq", seed, episode)) % SEEDS
