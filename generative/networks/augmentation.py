"""Augmentation that a discriminator sees in all images, real and generated, and that is differentiated through, as
strong as its overfitting asks for (ADA, arXiv:2006.06676): for data sets with few images.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count
from trivium.learner import Run
from trivium.saved import require_count, require_like

DRAWS = 12  # uniform numbers for one image
UPDATES = 4  # over which the sign of the logits is averaged before the strength is changed
SHIFT, ZOOM, ROTATION = 0.125, 0.2, math.pi / 6  # of a side; standard deviation of log2; largest angle
BRIGHTNESS, CONTRAST = 0.2, 0.5  # standard deviations; of log2


class AdaptiveAugmentation:
    """How strongly images are augmented now.

    The strength p, each transform's probability, rises while the mean sign of the discriminator's logits of real images
    is above a target, which says that it knows the training set by heart, and else falls.

    Args:
        target: the mean sign to keep, in (0, 1); the paper's is 0.6.
        images: how many are seen while p goes from 0 to 1 at most.
        device: of the images.

    Attributes:
        p: float32, 0-d, in [0, 1].
    """

    @checks_keywords
    def __init__(self, *, target: BetweenZeroAndOne, images: Count, device: torch.device) -> None:
        self.target, self.images = target, images
        self.p = torch.zeros((), device=device)
        self.sign = torch.zeros((), device=device)  # the sum of the means since p was changed
        self.updates = 0

    def __call__(self, image_BX: Tensor, uniform_BU: Tensor) -> Tensor:
        """See `augmented`."""
        return augmented(image_BX, uniform_BU, self.p)

    @torch.no_grad()
    def observe(self, real_B: Tensor, run: Run) -> None:
        """Follow the logits of one update's real images, this worker's; the strength is the same on all workers."""
        self.sign += run.mean(real_B.detach().float().sign().mean())
        self.updates += 1
        if self.updates % UPDATES == 0:
            step = UPDATES * len(real_B) * run.world_size / self.images
            self.p.add_(step * (self.sign / UPDATES - self.target).sign()).clamp_(0, 1)
            self.sign.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"p": self.p, "sign": self.sign, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = require_count(state["updates"], "augmentation.updates")
        for name in ("p", "sign"):
            require_like(state[name], getattr(self, name), f"augmentation.{name}")
            getattr(self, name).copy_(state[name])


def augmented(image_BX: Tensor, uniform_BU: Tensor, p: Tensor) -> Tensor:
    """Images that are, each with probability p, shifted, zoomed, turned, made brighter or darker, and given more or
    less contrast. Pixels from outside are mirrored ones.

    Args:
        image_BX: float [B, C, H, W].
        uniform_BU: float32 [B, `DRAWS`] in [0, 1), which decides everything.
        p: float32, 0-d; 0 returns the images, 1 changes each in all ways.

    Returns:
        float32 [B, C, H, W]; its gradient can be differentiated again.
    """
    image_BX = image_BX.float()
    gate = (uniform_BU[:, :5] < p).float()
    normal = torch.special.ndtri(uniform_BU[:, 5:8].clamp(1e-6, 1 - 1e-6))
    shift_B2 = (uniform_BU[:, 8:10] * 2 - 1) * 2 * SHIFT * gate[:, :1]  # 2 is the whole side
    zoom_B = 2 ** (ZOOM * normal[:, 0] * gate[:, 1])
    angle_B = (uniform_BU[:, 10] * 2 - 1) * ROTATION * gate[:, 2]
    cosine, sine = angle_B.cos() / zoom_B, angle_B.sin() / zoom_B
    height, width = image_BX.shape[2:]
    ratio = height / width  # turns are of pixels, and not of the image's stretched coordinates
    # Written out, because `affine_grid` computes its product in bf16 under autocast: positions to 1/256 of the image.
    x_W, y_H1 = centres(width, image_BX.device), centres(height, image_BX.device)[:, None]
    cosine, sine, shift_B2 = cosine.view(-1, 1, 1), sine.view(-1, 1, 1), shift_B2.view(-1, 2, 1, 1)
    across_BHW = cosine * x_W - sine * ratio * y_H1 + shift_B2[:, 0]
    down_BHW = sine / ratio * x_W + cosine * y_H1 + shift_B2[:, 1]
    grid = torch.stack([across_BHW, down_BHW], dim=3)
    moved_BX: Tensor = _Sampled.apply(image_BX, grid)
    still_B = (gate[:, :3].sum(1) == 0).view(-1, 1, 1, 1)
    moved_BX = torch.where(still_B, image_BX, moved_BX)
    contrast_B = 2 ** (CONTRAST * normal[:, 1] * gate[:, 3])
    brightness_B = BRIGHTNESS * normal[:, 2] * gate[:, 4]
    coloured_BX: Tensor = moved_BX * contrast_B.view(-1, 1, 1, 1) + brightness_B.view(-1, 1, 1, 1)
    return coloured_BX


def centres(number: int, device: torch.device) -> Tensor:
    """Where the pixels of a side are, of which -1 and 1 are the ends: float32 [number]."""
    return (2 * torch.arange(number, device=device) + 1) / number - 1


class _Sampled(torch.autograd.Function):
    """`grid_sample`, whose gradient torch can't differentiate: it is linear in the image, and so is its gradient."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(image, grid)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        image, grid = ctx.saved_tensors
        return _Spread.apply(gradient, image, grid), None


class _Spread(torch.autograd.Function):
    """The gradient of `_Sampled`, and in turn its gradient."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        bilinear, reflection = 0, 2
        spread: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            gradient, image, grid, bilinear, reflection, False, [True, False]
        )[0]
        return spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        again = F.grid_sample(gradient, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return again, None, None
