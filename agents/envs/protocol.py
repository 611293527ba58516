"""Environments in batches, all behind one small protocol: native ones in torch, any gymnasium id.

An env whose episode ends begins the next one within the same step, and the step returns both the last observation of
the one and the first of the other. Vector envs that do it otherwise: see `vector_envs`.

Shapes: N envs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
from torch import Tensor


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
