"""What wrappers keep over the ends of episodes, such as running statistics: it goes into the checkpoint, and evaluation
takes it from training and leaves it as it is.

Of gymnasium's wrappers it is known which of their attributes that are. Of all others every attribute counts that is
data, see `attributes`, and has changed since the wrapper was made. An env below its wrappers keeps nothing over a reset
with a seed, by gymnasium's rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from trivium.agents.attributes import NotData, attributes, restorable, same, set_attributes, to_arrays

State = dict[str, dict[str, Any]]
"""Data of attributes by their names, by the wrapper: its class's name, and how many of that name are around it, so that
others, which draw for instance, may stand between."""

# What gymnasium's wrappers keep. `RecordEpisodeStatistics` does too, but only tells it.
KEEPS = {
    "NormalizeObservation": ("obs_rms",),
    "NormalizeReward": ("return_rms", "discounted_reward", "accumulated_reward"),
    "MaxAndSkipObservation": ("_obs_buffer",),
}
OF_EVERY_WRAPPER = {
    "env",
    "_action_space",
    "_observation_space",
    "_single_action_space",
    "_single_observation_space",
    "_metadata",
    "_cached_spec",
    "_saved_kwargs",
}


class WrapperState:
    """What the wrappers around an env, or around a vector env, keep.

    Args:
        env: the outermost wrapper.

    Attributes:
        keeps: whether there is a wrapper that may keep anything.
    """

    def __init__(self, env: Any) -> None:
        self._wrappers = dict(_wrappers(env))
        self._initial = self._all()
        self.keeps = any(self._initial.values())

    def get(self) -> State:
        """What differs from when this object was made, as a copy."""
        state: State = {}
        for key, values in self._all().items():
            before = self._initial[key]
            changed = {
                name: one
                for name, one in values.items()
                if restorable(one, before.get(name)) and (name not in before or not same(one, before[name]))
            }
            if changed:
                state[key] = changed
        return state

    def set(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Make it what it was when `get` returned this. What is of other wrappers is left out.

        Raises:
            ValueError: it does not fit the wrappers.
        """
        for key, wrapper in self._wrappers.items():
            given = state.get(key, {})
            for name in attributes(wrapper, self._names(wrapper)).keys() - self._initial[key].keys():
                del vars(wrapper)[name]  # what the wrapper has begun to keep since
            try:
                set_attributes(wrapper, self._initial[key])
                if any(_shapes(given[name]) != _shapes(self._initial[key].get(name)) for name in given):
                    raise NotData("its running statistics have another shape")
                set_attributes(wrapper, given)
            except (NotData, TypeError, ValueError, KeyError) as error:
                raise ValueError(f"what the wrapper {key} kept does not fit: {error}") from None

    def stop_statistics(self) -> None:
        """Let wrappers with running statistics apply them without taking in more."""
        for wrapper in self._wrappers.values():
            if hasattr(wrapper, "update_running_mean"):
                wrapper.update_running_mean = False

    def _all(self) -> State:
        return {key: attributes(wrapper, self._names(wrapper)) for key, wrapper in self._wrappers.items()}

    @staticmethod
    def _names(wrapper: Any) -> Sequence[str]:
        if type(wrapper).__module__.startswith("gymnasium."):
            return KEEPS.get(type(wrapper).__name__, ())
        return [name for name in vars(wrapper) if name not in OF_EVERY_WRAPPER]


def _wrappers(env: Any) -> Iterator[tuple[str, Any]]:
    seen: Counter[str] = Counter()
    while isinstance(env, gym.Wrapper | gym.vector.VectorWrapper):
        name = type(env).__name__
        if not type(env).__module__.startswith("trivium."):
            yield f"{name}/{seen[name]}", env
            seen[name] += 1
        env = env.env


class Kept(gym.Wrapper):
    """Around an env whose wrappers keep something: notes it when an episode begins, and can begin one with it.

    Attributes:
        restored: set to what the wrappers are to go on with, before a reset; to None, it changes nothing.
        misfit: why the wrappers could not take it; empty: they did. An error would end a process of a vector env.
    """

    def __init__(self, env: gym.Env, state: WrapperState) -> None:
        super().__init__(env)
        self._state = state
        self._begun: State = {}
        self._frozen: State | None = None
        self.misfit = ""

    @property
    def restored(self) -> None:
        return None

    @restored.setter
    def restored(self, state: State | None) -> None:
        if state is not None:
            self.misfit = ""
            try:
                self._state.set(state)
            except ValueError as error:
                self.misfit = str(error)

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        if self._frozen is not None:
            self._state.set(self._frozen)
            self._state.stop_statistics()
        self._begun = self._state.get()
        return self.env.reset(**keywords)

    def kept(self, begun: bool = False) -> State:
        """What the wrappers keep, now or when the episode began."""
        return self._begun if begun else self._state.get()

    def freeze(self, state: State) -> None:
        """Begin each episode from now on with this, and take nothing into running statistics."""
        self.restored = state
        self._frozen = None if self.misfit else state


def from_checkpoint(saved: Any) -> State:
    """What `to_tensors` made of a `State`.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(values, Mapping) for values in saved.values()):
        raise ValueError(f"what wrappers kept is {type(saved).__name__}, not a group of groups")
    state: State = to_arrays(saved)
    return state


def keeping(env: gym.Env) -> gym.Env:
    """The env, as a `Kept` one if its wrappers may keep something."""
    state = WrapperState(env)
    return Kept(env, state) if state.keeps else env


def merged(states: Sequence[State]) -> State:
    """What to evaluate with, from what the envs of a training keep, each its own: running statistics of all together
    (Chan, Golub, LeVeque 1979), of everything else the first env's.

    With n, m, v the number, mean and variance of each env:
    n' = sum n,  m' = sum n m / n',  v' = sum n (v + m^2) / n' - m'^2

    Example:
        n=1, m=0, v=0 and n=3, m=4, v=0 -> n'=4, m'=3, v'=3.
    """
    if not states:
        return {}
    result: State = {key: dict(values) for key, values in states[0].items()}
    for key, values in result.items():
        for name, value in values.items():
            parts = [part for state in states if (part := _statistics(state.get(key, {}).get(name))) is not None]
            if _statistics(value) is not None and len(parts) > 1:
                values[name] = {"kind": "object", "of": {**value["of"], **_together(parts)}}
    return result


def _together(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    number = sum(part["count"].item() for part in parts)
    mean = sum(part["count"] * part["mean"] for part in parts) / number
    square = sum(part["count"] * (part["var"] + np.square(part["mean"])) for part in parts) / number
    return {"count": number, "mean": np.asarray(mean), "var": np.asarray(np.maximum(square - np.square(mean), 0.0))}


def statistics_of(state: State) -> State:
    """The running statistics among what is kept: of vector envs the rest has the shape of their number."""
    found = {
        key: {n: one for n, one in values.items() if _statistics(one) is not None} for key, values in state.items()
    }
    return {key: values for key, values in found.items() if values}


def _shapes(value: Any) -> Any:
    """Of a running statistic."""
    found = _statistics(value)
    return None if found is None else [one.shape for one in found.values()]


def _statistics(value: Any) -> dict[str, np.ndarray] | None:
    """The count, mean and variance of a running statistic as float64; None if it is none."""
    names = ("mean", "var", "count")
    if (
        not isinstance(value, Mapping)
        or value.get("kind") != "object"
        or not all(name in value["of"] for name in names)
    ):
        return None
    found: dict[str, np.ndarray] = {}
    for name in names:
        one = value["of"][name]
        found[name] = np.asarray(one["of"] if isinstance(one, Mapping) else one, np.float64)
    return found
