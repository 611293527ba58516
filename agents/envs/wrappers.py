"""Gymnasium's wrappers by their names, with keywords as YAML has them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

# A run folder's config, perhaps a stranger's, is not to choose what files are written.
WRITING = ("HumanRendering", "RecordVideo")


def wrapped(env: gym.Env, wrappers: Sequence[str | Mapping[str, Any]]) -> gym.Env:
    """The env within gymnasium's wrappers, the innermost first; see `envs.environment.make`.

    Raises:
        ValueError: no such wrapper, one that writes files, or it refuses the env or its keywords.
    """
    for wrapper in wrappers:
        ((name, keywords),) = wrapper.items() if isinstance(wrapper, Mapping) else ((wrapper, {}),)
        found = _wrapper(name)
        try:
            given = as_annotated(found, keywords or {})
        except ValueError as error:
            raise ValueError(f"env.wrappers: {name}: {error}") from None
        try:
            env = found(env, **given)
        except Exception as error:
            text = str(error).strip().partition("\n")[0]
            raise ValueError(f"env.wrappers: {name}({keywords or ''}) raised {type(error).__name__}: {text}") from None
    return env


def _wrapper(name: str) -> type[gym.Wrapper]:
    if name in WRITING:
        raise ValueError(f"env.wrappers: {name} is not for training; `trivium play` shows and films a run")
    try:
        found = getattr(gym.wrappers, name, None)
    except ImportError as error:  # gymnasium imports some only when they are asked for
        raise ValueError(f"env.wrappers: {name} needs a package that is not installed: {error}") from None
    if not (isinstance(found, type) and issubclass(found, gym.Wrapper)):
        known = [one for one in gym.wrappers.__all__ if one[0].isupper()]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(known)}"
        raise ValueError(f"env.wrappers has {name!r}, which gymnasium.wrappers has not; {hint}")
    return found


def as_annotated(function: Callable[..., Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as YAML has them, which knows neither tuples nor arrays nor dtypes, as the parameters ask for them.

    A list becomes a tuple where the annotation names one, or where the default is one; an array where the annotation
    names one; the name of a dtype becomes NumPy's type for a parameter `dtype`. Everything else stays as it is.

    Raises:
        ValueError: a parameter asks for a function and is given something else.

    Example:
        shape: tuple[int, int], {"shape": [84, 84]} -> {"shape": (84, 84)}.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C have none
        return dict(keywords)
    return {name: _as_asked(parameters.get(name), value) for name, value in keywords.items()}


def _as_asked(parameter: inspect.Parameter | None, value: Any) -> Any:
    if parameter is None:
        return value
    asked = parameter.annotation if isinstance(parameter.annotation, str) else repr(parameter.annotation)
    if isinstance(value, list):
        if "tuple" in asked.lower() or isinstance(parameter.default, tuple):
            return _tuples(value)
        if "ndarray" in asked or isinstance(parameter.default, np.ndarray):
            array = np.array(value)
            return array.astype(np.float32) if array.dtype == np.float64 else array  # as Boxes are, which would warn
    if parameter.name == "dtype" and isinstance(value, str):
        return np.dtype(value).type
    if "Callable" in asked and value is not None and not callable(value):
        raise ValueError(
            f"{parameter.name}={value!r} must be a function, named as {{_target_: numpy.sign, _partial_: true}} is"
        )
    return value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
