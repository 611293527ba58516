"""The losses of generative adversarial networks, the penalties that keep them stable, and what else their training
shares.

Each pair of losses has the discriminator's first. Logits are float [B], larger for images that look real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.saved import require_count, require_like
from trivium.schedules import scheduled

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


def fading(samples: int, decay_samples: int | None) -> float:
    """What a learning rate is multiplied with: 1, which falls linearly to 0.05 over the second half of
    `decay_samples`; always 1 for None."""
    if decay_samples is None:
        return 1.0
    half = decay_samples // 2
    return scheduled(max(0, samples - half), peak=1.0, shape="linear", decay=max(1, half), final_ratio=0.05)


class ImagePool:
    """Earlier generated images, which a discriminator is shown in place of half of the new ones so that it does not
    forget what the generator used to make (arXiv:1612.07828).

    Until the pool is full, images are kept and returned as they are; afterwards each is returned with probability 1/2,
    or else takes the place of a random earlier one, which is returned.

    Args:
        size: images that are kept; 0: all are returned as they are.
        shape: of one image.
        device: where they are.
    """

    def __init__(self, size: int, shape: Sequence[int], device: torch.device) -> None:
        self.image_NX = torch.zeros(size, *shape, device=device)
        self.filled = 0

    @torch.no_grad()
    def query(self, image_BX: Tensor, generator: torch.Generator) -> Tensor:
        """As many images as are given, detached.

        Args:
            image_BX: float [B, X...].
            generator: of what is swapped, on the CPU.
        """
        size = len(self.image_NX)
        image_BX = image_BX.detach().float()
        if not size:
            return image_BX
        shown_BX = image_BX.clone()
        swap_B = (torch.rand(len(image_BX), generator=generator) < 0.5).tolist()
        place_B = torch.randint(size, (len(image_BX),), generator=generator).tolist()
        for i, (swap, place) in enumerate(zip(swap_B, place_B, strict=True)):
            if self.filled < size:
                self.image_NX[self.filled] = image_BX[i]
                self.filled += 1
            elif swap:
                shown_BX[i] = self.image_NX[place]
                self.image_NX[place] = image_BX[i]
        return shown_BX

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.image_NX, "filled": self.filled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        filled = require_count(state["filled"], "pool.filled")
        require_like(state["images"], self.image_NX, "pool.images")
        if filled > len(self.image_NX):
            raise ValueError(f"pool.filled={filled} must be at most {len(self.image_NX)}")
        self.image_NX.copy_(state["images"])
        self.filled = filled
