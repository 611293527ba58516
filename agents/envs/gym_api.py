"""Gymnasium's API as envs really keep to it: their code, the user's, may raise anything and return anything. What is
not as it should be becomes an error of one line.

Shapes: N envs, S logits of all heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from trivium.agents.observations import ACTION_MASK, Layout
from trivium.agents.policies import ACTION_SPACES, head_sizes
from trivium.learner import UserCodeError

LARGEST = float(np.finfo(np.float32).max)

StepResult = tuple[Any, float, bool, bool, Mapping[str, Any]]


class NotDrawable(ValueError):
    """The env can't be drawn here; the text says why."""


# ----------------------------------------------------------------------------------------------- what it raises


@contextlib.contextmanager
def named(id: str) -> Iterator[None]:
    """Say of which env an error is, if it does not yet."""
    try:
        yield
    except NotDrawable:
        raise
    except ValueError as error:
        if str(error).startswith("env."):
            raise
        kind = UserCodeError if isinstance(error, UserCodeError) else ValueError
        raise kind(f"env.id={id!r}: {error}") from error.__cause__


def at(when: str, error: UserCodeError) -> UserCodeError:
    """The same error, which says when it came: `step 3`."""
    return UserCodeError(f"at {when} {error}")


def raised(what: str, error: BaseException) -> UserCodeError:
    """The error that `what` raised another one, in a line."""
    if isinstance(error, UserCodeError):  # of an env within a vector env
        return error
    text = str(error).partition(" was raised from the environment creator")[0]  # which gymnasium adds
    text = text.strip().partition("\n")[0]
    if len(text) > 300:
        text = f"{text[:300]} ..."
    if isinstance(error, ValueError) and "to unpack" in text:
        text += (
            "; valid are reset() -> (observation, info), step() -> (observation, reward, terminated, truncated, info)"
        )
    kind = type(error).__name__
    return UserCodeError(f"{what} raised {kind}: {text}" if text else f"{what} raised {kind}")


def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the env.

    Raises:
        UserCodeError: whatever the env raises; SystemExit too, which would end the run without a word.
    """
    try:
        return method(*args, **kwargs)
    except NotDrawable:
        raise
    except (Exception, SystemExit) as error:
        problem = raised(f"its {getattr(method, '__name__', 'code')}()", error)
        raise problem from (error.__cause__ if problem is error else error)


def close(env: gym.Env) -> None:
    """Close an env. Whatever it raises, it is not needed any more."""
    with contextlib.suppress(Exception, SystemExit):
        env.close()


# ----------------------------------------------------------------------------------------------- what it returns


def reset(env: Any, **keywords: Any) -> tuple[Any, Mapping[str, Any]]:
    """The observation and the info that an env, or vector env, begins an episode with.

    Raises:
        UserCodeError: it raised an exception, or returned something else.
    """
    result = call(env.reset, **keywords)
    if isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], Mapping):
        return result[0], result[1]
    raise UserCodeError(f"its reset() returned {_described(result)}; valid is (observation, info), info a dict")


def step(env: gym.Env, action: Any) -> StepResult:
    """What an env answers to an action: observation, reward, terminated, truncated, info.

    Raises:
        UserCodeError: it raised an exception, or returned something else; the observation is not looked at.
    """
    obs, reward, terminated, truncated, info = stepped(call(env.step, action))
    if type(reward) is not float:
        reward = _number(reward)
    if type(terminated) is not bool:
        terminated = _flag("terminated", terminated)
    if type(truncated) is not bool:
        truncated = _flag("truncated", truncated)
    return obs, reward, terminated, truncated, info


def stepped(result: Any) -> tuple[Any, Any, Any, Any, Mapping[str, Any]]:
    """The five values that a step of an env, or a vector env, returned.

    Raises:
        UserCodeError: they are not five, or the last is no dict.
    """
    if not (isinstance(result, tuple | list) and len(result) == 5):
        valid = "(observation, reward, terminated, truncated, info)"
        raise UserCodeError(f"its step() returned {_described(result)}; valid is {valid}")
    obs, reward, terminated, truncated, info = result
    if type(info) is not dict and not isinstance(info, Mapping):
        raise UserCodeError(f"its step() returned info={info!r:.80}; valid is a dict")
    return obs, reward, terminated, truncated, info


def of_envs(name: str, values: Any, num_envs: int, dtype: Any) -> np.ndarray:
    """What a vector env returned by this name, one number an env: a copy, [N].

    Raises:
        UserCodeError: it is something else.
    """
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        array = np.asarray(values)
        if array.shape == (num_envs,) and array.dtype.kind in "biuf":
            return array.astype(dtype)
    raise UserCodeError(f"its step() returned {name}={values!r:.80}; valid is a number for each of {num_envs} envs")


def reward_problem(reward_N: np.ndarray) -> tuple[int, str] | None:
    """The first env whose reward, float64 [N], is not finite in float32, and what to say of it; None if all are."""
    finite_N = np.abs(reward_N) <= LARGEST
    if finite_N.all():
        return None
    i = int(finite_N.argmin())
    return i, f"it returned the reward {'NaN' if reward_N[i] != reward_N[i] else reward_N[i]}"


def _number(reward: Any) -> float:
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        if not isinstance(reward, str | bytes) and np.ndim(reward) == 0:
            return float(reward)
    raise UserCodeError(f"its step() returned reward={reward!r:.80}; valid is a number")


def _flag(name: str, value: Any) -> bool:
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            return bool(array.reshape(()))
    raise UserCodeError(f"its step() returned {name}={value!r:.80}; valid are True and False")


def _described(result: Any) -> str:
    if isinstance(result, tuple | list):
        return f"{len(result)} values ({', '.join(type(one).__name__ for one in result)})"
    shape = getattr(result, "shape", None)
    return f"{type(result).__name__}{f' of shape {tuple(shape)}' if shape else ''}"


class Checked(gym.Wrapper):
    """An env for a vector env of gymnasium's, which takes apart, casts and copies what it returns without a look. Its
    errors can be pickled, whatever the env raised. Whether numbers are finite is seen later, in those of all envs.

    Raises:
        UserCodeError: in `reset` and `step`, when the env raises an exception or returns what it should not.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._layout = Layout(env.observation_space)
        self._steps = 0

    def reset(self, **keywords: Any) -> tuple[Any, Any]:
        self._steps = 0
        obs, info = reset(self.env, **keywords)
        try:
            return self._layout.cast(obs), info
        except UserCodeError as error:
            raise at("reset", error) from error.__cause__

    def step(self, action: Any) -> Any:
        self._steps += 1
        try:
            result = step(self.env, action)
            obs = self._layout.cast(result[0])
        except UserCodeError as error:
            raise at(f"step {self._steps}", error) from error.__cause__
        return result if obs is result[0] else (obs, *result[1:])


