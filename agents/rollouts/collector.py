"""Acting in environments: rollouts, the same way for every agent, whatever steps the envs.

Shapes: T time, N envs of this worker, M numbers in the state of a memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from trivium.agents.attributes import to_tensors
from trivium.agents.envs.protocol import Envs, PureEnvs
from trivium.agents.envs.wrapper_state import State
from trivium.agents.returns import mean_where, running_sum
from trivium.learner import Run
from trivium.saved import like, require_count

BLOCK = 8  # steps of envs in one compiled graph

Act = Callable[..., tuple[Tensor, Tensor, tuple[Tensor, ...]]]
"""From observations [N, ...], the memory's state [N, M] and the noise of this step to the actions as the envs take
them, the next state, and what the agent wants to keep, [N, ...] each."""


class Rollout(NamedTuple):
    """What was seen, [T, N, ...] each; see `envs.Step`.

    Args:
        obs: what was acted on.
        reward: float32.
        terminated, truncated: bool.
        next_obs: what it led to, the episode's own last observation where it ended.
        kept: what `act` wanted to keep.
        live: bool, False where it is no transition and must have no weight: a copy of the one before it, which ended
            an episode, so that nothing leads from one episode to the next here either. None: live everywhere, see
            `envs.Step`.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    next_obs: Tensor
    kept: tuple[Tensor, ...]
    live: Tensor | None = None

    @property
    def ended(self) -> Tensor:
        """bool [T, N], terminated or truncated."""
        return self.terminated | self.truncated

    @property
    def action(self) -> Tensor:
        """[T, N, ...], what was done: every agent keeps it first."""
        return self.kept[0]


class InProgress(NamedTuple):
    """What the episodes in progress have come to so far, float32 [N] each; 0 where one has just begun.

    Args:
        return_N: the sum of their rewards.
        length_N: in env steps.
    """

    return_N: Tensor
    length_N: Tensor

    @classmethod
    def none(cls, num_envs: int, device: torch.device) -> InProgress:
        """Before the first step."""
        return cls(torch.zeros(num_envs, device=device), torch.zeros(num_envs, device=device))

    def loaded(self, state: Mapping[str, Any], begun_anew_N: Tensor) -> InProgress:
        """What a collector's state holds of it, and 0 where bool [N] says that a new episode has begun."""
        return InProgress(
            like(state["return"], self.return_N, "return").masked_fill(begun_anew_N, 0.0),
            like(state["length"], self.length_N, "length").masked_fill(begun_anew_N, 0.0),
        )


