"""From Trivium's keywords to RLlib's `AlgorithmConfig`, with every mistake told in one line.

A string in `settings` is never the name of a class: RLlib would import and call it, and a config may come from a
stranger. A class is named as Trivium names one, `{_target_: mymodule.MyClass, _partial_: true}`.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from ray._common.deprecation import DEPRECATED_VALUE
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from trivium.agents.envs.gym_envs import make_one
from trivium.config.rules.sizes import require_divisible

SECTIONS = ("training", "env_runners", "learners", "rl_module", "fault_tolerance", "reporting", "debugging")
OFFLINE = ("BC", "CQL", "IQL", "MARWIL")
WORD = re.compile(r"\w[\w -]*")


class GymEnv(gym.Wrapper):
    """One env as RLlib's runners make it, with the spaces that `Envs` have: Discrete actions from 0, and Discrete
    observations as one-hot vectors, which RLlib's networks need.

    Args:
        context: RLlib's `env_config`: the `id`, `wrappers` and `settings` of `envs.environment.make`.
    """

    def __init__(self, context: Mapping[str, Any]) -> None:
        env = make_one(context["id"], context["wrappers"], dict(context["settings"]))
        if isinstance(env.observation_space, gym.spaces.Discrete):
            observed, first = env.observation_space, int(env.observation_space.start)
            space = one_hot_space(observed)
            env = gym.wrappers.TransformObservation(
                env, lambda obs: one_hot(np.array(obs - first), int(observed.n)), space
            )
        actions = env.action_space
        if isinstance(actions, gym.spaces.Discrete) and actions.start != 0:
            start = int(actions.start)
            env = gym.wrappers.TransformAction(env, lambda a: int(a) + start, gym.spaces.Discrete(int(actions.n)))
        super().__init__(env)


def one_hot(index: np.ndarray, n: int) -> np.ndarray:
    """float32 [..., n] of int [...]."""
    vector: np.ndarray = np.eye(n, dtype=np.float32)[index]
    return vector


def one_hot_space(space: gym.spaces.Discrete) -> gym.spaces.Box:
    return gym.spaces.Box(0.0, 1.0, (int(space.n),), np.float32)


def make_config(
    algorithm: str,
    *,
    env: Mapping[str, Any],
    observation_space: gym.Space,
    action_space: gym.Space,
    num_envs: int,
    env_runners: int,
    learners: int,
    gpu: bool,
    seed: int,
    lr: float | None,
    gamma: float | None,
    batch_size: int | None,
    hidden: list[int] | None,
    iteration_env_steps: int,
    planned_env_steps: int | None,
    settings: Mapping[str, Any],
) -> AlgorithmConfig:
    """The config of an algorithm, checked; see `RLlib` for the arguments.

    Raises:
        ValueError: what can't be, in one line.
    """
    config = _default_config(algorithm)
    for name in ("ray", "ray.rllib"):  # it warns of its own defaults
        logging.getLogger(name).setLevel(logging.ERROR)
    checked = dict(_checked(config, settings))
    share = max(1, env_runners)
    sizes = {"agent.env_runners": env_runners, "env.num_envs": num_envs}
    require_divisible({"env_runners": "env.num_envs"}, sizes, group="agent")
    if isinstance(observation_space, gym.spaces.Discrete):
        observation_space = one_hot_space(observation_space)
    if isinstance(action_space, gym.spaces.Discrete):
        action_space = gym.spaces.Discrete(int(action_space.n))
    with _one_line(f"agent.algorithm={algorithm}"):
        config.environment(GymEnv, env_config=dict(env), observation_space=observation_space, action_space=action_space)
        config.debugging(seed=seed, log_level="ERROR")
        config.env_runners(num_env_runners=env_runners, num_envs_per_env_runner=num_envs // share)
        config.learners(num_learners=learners, num_gpus_per_learner=int(gpu))
        given: dict[str, Any] = {"lr": lr, "gamma": gamma, "train_batch_size_per_learner": batch_size}
        if planned_env_steps is not None:
            share = max(1, planned_env_steps // 10)
            iteration_env_steps = min(iteration_env_steps, share)
            known = {name for name, value in given.items() if value is not None} | set(checked.get("training", {}))
            config.training(**within(config, max(num_envs, share // max(1, learners)), known))
        config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=iteration_env_steps)
        config.training(**{name: value for name, value in given.items() if value is not None})
    model = dict(checked.get("rl_module", {}).get("model_config") or {})
    if hidden is not None:
        model.setdefault("fcnet_hiddens", list(hidden))
    if model:
        _require_known("agent.settings.rl_module.model_config", model, [f.name for f in fields(DefaultModelConfig)])
        checked["rl_module"] = {**checked.get("rl_module", {}), "model_config": model}
    for section, values in checked.items():
        with _one_line(f"agent.settings.{section}"):
            getattr(config, section)(**values)
    with _one_line(f"agent.algorithm={algorithm}"):
        config.validate()
    return config


def within(config: AlgorithmConfig, env_steps: int, given: Collection[str]) -> dict[str, Any]:
    """Keywords of `training` with which an algorithm collects no more than so many env steps for a batch of its own, or
    before its first update where it learns from old ones.

    Args:
        given: the keywords that the user has set, and keeps.
    """
    if hasattr(config, "replay_buffer_config"):
        name = "num_steps_sampled_before_learning_starts"
        default = getattr(config, name, None)
        return {name: min(default, env_steps)} if default is not None and name not in given else {}
    if {"train_batch_size_per_learner", "train_batch_size", "minibatch_size"} & set(given):
        return {}
    batch = min(config.train_batch_size_per_learner, env_steps)
    minibatch = getattr(config, "minibatch_size", None)  # no batch may be smaller
    smaller = {"minibatch_size": min(minibatch, batch)} if isinstance(minibatch, int) else {}
    return {"train_batch_size_per_learner": batch, **smaller}


def cpus(config: AlgorithmConfig) -> int:
    """How many CPUs RLlib's actors ask Ray for, and one for the process that drives them."""
    runners = config.num_env_runners * config.num_cpus_per_env_runner
    per_learner = config.num_cpus_per_learner
    learners = config.num_learners * (per_learner if isinstance(per_learner, int) else 1)
    return int(1 + runners + learners + max(1, config.num_learners) * config.num_aggregator_actors_per_learner)