# ----------------------------------------------------------------------------------------------- actions and masks


def check_action_space(space: gym.Space) -> None:
    """
    Raises:
        ValueError: agents have no actions of this kind, or it has none.
    """
    if not isinstance(space, gym.spaces.Box) and not head_sizes(space):
        raise ValueError(f"the action space {space}: valid are {', '.join(ACTION_SPACES)}")
    if isinstance(space, gym.spaces.Box) and 0 in space.shape:
        raise ValueError(f"the action space {space} holds no numbers")


def actions_to_numpy(space: gym.Space, action: Tensor) -> np.ndarray:
    """The actions of N envs as the envs take them, [N, ...]: of the space, in its own dtype, beginning at its start.

    A Box's are clipped to its bounds as these are, in no coarser dtype; where its dtype is one of integers they are
    rounded to the nearest.

    Args:
        action: see `Envs`.
    """
    array = action.cpu().numpy()
    if isinstance(space, gym.spaces.Box):
        return _into_box(space, array.reshape(len(array), *space.shape))
    # A copy: neither the env nor a log of actions may share memory with the caller.
    array = array.astype(space.dtype)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        array += np.asarray(space.start, dtype=space.dtype).reshape(-1)
    return array.reshape(len(array), *(space.shape or ()))


def _into_box(space: gym.spaces.Box, array: np.ndarray) -> np.ndarray:
    dtype, low, high = np.dtype(space.dtype), space.low, space.high
    if dtype.kind in "iu":
        # The float that is nearest to the largest int64 is larger, and as an int64 negative: the bounds by comparison.
        array = np.rint(array.astype(np.float64))
        with np.errstate(invalid="ignore"):
            within = array.astype(dtype)
        return np.where(array >= high, high, np.where(array <= low, low, within))
    if array.dtype != dtype and np.result_type(array.dtype, dtype) != dtype:  # numbers beyond float16 would become inf
        largest = np.finfo(dtype).max
        low, high = np.clip(low, -largest, largest), np.clip(high, -largest, largest)
    elif array.dtype != dtype:
        array = array.astype(dtype)
    clipped: np.ndarray = np.minimum(np.maximum(array, low), high)  # np.clip takes three times as long
    return clipped.astype(dtype, copy=False)


def one_by_one(space: gym.Space, actions: np.ndarray) -> list[Any]:
    """The actions of a batch, [N, ...], each as the space's own samples are: an integer of NumPy's for Discrete, else
    an array, without dimensions too."""
    return list(actions) if isinstance(space, gym.spaces.Discrete) else [actions[i, ...] for i in range(len(actions))]


def checked_mask(mask: np.ndarray, heads: Sequence[int], *, ended: bool = False) -> np.ndarray:
    """An env's mask of the valid actions as bool, all True after the last step of an episode.

    Args:
        mask: numbers [S], flat over the heads.
        heads: how many actions each head has.

    Raises:
        UserCodeError: of another size, or it forbids every action of a head.
    """
    size = sum(heads)
    if ended:
        return np.ones(size, dtype=bool)
    if mask.shape != (size,):
        raise UserCodeError(f"it gave an action mask of {mask.size} numbers, its actions are {size}")
    mask = mask.astype(bool)
    if not all(head.any() for head in np.split(mask, np.cumsum(heads)[:-1])):
        raise UserCodeError(f"its action mask forbids every action: {mask.astype(int).tolist()}")
    return mask


def mask_source(env: gym.Env, info: Mapping[str, Any]) -> str:
    """Where an env's action masks are: `key`, `method`, `info` or `none`."""
    space = env.observation_space
    if isinstance(space, gym.spaces.Dict) and ACTION_MASK in space.spaces:
        return "key"
    if not head_sizes(env.action_space):
        return "none"
    if env.has_wrapper_attr("action_masks"):
        return "method"
    return "info" if ACTION_MASK in info else "none"
