"""The evidence lower bound and what it is made of: sums over pixels and latents, in nats.

Shapes: B batch, K codes for each input, D latents, X... the shape of one input.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def bernoulli_log_likelihood(logits_BX: Tensor, x_BX: Tensor) -> Tensor:
    """log p(x|z) = sum over pixels of x log s + (1 - x) log(1 - s), s = sigmoid(logits).

    Args:
        logits_BX: float [B, X...].
        x_BX: float [B, X...] in [0, 1].

    Returns:
        float32 [B], nats, <= 0; finite for any finite logits.

    Raises:
        ValueError: the shapes differ.
    """
    loss_BX = F.binary_cross_entropy_with_logits(logits_BX.float(), x_BX, reduction="none")
    return -loss_BX.flatten(1).sum(1)


def kl_to_standard_normal(mean_BD: Tensor, log_var_BD: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, I)) = 1/2 sum over latents of mean^2 + exp(log_var) - 1 - log_var.

    Args:
        mean_BD, log_var_BD: float [B, D].

    Returns:
        float [B], nats, >= 0.

    Example:
        mean=[1, 0], log_var=[0, ln 4] -> 1/2 + (4 - 1 - ln 4) / 2 = 1.307.
    """
    return 0.5 * (mean_BD.square() + log_var_BD.expm1() - log_var_BD).sum(1)


def elbo(log_likelihood_B: Tensor, kl_B: Tensor, *, beta: float = 1.0) -> Tensor:
    """The mean over the batch of log p(x|z) - beta KL.

    Args:
        log_likelihood_B: float [B], see `bernoulli_log_likelihood`.
        kl_B: float [B], see `kl_to_standard_normal`.
        beta: weight of the KL term; only with 1 is this a bound on log p(x).

    Returns:
        float, 0-d, nats.
    """
    return (log_likelihood_B - beta * kl_B).mean()


def kl_weight(samples: int, *, beta: float, warmup_samples: int) -> float:
    """The weight of the KL term: from 0 to `beta`, linearly over the first `warmup_samples`.

    Args:
        samples: read so far, those of this update's batch included.
        beta: the final weight, >= 0.
        warmup_samples: 0 for `beta` from the start.
    """
    return beta * min(1.0, samples / warmup_samples) if warmup_samples else beta


def importance_log_weight(log_likelihood_B: Tensor, z_BD: Tensor, noise_BD: Tensor, log_var_BD: Tensor) -> Tensor:
    """log p(x|z) p(z) / q(z|x) of z = mean + exp(log_var / 2) noise; both normal constants cancel.

    Args:
        log_likelihood_B: float [B], see `bernoulli_log_likelihood`.
        z_BD, noise_BD, log_var_BD: float [B, D].

    Returns:
        float [B], nats; its expectation over the noise is the ELBO.
    """
    return log_likelihood_B + 0.5 * (noise_BD.square() - z_BD.square() + log_var_BD).sum(1)


def importance_weighted_bound(log_weight_KB: Tensor) -> Tensor:
    """log of the mean of K importance weights (arXiv:1509.00519): in expectation a bound on log p(x), the ELBO for
    K = 1, that rises with K and becomes log p(x).

    Args:
        log_weight_KB: float [K, B], see `importance_log_weight`.

    Returns:
        float [B], nats; between the mean and the largest of the K.
    """
    return log_weight_KB.logsumexp(0) - math.log(len(log_weight_KB))
