"""Environments made from their ids: Trivium's own batched ones, Gymnasium's, vector envs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import gymnasium as gym

from trivium.agents.envs.classic_control import TASKS, ClassicControl
from trivium.agents.envs.gym_envs import GymEnvs
from trivium.agents.envs.protocol import Envs
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Range
from trivium.learner import Run


@checks_keywords
def make(
    *,
    id: str,
    num_envs: Annotated[int, Range(ge=1, le=1_000_000)],
    run: Run,
    stream: str,
    native: bool = True,
    wrappers: Sequence[str | Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
    vector: Literal["sync", "async", "own", "envpool"] | None = None,
    vector_settings: Mapping[str, Any] | None = None,
    part: range | None = None,
    episodes: range | None = None,
    make_env: Callable[..., gym.Env] = gym.make,
) -> Envs:
    """Build envs from their gymnasium id; the target of the config group `env`.

    Args:
        id: a registered id, or `module:id` to import the module that registers it.
        num_envs: of the whole run, divided among the workers, for the stream `train` and for `episodes`; else of this
            worker.
        run: gives the device and, with the worker's rank and `stream`, the seeds.
        stream: `train`, `eval` or `test`: each has episodes of its own.
        native: use Trivium's batched implementation where there is one (`classic_control.TASKS`).
        wrappers: gymnasium's, by name, the innermost first: `FrameStackObservation`, or with keywords as
            `{FrameStackObservation: {stack_size: 4}}`.
        settings: keywords for the env itself, as `gymnasium.make` takes them.
        vector: how they are stepped: by gymnasium's `SyncVectorEnv`, by its `AsyncVectorEnv` with a process for each,
            by the id's own vector env (its `vector_entry_point`), or by EnvPool, under its id there. None: by Trivium,
            one after another. See `vector_envs`.
        vector_settings: keywords of the vector env, for `sync` and `async`.
        part: only these of the worker's envs; None: all.
        episodes: play just these of the stream's episodes, see `EpisodicEnvs`: the same ones whatever `num_envs` and
            `vector` are, which is at most how many envs there are. Trivium's own batched envs are as many as episodes.
        make_env: makes a single env of the id; another than gymnasium's own, such as `play.Camera`, is always used.

    Raises:
        ValueError: the id or a wrapper is unknown or its package is missing, a space is not supported, or `num_envs`
            is not a positive multiple of the number of workers.
    """
    if stream == "train" or episodes is not None:
        num_envs = run.share(num_envs, "env.num_envs")
    if native and id in TASKS and not wrappers and not settings and not vector and make_env is gym.make:
        seed = run.seed_for("env", stream, run.rank, *([part.start] if part else []))
        return ClassicControl(id=id, num_envs=len(episodes or part or range(num_envs)), seed=seed, device=run.device)
    # 31 bits: some simulators take no longer seeds
    if episodes is not None:
        seeds = [run.seed_for("env", stream, 0, i) % 2**31 for i in episodes]
    else:
        seeds = [run.seed_for("env", stream, run.rank, i) % 2**31 for i in part or range(num_envs)]
    at_once = None if episodes is None else min(num_envs, len(episodes))
    if vector and make_env is gym.make:
        from trivium.agents.envs.make_vector import make_vector_envs

        return make_vector_envs(
            id=id,
            seeds=seeds,
            device=run.device,
            wrappers=wrappers,
            settings=settings or {},
            kind=vector,
            vector_settings=vector_settings or {},
            at_once=at_once,
        )
    return GymEnvs(
        id=id,
        seeds=seeds,
        device=run.device,
        wrappers=wrappers,
        settings=settings or {},
        make_env=make_env,
        at_once=at_once,
    )
