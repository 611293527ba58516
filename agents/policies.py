"""What a policy head says about actions: sampling, log-probability, entropy; by hand, since building a
`torch.distributions` object costs more than the forward pass of a small network.

Randomness comes in as noise drawn beforehand, a whole rollout's at once: what is left is a pure function.

Shapes: B batch, S logits of all heads together, H heads, A dimensions of a Box action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTION_SPACES = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
FORBIDDEN = -1e9  # the logit of an invalid action: its probability is exactly 0, and 0 * log 0 is 0, not NaN

# The logistic distribution of scale 1/2, whose density is sech^2(u) / 2, as a mixture of normal ones around 0: their
# standard deviations and weights, fitted so that log 2 cosh and tanh come out right to 1.4e-5 everywhere.
LOGISTIC_2K = torch.tensor(
    (
        (0.49245141016187544, 0.7229454921564115, 1.0653716525687815, 1.5778309508944541),
        (0.11321073278298902, 0.4671952278142843, 0.36456172011272747, 0.055032319289999306),
    )
)


class Categorical(NamedTuple):
    """One of S actions.

    Args:
        logits_BS: float32 [B, S], unnormalised.
    """

    logits_BS: Tensor

    def sample(self, gumbel_BS: Tensor) -> Tensor:
        """int64 [B] in [0, S), by the Gumbel-max trick; see `noise`."""
        return (self.logits_BS + gumbel_BS).argmax(-1)

    def mode(self) -> Tensor:
        """int64 [B], the likeliest action."""
        return self.logits_BS.argmax(-1)

    def log_prob(self, action_B: Tensor) -> Tensor:
        """float32 [B], log pi(a), <= 0."""
        return self.logits_BS.log_softmax(-1).gather(-1, action_B.unsqueeze(-1)).squeeze(-1)

    def log_prob_and_entropy(self, action_B: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B] each: `log_prob`, and H = -sum_a pi(a) log pi(a), in [0, log S] nats."""
        log_prob_BS = self.logits_BS.log_softmax(-1)
        log_prob_B = log_prob_BS.gather(-1, action_B.unsqueeze(-1)).squeeze(-1)
        return log_prob_B, -(log_prob_BS.exp() * log_prob_BS).sum(-1)


class MultiCategorical(NamedTuple):
    """H independent choices: log-probabilities and entropies add up.

    Args:
        logits_BS: float32 [B, S], those of the heads one after another.
        sizes: how many logits each head has, S in all.
    """

    logits_BS: Tensor
    sizes: Sequence[int]

    def sample(self, gumbel_BS: Tensor) -> Tensor:
        """int64 [B, H]."""
        return MultiCategorical(self.logits_BS + gumbel_BS, self.sizes).mode()

    def mode(self) -> Tensor:
        """int64 [B, H]."""
        return torch.stack([logits.argmax(-1) for logits in self.logits_BS.split(list(self.sizes), -1)], -1)

    def log_prob(self, action_BH: Tensor) -> Tensor:
        """float32 [B], summed over the heads; see `Categorical`."""
        heads = zip(self.logits_BS.split(list(self.sizes), -1), action_BH.unbind(-1), strict=True)
        return torch.stack([Categorical(logits).log_prob(action_B) for logits, action_B in heads]).sum(0)

    def log_prob_and_entropy(self, action_BH: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B] each, summed over the heads; see `Categorical`."""
        heads = zip(self.logits_BS.split(list(self.sizes), -1), action_BH.unbind(-1), strict=True)
        parts = [Categorical(logits).log_prob_and_entropy(action_B) for logits, action_B in heads]
        log_prob_HB, entropy_HB = zip(*parts, strict=True)
        return torch.stack(log_prob_HB).sum(0), torch.stack(entropy_HB).sum(0)


class Gaussian(NamedTuple):
    """Independent normal variables, unbounded: what an env is given is clipped to its bounds (`Actions.to_env`), what
    the log-probability is taken of is not.

    Args:
        mean_BA: float32 [B, A].
        log_std_BA: float32 [B, A], or [A], independent of the state.
    """

    mean_BA: Tensor
    log_std_BA: Tensor

    def sample(self, normal_BA: Tensor) -> Tensor:
        """float32 [B, A]."""
        return self.mean_BA + self.log_std_BA.exp() * normal_BA

    def mode(self) -> Tensor:
        """float32 [B, A], the mean."""
        return self.mean_BA

    def log_prob(self, action_BA: Tensor) -> Tensor:
        """float32 [B], the log density of all A dimensions together."""
        z_BA = (action_BA - self.mean_BA) * (-self.log_std_BA).exp()
        return -0.5 * z_BA.square().sum(-1) - self._log_norm()

    def log_prob_and_entropy(self, action_BA: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B] each: `log_prob`, and the differential entropy of all A dimensions together in nats."""
        log_prob_B = self.log_prob(action_BA)
        return log_prob_B, (self._log_norm() + 0.5 * self.mean_BA.shape[-1]).expand_as(log_prob_B)

    def _log_norm(self) -> Tensor:
        return (self.log_std_BA + 0.5 * math.log(2 * math.pi)).sum(-1)


