"""Augmentation of images, a whole batch at once on the device.

What is drawn for a batch depends on the seed and on the position in the data only, and is drawn for the batch of the
whole run: a resumed run, another number of workers or of micro-batches sees the same pictures.

Shapes: B samples, C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import CountOrZero, FractionBelowOne, NotNegative, Range
from trivium.data.source import Batch, Source

Padding = Literal["border", "zeros", "reflection"]
Draws = Mapping[str, Tensor]
"""What is drawn for each sample, float32 or int64 [B] each."""


class ImageAugmentation:
    """Moves, mirrors, recolours, covers and mixes the images `x`, float32 [B, C, H, W].

    One interpolation does rotation, zoom, shift and mirroring. All amounts are drawn uniformly for each image.

    Args:
        rotate: largest rotation in degrees, either way, in [0, 180].
        zoom: largest change of size, as a share of it, in [0, 1).
        shift: largest shift in pixels, across and down, >= 0. With `padding=reflection` this is the usual padded crop.
        flip: whether half of the images are mirrored, left to right.
        brightness: largest number added to all pixels of an image, >= 0, in units of the data (normalised or not).
        contrast: largest change of the distance of pixels from their image's mean, as a share of it, in [0, 1).
        erase: side in pixels of a square that is covered by the image's mean (cutout, arXiv:1708.04552); 0: none.
        mixup: alpha of the Beta distribution of the weight with which another image of the training split is mixed in
            (arXiv:1710.09412); 0: none.
        cutmix: alpha of the Beta distribution of the area that a rectangle of another image takes (arXiv:1905.04899);
            0: none. Not together with `mixup`.
        padding: what is seen beyond the border: the border's pixels, zeros, or a mirror image.

    Raises:
        ValueError: a number is out of its range, or both `mixup` and `cutmix` are given.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        rotate: Annotated[float, Range(ge=0, le=180)] = 0.0,
        zoom: FractionBelowOne = 0.0,
        shift: NotNegative = 0.0,
        flip: bool = False,
        brightness: NotNegative = 0.0,
        contrast: FractionBelowOne = 0.0,
        erase: CountOrZero = 0,
        mixup: NotNegative = 0.0,
        cutmix: NotNegative = 0.0,
        padding: Padding = "border",
    ) -> None:
        if mixup and cutmix:
            raise ValueError(f"augment.mixup={mixup} and augment.cutmix={cutmix}: at most one of them may be above 0")
        self.rotate, self.zoom, self.shift, self.flip = rotate, zoom, shift, flip
        self.brightness, self.contrast, self.erase = brightness, contrast, erase
        self.mixup, self.cutmix, self.padding = mixup, cutmix, padding

    def draw(self, seed: int, count: int, num_rows: int) -> dict[str, Tensor]:
        """Everything random about a batch.

        Args:
            seed: of this batch alone, see `Run.seed_for`.
            count: B of the whole run.
            num_rows: of the training split, from which `mixup` and `cutmix` take their second image.

        Returns:
            Tensors [count] on the CPU; which ones depends on the settings.
        """
        random = np.random.default_rng(seed)
        drawn: dict[str, np.ndarray] = {}
        if self.rotate or self.zoom or self.shift or self.flip:
            drawn["angle"] = random.uniform(-self.rotate, self.rotate, count)
            drawn["scale"] = random.uniform(1 - self.zoom, 1 + self.zoom, count)
            drawn["right"], drawn["down"] = random.uniform(-self.shift, self.shift, (2, count))
            drawn["mirror"] = random.integers(0, 2, count) if self.flip else np.zeros(count)
        if self.brightness:
            drawn["brightness"] = random.uniform(-self.brightness, self.brightness, count)
        if self.contrast:
            drawn["contrast"] = random.uniform(1 - self.contrast, 1 + self.contrast, count)
        if self.erase:
            drawn["erase_x"], drawn["erase_y"] = random.uniform(0, 1, (2, count))
        if alpha := self.mixup or self.cutmix:
            drawn["weight"] = random.beta(alpha, alpha, count)
            drawn["cut_x"], drawn["cut_y"] = random.uniform(0, 1, (2, count))
        tensors = {name: torch.from_numpy(values.astype(np.float32)) for name, values in drawn.items()}
        if self.mixup or self.cutmix:
            tensors["partner"] = torch.from_numpy(random.integers(0, num_rows, count))
        return tensors

    def __call__(self, batch: Batch, draws: Draws, source: Source) -> Batch:
        """The augmented batch.

        Args:
            batch: holds `x`, float32 [B, C, H, W].
            draws: this batch's part of what `draw` returned, on the batch's device.
            source: the training split, which gives the second images.

        Returns:
            The batch with another `x`; with `mixup` or `cutmix` also `mixed_y`, int64 [B], the second image's class,
            and `mixed_weight`, float32 [B], the share of the first.

        Raises:
            ValueError: `x` is no batch of images, or classes are needed and `y` has none.
        """
        x_BCHW = batch["x"]
        if x_BCHW.ndim != 4 or not x_BCHW.is_floating_point():
            raise ValueError(f"augment: needs images, float [B, C, H, W]; x has the shape {list(x_BCHW.shape)}")
        if "angle" in draws:
            x_BCHW = move(
                x_BCHW, draws["angle"], draws["scale"], draws["right"], draws["down"], draws["mirror"], self.padding
            )
        if "contrast" in draws:
            mean_B111 = x_BCHW.mean((1, 2, 3), keepdim=True)
            x_BCHW = mean_B111 + (x_BCHW - mean_B111) * draws["contrast"][:, None, None, None]
        if "brightness" in draws:
            x_BCHW = x_BCHW + draws["brightness"][:, None, None, None]
        if "erase_x" in draws:
            size = torch.full_like(draws["erase_x"], self.erase)
            covered_B1HW = rectangle(draws["erase_x"], draws["erase_y"], size, size, x_BCHW.shape[2:])[:, None]
            x_BCHW = torch.where(covered_B1HW, x_BCHW.mean((1, 2, 3), keepdim=True), x_BCHW)
        batch = {**batch, "x": x_BCHW}
        return self._mixed(batch, draws, source) if "weight" in draws else batch

    def _mixed(self, batch: Batch, draws: Draws, source: Source) -> Batch:
        if batch["y"].dtype != torch.int64 or batch["y"].ndim != 1:
            raise ValueError("augment: mixup and cutmix need one class for each sample, int64 [B]")
        x_BCHW, other = batch["x"], source.batch(draws["partner"])
        weight_B = draws["weight"]
        if self.mixup:
            weight_B111 = weight_B[:, None, None, None]
            x_BCHW = weight_B111 * x_BCHW + (1 - weight_B111) * other["x"]
        else:
            height, width = x_BCHW.shape[2:]
            side_B = (1 - weight_B).sqrt()
            cut_BHW = rectangle(draws["cut_x"], draws["cut_y"], side_B * width, side_B * height, x_BCHW.shape[2:])
            x_BCHW = torch.where(cut_BHW[:, None], other["x"], x_BCHW)
            weight_B = 1 - cut_BHW.float().mean((1, 2))  # of whole pixels
        return {**batch, "x": x_BCHW, "mixed_y": other["y"], "mixed_weight": weight_B}


