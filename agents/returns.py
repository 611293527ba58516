"""From rewards to returns and advantages: pure functions of rollouts.

Shapes: T time, N envs. `terminated`: the MDP ended. `ended`: terminated or truncated. `live`: what counts, see
`collector.Rollout`; what does not may be any number.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_shapes(**tensors: Tensor | None) -> None:
    """Refuse tensors of different shapes, which broadcasting would turn into a wrong number: [B] against [B, 1] is
    [B, B]. A tensor that is None is left out.

    Raises:
        ValueError: names every shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the tensors must have one shape, got {shapes}")


def linear_recurrence(x_TN: Tensor, decay_TN: Tensor, start_N: Tensor | None = None) -> Tensor:
    """y_t = x_t + decay_t * y_{t-1}, by doubling (Hillis, Steele 1986): log2 T operations on whole rollouts, not T.

    Args:
        x_TN, decay_TN: float [T, N].
        start_N: float [N], y_{-1}; None: 0.

    Returns:
        float [T, N].

    Example:
        x=[1,1,1], decay=[0.5,0.5,0], start=2 -> [2, 2, 1].
    """
    check_shapes(x_TN=x_TN, decay_TN=decay_TN)
    y_TN = x_TN if start_N is None else torch.cat((torch.addcmul(x_TN[:1], decay_TN[:1], start_N), x_TN[1:]))
    ahead = 1
    while ahead < len(y_TN):  # y_t holds what the last `ahead` steps bring, decay_t their product
        y_TN = torch.cat((y_TN[:ahead], torch.addcmul(y_TN[ahead:], decay_TN[ahead:], y_TN[:-ahead])))
        decay_TN = torch.cat((decay_TN[:ahead], decay_TN[ahead:] * decay_TN[:-ahead]))
        ahead *= 2
    return y_TN


