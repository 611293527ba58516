"""What a policy head says about actions: sampling, log-probability, entropy; by hand, since building a
`torch.distributions` object costs more than the forward pass of a small network.

Shapes: B batch, A actions (Discrete) or action dimensions (Box).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Categorical(NamedTuple):
    """One of A actions.

    Args:
        logits_BA: float32 [B, A], unnormalised.
    """

    logits_BA: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """int64 [B] in [0, A). By the Gumbel-max trick: -log of an exponential is a Gumbel variable."""
        noise_BA = torch.empty_like(self.logits_BA).exponential_(generator=generator)
        return (self.logits_BA - noise_BA.log_()).argmax(-1)

    def mode(self) -> Tensor:
        """int64 [B], the likeliest action."""
        return self.logits_BA.argmax(-1)

    def log_prob_and_entropy(self, action_B: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B] each: log pi(a), <= 0, and H = -sum_a pi(a) log pi(a), in [0, log A] nats."""
        log_prob_BA = self.logits_BA.log_softmax(-1)
        log_prob_B = log_prob_BA.gather(-1, action_B.unsqueeze(-1)).squeeze(-1)
        return log_prob_B, -(log_prob_BA.exp() * log_prob_BA).sum(-1)


class Gaussian(NamedTuple):
    """Independent normal variables, unbounded: what an env is given is clipped to its bounds (`ActorCritic.to_env`),
    what the log-probability is taken of is not.

    Args:
        mean_BA: float32 [B, A].
        log_std_A: float32 [A], independent of the state.
    """

    mean_BA: Tensor
    log_std_A: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """float32 [B, A]."""
        mean = self.mean_BA
        noise_BA = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.log_std_A.exp() * noise_BA

    def mode(self) -> Tensor:
        """float32 [B, A], the mean."""
        return self.mean_BA

    def log_prob_and_entropy(self, action_BA: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B] each: the log density of all A dimensions together, and the differential entropy in nats."""
        z_BA = (action_BA - self.mean_BA) * (-self.log_std_A).exp()
        log_norm = self.log_std_A.sum() + 0.5 * math.log(2 * math.pi) * len(self.log_std_A)
        log_prob_B = -0.5 * z_BA.square().sum(-1) - log_norm
        return log_prob_B, (log_norm + 0.5 * len(self.log_std_A)).expand_as(log_prob_B)


Policy = Categorical | Gaussian