def move(
    x_BCHW: Tensor,
    angle_B: Tensor,
    scale_B: Tensor,
    right_B: Tensor,
    down_B: Tensor,
    mirror_B: Tensor,
    padding: Padding = "border",
) -> Tensor:
    """Rotate, zoom, shift and mirror images about their centres, by one bilinear interpolation.

    Args:
        x_BCHW: float [B, C, H, W].
        angle_B: degrees, counter-clockwise as seen on a screen.
        scale_B: above 1 the picture grows.
        right_B, down_B: shift in pixels.
        mirror_B: 1 where left and right are exchanged, before all else, otherwise 0.
        padding: see `ImageAugmentation`.

    Returns:
        float [B, C, H, W].
    """
    height, width = x_BCHW.shape[2:]
    radians_B = angle_B * (math.pi / 180)
    cos_B, sin_B = radians_B.cos() / scale_B, radians_B.sin() / scale_B
    sign_B = 1 - 2 * mirror_B
    # Where each pixel of the result comes from: shifted back, turned back, shrunk, mirrored; in units of half a side.
    aspect = height / width
    x_B, y_B = -2 * right_B / width, -2 * down_B / height
    theta_B23 = torch.stack(
        [
            torch.stack([sign_B * cos_B, -sign_B * sin_B * aspect, sign_B * (cos_B * x_B - sin_B * aspect * y_B)], 1),
            torch.stack([sin_B / aspect, cos_B, sin_B / aspect * x_B + cos_B * y_B], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta_B23, list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid.to(x_BCHW.dtype), padding_mode=padding, align_corners=False)


def rectangle(x_B: Tensor, y_B: Tensor, width_B: Tensor, height_B: Tensor, shape: torch.Size) -> Tensor:
    """Which pixels lie in a rectangle.

    Args:
        x_B, y_B: its centre, as shares of the image's width and height, in [0, 1].
        width_B, height_B: in pixels; what lies beyond the border is cut off.
        shape: (H, W).

    Returns:
        bool [B, H, W].
    """
    height, width = shape
    column_W = torch.arange(width, device=x_B.device) + 0.5
    row_H = torch.arange(height, device=x_B.device) + 0.5
    across_BW = (column_W - x_B[:, None] * width).abs() < width_B[:, None] / 2
    down_BH = (row_H - y_B[:, None] * height).abs() < height_B[:, None] / 2
    return down_BH[:, :, None] & across_BW[:, None, :]