def gae(
    reward_TN: Tensor,
    value_TN: Tensor,
    next_value_TN: Tensor,
    terminated_TN: Tensor,
    ended_TN: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalized advantage estimation (arXiv:1506.02438).

    delta_t = r_t + gamma * (1 - terminated_t) * V(s_{t+1}) - V(s_t)
    A_t     = delta_t + gamma * lam * (1 - ended_t) * A_{t+1},  A_T = 0

    Args:
        reward_TN: float32 [T, N], unscaled reward of env n at step t.
        value_TN: float32 [T, N], V(s_t).
        next_value_TN: float32 [T, N], V(s_{t+1}), s_{t+1} the episode's own last
            observation, never the reset one.
        terminated_TN: bool [T, N], the MDP ended: no bootstrap.
        ended_TN: bool [T, N], terminated or truncated: the trace is cut.
        gamma: discount per step, in [0, 1].
        lam: decay of the trace, in [0, 1]; 0 is the one-step error, 1 the return minus V.

    Returns:
        float32 [T, N], not normalised; add value_TN for returns.

    Raises:
        ValueError: the tensors differ in shape.

    Example:
        r=[1,1], V=[0,0], next V=[0,10], gamma=0.5, lam=1, truncated at the end
        -> [4, 6]; terminated instead -> [1.5, 1].
    """
    check_shapes(
        reward_TN=reward_TN,
        value_TN=value_TN,
        next_value_TN=next_value_TN,
        terminated_TN=terminated_TN,
        ended_TN=ended_TN,
    )
    # A terminal V may be anything, also inf: masked_fill, where a product with 0 would give NaN.
    delta_TN = reward_TN + gamma * next_value_TN.masked_fill(terminated_TN, 0.0) - value_TN
    decay_TN = gamma * lam * ended_TN.logical_not()
    return linear_recurrence(delta_TN.flip(0), decay_TN.flip(0)).flip(0)


def running_sum(x_TN: Tensor, ended_TN: Tensor, start_N: Tensor, *, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
    """The sum of x since its episode began: episode returns from rewards, lengths from ones.

    S_t = x_t + gamma * (1 - ended_{t-1}) * S_{t-1}

    Args:
        x_TN: float [T, N].
        ended_TN: bool [T, N], see `gae`.
        start_N: float [N], S_{-1}, of the episodes that are in progress at t = 0; 0 where one begins.
        gamma: less than 1 discounts the older terms: not a return, but of a return's size.

    Returns:
        float [T, N], S_t: where `ended_TN`, the sum over the whole episode; and float [N], the `start_N` of the
        next call.

    Raises:
        ValueError: x and ended differ in shape.
    """
    check_shapes(x_TN=x_TN, ended_TN=ended_TN)
    decay_TN = gamma * torch.cat((torch.zeros_like(ended_TN[:1]), ended_TN[:-1])).logical_not()
    sum_TN = linear_recurrence(x_TN, decay_TN, start_N)
    return sum_TN, sum_TN[-1].masked_fill(ended_TN[-1], 0.0)


def squared_error(value_B: Tensor, return_B: Tensor) -> Tensor:
    """(V - R)^2, what a critic's loss is the mean of; float32 [B] all three.

    Raises:
        ValueError: the tensors differ in shape.
    """
    check_shapes(value_B=value_B, return_B=return_B)
    return (value_B - return_B).square()


def mean_where(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x over the True of a mask of the same shape, 0-d; NaN where there is none."""
    return x.masked_fill(~mask, 0.0).sum() / mask.sum()


def where_live(x: Tensor, live: Tensor | None) -> Tensor:
    """x, and 0 at the False of `live`; see `live_mean`."""
    return x if live is None else x.masked_fill(~live, 0.0)


def live_mean(x: Tensor, live: Tensor | None) -> Tensor:
    """The mean over the True of `live`, 0-d, 0 if there is none: what losses and their metrics are.

    Args:
        x: float, finite.
        live: bool, of the same shape; None: everything counts.

    Example:
        x=[1, 9, 3], live=[1, 0, 1] -> 2.
    """
    check_shapes(x=x, live=live)
    return x.mean() if live is None else where_live(x, live).sum() / live.sum().clamp(min=1)


def live_variance(x: Tensor, live: Tensor | None) -> Tensor:
    """mean((x - mean x)^2), 0-d; see `live_mean`."""
    return x.var(correction=0) if live is None else live_mean((x - live_mean(x, live)).square(), live)


def normalized(advantage: Tensor, live: Tensor | None = None) -> Tensor:
    """Shifted and scaled to mean 0 and standard deviation 1; a single advantage, which has none, stays as it is.

    Args:
        advantage: float32.
        live: see `live_mean`; elsewhere the result is 0.

    Returns:
        float32, of the same shape.
    """
    if live is not None:
        number = live.sum()
        std = (live_variance(advantage, live) * number / (number - 1)).sqrt()
        of_several = (advantage - live_mean(advantage, live)) / (std + 1e-8)
        return torch.where(number > 1, of_several, advantage).masked_fill(~live, 0.0)
    if advantage.numel() == 1:
        return advantage
    std, mean = torch.std_mean(advantage)
    return (advantage - mean) / (std + 1e-8)


def explained_variance(value: Tensor, target: Tensor, live: Tensor | None = None) -> Tensor:
    """1 - Var[target - value] / Var[target]: 1 is a perfect critic, 0 no better than a constant.

    Args:
        value, target: float, of one shape.
        live: see `live_mean`.

    Returns:
        0-d, at most 1; NaN where the targets are all the same.
    """
    check_shapes(value=value, target=target, live=live)
    variance = live_variance(target, live)
    return torch.where(variance > 0, 1 - live_variance(target - value, live) / variance, torch.nan)


def linear_schedule(start: float, end: float, env_steps: int, anneal_env_steps: int | None) -> float:
    """From `start` at 0 env steps in a straight line to `end` at `anneal_env_steps`, and `end` from there on.

    None: `start` for ever. Monotone, and exact at both ends.
    """
    if anneal_env_steps is None:
        return start
    fraction = min(env_steps / anneal_env_steps, 1.0)
    return start * (1 - fraction) + end * fraction