class SquashedGaussian(NamedTuple):
    """tanh of a `Gaussian`, in (-1, 1), which `Actions.to_env` scales to the bounds (arXiv:1801.01290, appendix C).

    Actions are kept as they were before the tanh, u, so that nothing is lost near the bounds. The density is that of
    tanh u: log N(u) - sum log(1 - tanh^2 u).

    The entropy, H(u) + sum E[log(1 - tanh^2 u)], has no closed form. With log(1 - tanh^2 u) = 2 log 2 - 2 log(2 cosh u)
    and log(2 cosh u) = E|u - x| for a logistic x of scale 1/2, it has one for x from a mixture of normal variables
    instead: |u - x| is then a folded normal variable, and the expectation is right to 3e-5 for every mean and
    deviation, and so are its derivatives.

    Args:
        mean_BA, log_std_BA: see `Gaussian`.
        logistic_2K: `LOGISTIC_2K`, on the device of the others.
    """

    mean_BA: Tensor
    log_std_BA: Tensor
    logistic_2K: Tensor = LOGISTIC_2K

    def sample(self, normal_BA: Tensor) -> Tensor:
        """float32 [B, A], before the tanh."""
        return self._inner.sample(normal_BA)

    def mode(self) -> Tensor:
        """float32 [B, A], before the tanh: the median, whose tanh is the median of the actions."""
        return self.mean_BA

    def log_prob(self, u_BA: Tensor) -> Tensor:
        """float32 [B], the log density of tanh u."""
        return self._inner.log_prob(u_BA) - _log_slope(u_BA).sum(-1)

    def log_prob_and_entropy(self, u_BA: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B] each: `log_prob`, and the entropy of tanh u, at most log 2 nats for each of the A dimensions."""
        log_prob_B, entropy_B = self._inner.log_prob_and_entropy(u_BA)
        return log_prob_B - _log_slope(u_BA).sum(-1), entropy_B + self._mean_log_slope().sum(-1)

    @property
    def _inner(self) -> Gaussian:
        return Gaussian(self.mean_BA, self.log_std_BA)

    def _mean_log_slope(self) -> Tensor:
        """E[log(1 - tanh^2 u)], float32 [B, A]; that of |u - x| is s sqrt(2/pi) exp(-z^2/2) + mean erf(z/sqrt 2) with
        z = mean / s, s^2 the sum of both variances."""
        std_K, weight_K = self.logistic_2K.unbind()
        mean_BA1 = self.mean_BA.unsqueeze(-1)
        std_BAK = torch.hypot(self.log_std_BA.exp().unsqueeze(-1), std_K)
        z_BAK = mean_BA1 / (math.sqrt(2) * std_BAK)
        distance_BAK = std_BAK * (math.sqrt(2 / math.pi) * (-z_BAK.square()).exp()) + mean_BA1 * z_BAK.erf()
        return 2 * (math.log(2) - (distance_BAK * weight_K).sum(-1))


def _log_slope(u: Tensor) -> Tensor:
    """log(1 - tanh^2 u), without cancellation: 2 (log 2 - u - softplus(-2 u))."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


Policy = Categorical | MultiCategorical | Gaussian | SquashedGaussian


