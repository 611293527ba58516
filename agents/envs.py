"""Environments in batches, all behind one small protocol: native ones in torch, any gymnasium id.

An env whose episode ends begins the next one within the same step, and the step returns both the last observation of
the one and the first of the other. Vector envs that do it otherwise: see `vector_envs`.

Shapes: N envs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
from torch import Tensor

from trivium.learner import Run


class Step(NamedTuple):
    """One transition of each env.

    Args:
        obs: [N, ...], what to act on next; where the episode ended, the first observation of the next one.
        reward: float32 [N].
        terminated: bool [N], the MDP ended: the future is worth 0.
        truncated: bool [N], cut from outside (a time limit): the future is worth V(next_obs). May be True together
            with `terminated`, which then counts.
        next_obs: [N, ...], what this transition led to; where the episode ended, its last observation; elsewhere
            equal to `obs`.
        live: bool [N], False where it is no transition: the env ignored the action and began its next episode. Never so
            in an episode's first step. None: live everywhere, as in all envs but those of `VectorEnvs` that begin an
            episode in a step of its own.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    next_obs: Tensor
    live: Tensor | None = None


class Envs(Protocol):
    """N copies of an env, stepped together. Tensors live on one device and are not written to after they are returned.

    Observations of Box spaces are float32, or uint8 where the space is; of Discrete ones int64 in [0, n); composed
    ones are packed, see `observations`. Discrete actions are int64 [N] in [0, n), whatever the space's `start`;
    MultiDiscrete and MultiBinary ones int64 [N, H]; Box ones float [N, *shape], which envs of gymnasium's API get
    clipped to the bounds, in the space's dtype, and rounded if that is of integers (`env_api.actions_to_numpy`).

    Attributes:
        num_envs: N.
        observation_space, action_space: of a single env.
        obs: the current observations, [N, ...]; valid after `reset` or `load_state_dict`.
    """

    num_envs: int
    observation_space: gym.Space
    action_space: gym.Space

    @property
    def obs(self) -> Tensor: ...

    def reset(self, *, reseed: bool = False) -> Tensor:
        """Begin a new episode in every env and return `obs`. The first call seeds the envs; later ones go on in
        their streams of randomness, or with `reseed` start them again: the same episodes for the same actions."""
        ...

    def step(self, action: Tensor) -> Step: ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, mid-episode too, as tensors, numbers and strings."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        """Take back a state of envs built alike; resume with the property `obs`.

        Returns:
            bool [N], True where an env could not be brought back to where it was and began a new episode instead.

        Raises:
            ValueError: saved with another number of envs.
        """
        ...


@runtime_checkable
class PureEnvs(Envs, Protocol):
    """`Envs` whose step is a pure function of tensors: many of them compile into one graph with the agent's part.

    Attributes:
        state: all that `transition` depends on; assigned by who calls it.
    """

    state: tuple[Tensor, ...]

    def draw(self, num_steps: int) -> Tensor:
        """The randomness of so many steps, [T, N, ...], drawn beforehand."""
        ...

    def transition(self, state: tuple[Tensor, ...], action: Tensor, draw: Tensor) -> tuple[tuple[Tensor, ...], Step]:
        """From a state, actions and the draws of one step to the next state and what `step` returns."""
        ...


def make(
    *,
    id: str,
    num_envs: int,
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
    # These import this file.
    from trivium.agents.classic_control import TASKS, ClassicControl
    from trivium.agents.gym_envs import GymEnvs

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
        from trivium.agents.make_vector import make_vector_envs

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
