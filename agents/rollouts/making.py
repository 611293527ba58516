"""Collectors: in this process, or on Ray actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trivium.agents.envs.protocol import Envs
from trivium.agents.rollouts.collector import Act, Collector
from trivium.learner import Run

if TYPE_CHECKING:
    from trivium.agents.rollouts.env_runners import EnvRunners


def make_collector(
    *,
    run: Run,
    env: Callable[..., Envs],
    envs: Envs,
    act: Act,
    num_runners: int,
    timeout_s: float,
    state_size: int = 0,
) -> Collector | EnvRunners:
    """A `Collector` in this process, or `EnvRunners` if `num_runners` is not 0.

    Args:
        env: makes envs; see `EnvRunners`.
        envs: what `training_envs` returned.
    """
    spaces = envs.observation_space, envs.action_space
    if not num_runners:
        collector = Collector(run=run, envs=envs, act=act, state_size=state_size)
        collector.spaces = spaces
        return collector
    from trivium.agents.rollouts.env_runners import EnvRunners  # needs Ray

    getattr(envs, "close", lambda: None)()
    num_envs = run.share(getattr(env, "keywords", {})["num_envs"], "env.num_envs")
    runners = EnvRunners(
        run=run,
        env=env,
        act=act,
        num_runners=num_runners,
        num_envs=num_envs,
        state_size=state_size,
        timeout_s=timeout_s,
    )
    runners.spaces = spaces
    return runners


def training_envs(run: Run, env: Callable[..., Envs], num_runners: int) -> tuple[Envs, int]:
    """Envs to know the spaces from, and how many this worker trains in. With runners it is a single one, of no use
    but that."""
    if not num_runners:
        envs = env(run=run, stream="train")
        return envs, envs.num_envs
    keywords = getattr(env, "keywords", {})
    if "num_envs" not in keywords:
        raise ValueError(
            "agent.env_runners needs envs made by `trivium.agents.envs.environment.make`: choose env=gymnasium"
        )
    return env(run=run, stream="train", part=range(1)), run.share(keywords["num_envs"], "env.num_envs")