class Actions(nn.Module):
    """What an action space asks of a policy.

    MultiBinary is MultiDiscrete with two choices a head.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary or a bounded or unbounded Box.
        squash: a `SquashedGaussian` for a Box, which must be bounded.

    Attributes:
        sizes: of the heads, for discrete spaces; empty for a Box.
        num_logits: S, or A.

    Raises:
        ValueError: another kind of space, or `squash` without bounds.
    """

    low: Tensor  # of a Box
    high: Tensor
    logistic_2K: Tensor  # see `SquashedGaussian`

    def __init__(self, space: gym.Space, *, squash: bool = False) -> None:
        super().__init__()
        self.space = space
        self.squash = squash
        self.sizes: tuple[int, ...] = head_sizes(space)
        self.is_box = isinstance(space, gym.spaces.Box)
        if isinstance(space, gym.spaces.Box):
            self.num_logits = math.prod(space.shape)
            # They move with the network that holds them, and are the space's: no part of its state.
            low, high = _bounds(space)
            self.register_buffer("low", low, persistent=False)
            self.register_buffer("high", high, persistent=False)
            self.register_buffer("logistic_2K", LOGISTIC_2K.clone(), persistent=False)
            if squash and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                raise ValueError(f"agent.squash=true needs bounds, the action space is {space}")
        elif self.sizes:
            self.num_logits = sum(self.sizes)
            if squash:
                raise ValueError(f"agent.squash=true is for Box actions, the action space is {space}")
        else:
            raise ValueError(f"the action space {space}: valid are {', '.join(ACTION_SPACES)}")

    def policy(self, output_BS: Tensor, log_std_BA: Tensor | None, mask_BS: Tensor | None) -> Policy:
        """From a network's output, float32 [B, S or A]; the mask is True where an action is valid."""
        if self.is_box:
            assert log_std_BA is not None
            if self.squash:
                return SquashedGaussian(output_BS, log_std_BA, self.logistic_2K)
            return Gaussian(output_BS, log_std_BA)
        if mask_BS is not None:
            output_BS = output_BS.masked_fill(~mask_BS, FORBIDDEN)
        return Categorical(output_BS) if self.space.shape == () else MultiCategorical(output_BS, self.sizes)

    def noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """What `sample` of a rollout takes: float32 [T, N, S] Gumbel or [T, N, A] normal variables."""
        shape = (num_steps, num_envs, self.num_logits)
        if self.is_box:
            return torch.randn(shape, generator=generator, device=generator.device)
        exponential = torch.empty(shape, device=generator.device).exponential_(generator=generator)
        return exponential.log_().neg_()  # -log of an exponential is a Gumbel variable

    def to_env(self, action: Tensor) -> Tensor:
        """A sampled action as `Envs` take it: Box actions within the bounds and in the space's shape. Those of
        integers, which `Envs` round, may be up to 1/2 outside, so that the outer ones have their share."""
        if not self.is_box:
            return action
        action = action.unflatten(-1, self.space.shape) if self.space.shape != () else action.squeeze(-1)
        if self.squash:
            part = 0.5 * action.to(self.low.dtype).tanh()
            action = self.low * (0.5 - part) + self.high * (
                0.5 + part
            )  # high - low may be inf; rounding may leave them
        return action.clamp(self.low, self.high)


def _bounds(space: gym.spaces.Box) -> tuple[Tensor, Tensor]:
    """Between what a Box's actions are, see `Actions.to_env`: float32, or float64 where its dtype holds more than that,
    and finite where the space's bounds are."""
    dtype = np.dtype(space.dtype)
    kind = np.float32 if dtype in (np.float16, np.float32) else np.float64
    half = 0.5 if dtype.kind in "iu" else 0.0
    return torch.tensor(space.low.astype(kind)) - half, torch.tensor(space.high.astype(kind)) + half


def head_sizes(space: gym.Space) -> tuple[int, ...]:
    """How many choices each head of a discrete action space has; () for a Box."""
    if isinstance(space, gym.spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec.flatten())
    if isinstance(space, gym.spaces.MultiBinary):
        return (2,) * math.prod(space.shape)
    return ()
