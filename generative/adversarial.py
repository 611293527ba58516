"""The losses of generative adversarial networks, and the penalties that keep them stable.

Each pair of losses has the discriminator's first. Logits are float [B], larger for images that look real.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["logistic", "hinge", "least_squares", "wasserstein"]


def discriminator_loss(real_B: Tensor, fake_B: Tensor, kind: Loss) -> Tensor:
    """What the discriminator minimises.

        logistic       softplus(-real) + softplus(fake)        arXiv:1406.2661
        hinge          max(0, 1 - real) + max(0, 1 + fake)     arXiv:1705.02894
        least_squares  ((real - 1)^2 + fake^2) / 2             arXiv:1611.04076
        wasserstein    fake - real                             arXiv:1701.07875

    Args:
        real_B, fake_B: logits of real and of generated images; their numbers may differ.

    Returns:
        float32, 0-d, a mean over images.

    Raises:
        ValueError: `kind` is none of these.
    """
    real_B, fake_B = real_B.float(), fake_B.float()
    if kind == "logistic":
        return F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
    if kind == "hinge":
        return F.relu(1 - real_B).mean() + F.relu(1 + fake_B).mean()
    if kind == "least_squares":
        return ((real_B - 1).square().mean() + fake_B.square().mean()) / 2
    if kind == "wasserstein":
        return fake_B.mean() - real_B.mean()
    raise ValueError(f"loss={kind} must be one of logistic, hinge, least_squares, wasserstein")


def generator_loss(fake_B: Tensor, kind: Loss) -> Tensor:
    """What the generator minimises: softplus(-fake) for `logistic` (the non-saturating form), (fake - 1)^2 / 2 for
    `least_squares`, -fake for the others. See `discriminator_loss`."""
    fake_B = fake_B.float()
    if kind == "logistic":
        return F.softplus(-fake_B).mean()
    if kind == "least_squares":
        return (fake_B - 1).square().mean() / 2
    if kind in ("hinge", "wasserstein"):
        return -fake_B.mean()
    raise ValueError(f"loss={kind} must be one of logistic, hinge, least_squares, wasserstein")


def r1_penalty(real_BX: Tensor, logit_B: Tensor) -> Tensor:
    """R1 (arXiv:1801.04406): the mean of |d logit / d image|^2 over real images; half of it times gamma is added.

    Args:
        real_BX: images that require their gradient.
        logit_B: what the discriminator says of them, not yet backward.
    """
    (gradient_BX,) = torch.autograd.grad(logit_B.sum(), real_BX, create_graph=True)
    return gradient_BX.float().square().flatten(1).sum(1).mean()


def gradient_penalty(
    discriminate: Callable[[Tensor], Tensor], real_BX: Tensor, fake_BX: Tensor, mix_B: Tensor
) -> Tensor:
    """WGAN-GP (arXiv:1704.00028): the mean of (|d logit / d image| - 1)^2 at points between real and generated images.

    Args:
        discriminate: images -> logits [B].
        real_BX, fake_BX: of one shape; no gradient reaches them.
        mix_B: how much of the real image is in each point, uniform in [0, 1].
    """
    mix_B1 = mix_B.view(-1, *[1] * (real_BX.ndim - 1))
    point_BX = (mix_B1 * real_BX + (1 - mix_B1) * fake_BX).detach().requires_grad_()
    (gradient_BX,) = torch.autograd.grad(discriminate(point_BX).sum(), point_BX, create_graph=True)
    norm_B: Tensor = gradient_BX.float().flatten(1).norm(dim=1)
    return (norm_B - 1).square().mean()