def in_placement_group() -> bool:
    """Whether this process is a worker of a run on Ray, whose placement group has no room for RLlib's actors."""
    return ray.is_initialized() and ray.util.get_current_placement_group() is not None


def _default_config(algorithm: str) -> AlgorithmConfig:
    names = sorted(set(ALGORITHMS) - set(OFFLINE))
    if algorithm in OFFLINE:
        raise ValueError(
            f"agent.algorithm={algorithm} learns from recorded data, not from an env; valid: {', '.join(names)}"
        )
    if algorithm not in ALGORITHMS:
        near = difflib.get_close_matches(str(algorithm).upper(), names, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"agent.algorithm={algorithm}: RLlib has no such algorithm; {hint}valid: {', '.join(names)}")
    config: AlgorithmConfig = ALGORITHMS[algorithm]()[1]
    return config


# ----------------------------------------------------------------------------------------------- settings


def _checked(config: AlgorithmConfig, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sections of `settings` with their values, as the config's methods take them."""
    _require_known("agent.settings", settings, SECTIONS)
    for section, values in settings.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"agent.settings.{section}={values}: must be a group of keys")
        _require_known(f"agent.settings.{section}", values, _keywords(type(config), section))
        yield section, {key: _value(f"agent.settings.{section}.{key}", value) for key, value in values.items()}


def _keywords(config: type, section: str) -> list[str]:
    """The keywords of `section`, a method of RLlib's config that passes on those that it does not know to its base."""
    found: dict[str, None] = {}
    for base in config.__mro__:
        if section in vars(base):
            every = inspect.signature(vars(base)[section]).parameters.values()
            found |= dict.fromkeys(
                p.name for p in every if p.kind is p.KEYWORD_ONLY and p.default is not DEPRECATED_VALUE
            )
    return list(found)


def _require_known(path: str, given: Mapping[str, Any], valid: list[str] | tuple[str, ...]) -> None:
    for key in given:
        if key not in valid:
            near = difflib.get_close_matches(str(key), valid, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(sorted(valid))}"
            raise ValueError(f"{path}.{key}: RLlib takes no such setting; {hint}")


def _value(path: str, value: Any) -> Any:
    """A value without anything that RLlib would import by its name."""
    if isinstance(value, Mapping):
        return {key: _value(f"{path}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(f"{path}.{i}", item) for i, item in enumerate(value)]
    if isinstance(value, functools.partial) and not value.args and not value.keywords:
        return value.func
    if isinstance(value, bytes) or (isinstance(value, str) and not WORD.fullmatch(value)):
        raise ValueError(
            f"{path}={value!r}: RLlib might import and run it; name a class of yours as "
            "{_target_: mymodule.MyClass, _partial_: true}"
        )
    return value


@contextlib.contextmanager
def _one_line(path: str) -> Iterator[None]:
    """RLlib's errors, which are paragraphs, as their first sentence."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"{path}: {first_sentence(error)}") from error


def first_sentence(error: BaseException) -> str:
    """What an error of RLlib's says first, without its line breaks."""
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return re.split(r"(?<=[.!])\s", text)[0].rstrip(".!")
