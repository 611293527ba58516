"""What off-policy agents learn from: a ring of past transitions on the device, n-step returns, priorities.

Shapes: T rows of a rollout, R rows of the ring, N envs of this worker, B batch, K steps ahead. A row holds one
transition of each env; transition (r, n) has the flat index r * N + n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trivium.agents.rollouts.collector import Rollout
from trivium.saved import like, require_count, require_like


class Transitions(NamedTuple):
    """What was seen, [T, N, ...] each; see `envs.Step`.

    Args:
        obs: what was acted on.
        action: int64.
        reward: float32.
        terminated, truncated: bool.
        next_obs: what it led to, the episode's own last observation where it ended.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    next_obs: Tensor


class Batch(NamedTuple):
    """What a Q function learns from: Q(obs, action) -> return + discount * V(next_obs).

    Args:
        obs: [B, ...].
        action: int64 [B].
        return_: float32 [B], the discounted rewards of the k <= n steps from obs on.
        discount: float32 [B], gamma^k; 0 where the last of these steps terminated.
        next_obs: [B, ...], what the last of these steps led to.
    """

    obs: Tensor
    action: Tensor
    return_: Tensor
    discount: Tensor
    next_obs: Tensor


def n_step_return(
    reward_BK: Tensor, terminated_BK: Tensor, cut_BK: Tensor, *, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """R = sum_{j<k} gamma^j r_j, over the k steps up to the first cut, K if there is none (Sutton 1988).

    Args:
        reward_BK: float32 [B, K], of K consecutive steps; whatever follows a cut is not looked at.
        terminated_BK: bool [B, K], the MDP ended: no bootstrap.
        cut_BK: bool [B, K], nothing belongs together beyond this step: the episode ended, or nothing newer is known.
        gamma: discount per step, in [0, 1].

    Returns:
        float32 [B], R; float32 [B], gamma^k, 0 where the last step terminated; int64 [B], k - 1 in [0, K).

    Example:
        r=[1,2,4], gamma=0.5, truncated at step 1 -> 2, 0.25, 1; terminated there -> 2, 0, 1; no cut -> 3, 0.125, 2.
    """
    cuts_BK = cut_BK.cumsum(1)
    counts_BK = (cuts_BK - cut_BK.long()) == 0
    last_B = counts_BK.sum(1) - 1
    gamma_K = gamma ** torch.arange(reward_BK.shape[1], device=reward_BK.device)
    return_B = (reward_BK.masked_fill(~counts_BK, 0.0) * gamma_K).sum(1)
    terminated_B = terminated_BK.gather(1, last_B.unsqueeze(1)).squeeze(1)
    return return_B, (gamma * gamma_K[last_B]).masked_fill(terminated_B, 0.0), last_B


class Replay:
    """The last R rows of transitions, as preallocated tensors; observations keep their dtype (uint8 stays uint8).

    Both observations of a transition are kept: twice the memory, and no special case at the ends of episodes.
    A step that is not live keeps its place, so that a row is one step of all envs, but is never drawn; since it comes
    after an end, no look ahead reaches it.

    Args:
        num_rows: R, at least 1; with dead steps 2.
        obs: [N, ...], an example of the observations of all envs: shape, dtype and device are taken from it.
        dead_steps: whether rollouts have steps that are not live.
    """

    def __init__(self, *, num_rows: int, obs: Tensor, dead_steps: bool = False) -> None:
        def ring(dtype: torch.dtype, shape: tuple[int, ...] = ()) -> Tensor:
            return torch.zeros(num_rows, len(obs), *shape, dtype=dtype, device=obs.device)

        self.num_rows = num_rows
        self.num_envs = len(obs)
        self.rows = Transitions(
            obs=ring(obs.dtype, obs.shape[1:]),
            action=ring(torch.int64),
            reward=ring(torch.float32),
            terminated=ring(torch.bool),
            truncated=ring(torch.bool),
            next_obs=ring(obs.dtype, obs.shape[1:]),
        )
        self.flat = Transitions(*(tensor.flatten(0, 1) for tensor in self.rows))  # views
        self.live_RN = ring(torch.bool) if dead_steps else None
        self.position = 0  # the row that is written next
        self.filled = 0  # rows that hold something: the first ones

    def __len__(self) -> int:
        """How many steps there are; their indices are 0 .. len - 1."""
        return self.filled * self.num_envs

    def add(self, rollout: Rollout) -> Tensor:
        """Write a rollout of T <= R steps over the oldest rows; their indices, int64 [T * N]."""
        steps = len(rollout.reward)
        assert steps <= self.num_rows
        device = self.rows.reward.device
        row_T = (torch.arange(steps, device=device) + self.position) % self.num_rows
        for name, kept in self._columns().items():
            kept.index_copy_(0, row_T, getattr(rollout, name))
        self.position = (self.position + steps) % self.num_rows
        self.filled = min(self.filled + steps, self.num_rows)
        env_N = torch.arange(self.num_envs, device=device)
        return (row_T.unsqueeze(1) * self.num_envs + env_N).flatten()

    def sample(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """int64 [B], indices drawn uniformly with replacement, of what is live."""
        device = self.rows.reward.device
        if self.live_RN is None:
            return torch.randint(len(self), (batch_size,), generator=generator, device=device)
        live = self.live_RN[: self.filled].flatten().nonzero().squeeze(1)
        return live[torch.randint(len(live), (batch_size,), generator=generator, device=device)]

    def batch(self, index_B: Tensor, *, num_steps: int, gamma: float) -> Batch:
        """The transitions of these indices, looking `num_steps` ahead where the episode and the ring go on so far."""
        flat = self.flat
        if num_steps == 1:
            discount_B = gamma * flat.terminated[index_B].logical_not()
            return Batch(
                flat.obs[index_B], flat.action[index_B], flat.reward[index_B], discount_B, flat.next_obs[index_B]
            )
        ahead_K = torch.arange(num_steps, device=index_B.device) * self.num_envs
        index_BK = (index_B.unsqueeze(1) + ahead_K) % len(self.flat.reward)
        terminated_BK = flat.terminated[index_BK]
        newest = (self.position - 1) % self.num_rows
        cut_BK = terminated_BK | flat.truncated[index_BK] | (index_BK // self.num_envs == newest)
        return_B, discount_B, last_B = n_step_return(flat.reward[index_BK], terminated_BK, cut_BK, gamma=gamma)
        last_index_B = index_BK.gather(1, last_B.unsqueeze(1)).squeeze(1)
        return Batch(flat.obs[index_B], flat.action[index_B], return_B, discount_B, flat.next_obs[last_index_B])

    def cut(self, env_N: Tensor) -> None:
        """Say that in these envs, bool [N], the next row to be added does not follow the last one."""
        self.rows.truncated[(self.position - 1) % self.num_rows] |= env_N

    def state_dict(self) -> dict[str, Any]:
        # A slice would be saved with all the memory that it is a view of.
        rows = {
            name: tensor if self.filled == self.num_rows else tensor[: self.filled].clone()
            for name, tensor in self._columns().items()
        }
        return {"position": self.position, "num_rows": self.num_rows, "rows": rows}

    def _columns(self) -> dict[str, Tensor]:
        return self.rows._asdict() | ({} if self.live_RN is None else {"live": self.live_RN})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state of a ring of the same shape.

        Raises:
            ValueError: of another shape.
        """
        saved = (state["num_rows"], state["rows"]["reward"].shape[1])
        if saved != (self.num_rows, self.num_envs):
            raise ValueError(
                f"saved with a replay buffer of {saved[0]} steps of {saved[1]} envs on this worker, now there are "
                f"{self.num_rows} of {self.num_envs}"
            )
        filled, position = len(state["rows"]["reward"]), require_count(state["position"], "replay.position")
        if filled > self.num_rows or (position != filled % self.num_rows and filled < self.num_rows):
            raise ValueError(f"replay.position is {position} of {filled} rows")
        require_like(state["rows"], {name: t[:filled] for name, t in self._columns().items()}, "replay.rows")
        self.position, self.filled = position % self.num_rows, filled
        for name, tensor in self._columns().items():
            tensor[: self.filled] = state["rows"][name]


FAN_OUT = 64


class SumTree:
    """Non-negative weights, and drawing an index in proportion to them in O(log size), for a whole batch at once.

    Each node is the sum of 64 below it: three levels hold 262,144 weights, and a level costs a handful of tensor
    operations whatever the batch; a binary tree would take 18 levels. Sums are always computed anew from the nodes
    below, so that rounding errors do not add up.

    Args:
        size: how many weights, all 0 at first.
        device: where they live.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.levels: list[Tensor] = []  # float64 [nodes, 64] each, the weights themselves first
        while True:
            nodes = -(-size // FAN_OUT)
            self.levels.append(torch.zeros(nodes, FAN_OUT, dtype=torch.float64, device=device))
            if nodes == 1:
                break
            size = nodes
        ones = torch.ones(FAN_OUT, FAN_OUT, dtype=torch.float64, device=device)
        self._below = ones.triu(1)  # times this: sums of what is before, which `cumsum` on a GPU does in no fixed order

    @property
    def total(self) -> Tensor:
        """The sum of all weights, 0-d float64."""
        return self.levels[-1].sum()

    def __getitem__(self, index_B: Tensor) -> Tensor:
        """The weights at int64 [B], float64 [B]."""
        return self.levels[0].view(-1)[index_B]

    def set(self, index_B: Tensor, weight_B: Tensor) -> None:
        """Set the weights at int64 [B] to float [B] >= 0; of one index given twice, either weight may win."""
        values_B = weight_B.double()
        for level in self.levels:
            level.view(-1)[index_B] = values_B
            index_B = index_B // FAN_OUT
            values_B = level[index_B].sum(1)

    def find(self, quantile_B: Tensor) -> Tensor:
        """The index i with sum_{j<i} w_j <= quantile * total < sum_{j<=i} w_j, never one of weight 0.

        Args:
            quantile_B: float64 [B] in [0, 1).

        Returns:
            int64 [B].
        """
        node_B1 = torch.zeros(len(quantile_B), 1, dtype=torch.int64, device=quantile_B.device)
        rest_B1 = quantile_B.unsqueeze(1) * self.total
        for level in reversed(self.levels):
            weight_BF = level[node_B1.squeeze(1)]
            below_BF = weight_BF @ self._below
            # Rounding must not lead out of the node, nor to a weight of 0 at its end.
            rest_B1 = rest_B1.minimum((below_BF + weight_BF)[:, -1:] * (1 - 1e-15))
            child_B1 = (below_BF <= rest_B1).sum(1, keepdim=True) - 1
            rest_B1 = rest_B1 - below_BF.gather(1, child_B1)
            node_B1 = node_B1 * FAN_OUT + child_B1
        return node_B1.squeeze(1)


class Priorities:
    """Proportional prioritised replay (arXiv:1511.05952): P(i) = p_i^alpha / sum_j p_j^alpha, p_i = |error_i| + 1e-6.

    New transitions get the largest priority so far, so that each is likely to be seen. As in the paper, a batch
    takes one draw from each of B equal parts of the probability mass. Weights are divided by the largest of the batch.

    Args:
        size: of the whole replay buffer, in transitions.
        alpha: in [0, 1]; 0 is uniform.
        device: where they live.
    """

    def __init__(self, size: int, *, alpha: float, device: torch.device) -> None:
        self.alpha = alpha
        self.tree = SumTree(size, device)
        self.largest = torch.ones((), device=device)

    def add(self, index_B: Tensor, live_TN: Tensor | None = None) -> None:
        """Give new transitions the largest priority so far; and 0, never to be drawn, to steps that are no transitions.

        Args:
            index_B: int64 [T * N], of a rollout, see `Replay.add`.
            live_TN: see `Rollout`.
        """
        weight_B = (self.largest**self.alpha).expand(len(index_B))
        self.tree.set(index_B, weight_B if live_TN is None else weight_B.masked_fill(~live_TN.flatten(), 0.0))

    def update(self, index_B: Tensor, error_B: Tensor) -> None:
        """Priorities from new errors, float32 [B], of either sign."""
        priority_B = error_B.abs() + 1e-6
        self.largest = torch.maximum(self.largest, priority_B.max())
        self.tree.set(index_B, priority_B**self.alpha)

    def sample(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """int64 [B], indices drawn in proportion to p^alpha."""
        device = self.largest.device
        part_B = torch.arange(batch_size, device=device)
        part_B = part_B + torch.rand(batch_size, generator=generator, dtype=torch.float64, device=device)
        return self.tree.find(part_B / batch_size)

    def weights(self, index_B: Tensor, num_transitions: int, *, beta: float) -> Tensor:
        """w = (num_transitions * P)^-beta / max w, float32 [B] in (0, 1]: what undoes the bias, wholly for beta 1.

        `num_transitions` is how many there are; the largest is divided by it too."""
        weight_B = (num_transitions * self.tree[index_B] / self.tree.total) ** -beta
        return (weight_B / weight_B.max()).float()

    def state_dict(self, num_transitions: int) -> dict[str, Any]:
        """What is known of the first so many, the only ones that have a priority."""
        levels, nodes = [], num_transitions
        for level in self.tree.levels:
            nodes = -(-nodes // FAN_OUT)
            levels.append(level if nodes == len(level) else level[:nodes].clone())
        return {"largest": self.largest, "levels": levels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.largest = like(state["largest"], self.largest, "priorities.largest")
        for level, saved in zip(self.tree.levels, state["levels"], strict=True):
            require_like(saved, level[: len(saved)], "priorities.levels")
            level[: len(saved)] = saved
            level[len(saved) :] = 0