class Collector:
    """The envs that an agent learns in, and where it is in them.

    Args:
        run: where this worker runs. With `run.compile`, what can be is compiled: of envs that are pure functions
            `BLOCK` steps in one graph, else the agent's part of a step.
        envs: reset by this.
        act: see `Act`.
        state_size: M.

    Attributes:
        env_steps: taken so far, over all workers; those that only begin an episode too.
        state_NM: of the memory; 0 where an episode has just begun.
        begins_N: bool [N], where it has.
        in_progress: of the episodes; kept up to date by the agents, see `episodes`.
    """

    spaces: tuple[gym.Space, gym.Space]  # of the observations and the actions of one env; see `make_collector`

    def __init__(self, *, run: Run, envs: Envs, act: Act, state_size: int = 0) -> None:
        self.run = run
        self.envs = envs
        self.num_envs = envs.num_envs
        self.env_steps = 0
        self.obs = envs.reset()
        self.state_NM = torch.zeros(envs.num_envs, state_size, device=run.device)
        self.begins_N = torch.ones(envs.num_envs, dtype=torch.bool, device=run.device)
        self.in_progress = InProgress.none(envs.num_envs, run.device)
        self._pure = envs if isinstance(envs, PureEnvs) else None
        self._dead_steps: bool = getattr(envs, "dead_steps", False)
        self._last_row: list[Tensor] = []
        self._act = act
        self._compiled_act = run.compiled(act)
        self._compiled_block = run.compiled(self._block)

    def reset(self) -> None:
        """Begin a new episode in every env."""
        self.obs = self.envs.reset()
        self.state_NM = torch.zeros_like(self.state_NM)
        self.begins_N = torch.ones_like(self.begins_N)
        self.in_progress = InProgress.none(self.num_envs, self.run.device)

    def close(self) -> None:
        """End what the envs hold beside memory, such as processes."""
        getattr(self.envs, "close", lambda: None)()

    def kept(self) -> State:
        """What evaluation needs of what the envs' wrappers keep, see `wrapper_state.merged`."""
        kept: State = getattr(self.envs, "kept", dict)()
        return kept

    @torch.no_grad()
    def collect(self, *noise: Tensor) -> Rollout:
        """A rollout of as many steps as the noise, [T, ...] each, is for; `act` is given that of one step."""
        num_steps = len(noise[0])
        self.env_steps += num_steps * self.envs.num_envs * self.run.world_size
        if self._pure is not None:
            columns = self._by_blocks(self._pure, num_steps, noise)
        else:
            columns = self._step_by_step(num_steps, noise)
        live = columns.pop() if self._dead_steps else None
        obs, reward, terminated, truncated, next_obs, *kept = columns
        self.begins_N = terminated[-1] | truncated[-1]
        return Rollout(obs, reward, terminated, truncated, next_obs, tuple(kept), live)

    def _by_blocks(self, envs: PureEnvs, num_steps: int, noise: tuple[Tensor, ...]) -> list[Tensor]:
        draw_T = envs.draw(num_steps)
        size = BLOCK if self.run.compile else num_steps
        parts = []
        for t in range(0, num_steps, size):
            state, self.obs, self.state_NM, columns = self._compiled_block(
                envs.state, self.obs, self.state_NM, draw_T[t : t + size], *(one[t : t + size] for one in noise)
            )
            envs.state = state
            parts.append(columns)
        if len(parts) == 1:
            return parts[0]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _block(
        self, env_state: tuple[Tensor, ...], obs: Tensor, state_NM: Tensor, draw_T: Tensor, *noise: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor, list[Tensor]]:
        """Some steps of pure envs, itself a pure function."""
        assert self._pure is not None
        rows = []
        for draw, *noise_N in zip(draw_T.unbind(), *(one.unbind() for one in noise), strict=True):
            action, state_NM, kept = self._act(obs, state_NM, *noise_N)
            env_state, step = self._pure.transition(env_state, action, draw)
            rows.append((obs, step.reward, step.terminated, step.truncated, step.next_obs, *kept))
            obs, state_NM = step.obs, self._begun_anew(state_NM, step.terminated | step.truncated)
        return env_state, obs, state_NM, [torch.stack(column) for column in zip(*rows, strict=True)]

    def _step_by_step(self, num_steps: int, noise: tuple[Tensor, ...]) -> list[Tensor]:
        rows = []
        for t in range(num_steps):
            action, self.state_NM, kept = self._compiled_act(self.obs, self.state_NM, *(one[t] for one in noise))
            step = self.envs.step(action)
            row = [self.obs, step.reward, step.terminated, step.truncated, step.next_obs, *kept]
            anew_N = step.terminated | step.truncated
            if step.live is not None:
                row, anew_N = self._without_dead(row, step.live), anew_N | ~step.live
            rows.append(row)
            self.obs = step.obs
            self.state_NM = self._begun_anew(self.state_NM, anew_N)
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def _without_dead(self, row: list[Tensor], live_N: Tensor) -> list[Tensor]:
        """A row in which a copy of the transition before, which ended an episode, stands for what is none; and what is
        live."""
        if self._last_row:
            row = [
                torch.where(live_N.view(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(row, self._last_row, strict=True)
            ]
        self._last_row = row
        return [*row, live_N]

    def _begun_anew(self, state_NM: Tensor, ended_N: Tensor) -> Tensor:
        return state_NM.masked_fill(ended_N.unsqueeze(1), 0.0) if state_NM.shape[1] else state_NM

    def state_dict(self) -> dict[str, Any]:
        return {
            "env_steps": self.env_steps,
            "envs": self.envs.state_dict(),
            "kept": to_tensors(self.kept()),
            "state": self.state_NM,
            "begins": self.begins_N,
            "return": self.in_progress.return_N,
            "length": self.in_progress.length_N,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        """Take it back; bool [N], see `Envs.load_state_dict`."""
        self.env_steps = require_count(state["env_steps"], "env_steps")
        begun_anew_N = self.envs.load_state_dict(state["envs"])
        self.obs = self.envs.obs
        self.state_NM = self._begun_anew(like(state["state"], self.state_NM, "state"), begun_anew_N)
        self.begins_N = like(state["begins"], self.begins_N, "begins") | begun_anew_N
        self.in_progress = self.in_progress.loaded(state, begun_anew_N)
        return begun_anew_N


def episodes(
    reward_TN: Tensor, ended_TN: Tensor, in_progress: InProgress, live_TN: Tensor | None = None
) -> tuple[dict[str, Tensor], InProgress]:
    """The mean return and length of the episodes that ended in a rollout, NaN if none did; and the episodes that are
    in progress after it.

    Args:
        reward_TN, ended_TN, live_TN: see `Rollout`.
        in_progress: before the rollout.
    """
    return_TN, return_N = running_sum(reward_TN, ended_TN, in_progress.return_N)
    length_TN, length_N = running_sum(torch.ones_like(reward_TN), ended_TN, in_progress.length_N)
    if live_TN is not None:
        ended_TN = ended_TN & live_TN
    metrics = {"episode_return": mean_where(return_TN, ended_TN), "episode_length": mean_where(length_TN, ended_TN)}
    return metrics, InProgress(return_N, length_N)
