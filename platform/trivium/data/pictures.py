"""Images as one picture: grids for figures and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MARGIN = 0.1  # between two images, of an image's width


def image_grid(image_NCHW: Tensor, *, columns: int, width: int = 480) -> np.ndarray:
    """Images side by side, row after row, each pixel enlarged to a square so that small images can be seen.

    Args:
        image_NCHW: float [N, C, H, W], clipped to [0, 1]; C is 1 (grey) or 3.
        columns: images in a row; the last row may stay incomplete.
        width: of the picture in pixels, about: pixels are enlarged by a whole number.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: the number of channels is neither 1 nor 3, or there are no images.
    """
    num_images, channels, height, image_width = image_NCHW.shape
    if channels not in (1, 3) or num_images == 0:
        raise ValueError(f"images of shape {list(image_NCHW.shape)} must be at least one, of 1 or 3 channels")
    scale = max(1, round(width / (columns * image_width * (1 + MARGIN))))
    image = image_NCHW.detach().float().clamp(0, 1).mul(255).round().byte().cpu().numpy().transpose(0, 2, 3, 1)
    image = np.broadcast_to(image, (*image.shape[:3], 3)).repeat(scale, 1).repeat(scale, 2)

    margin = max(1, round(MARGIN * scale * image_width))
    step_y, step_x = scale * height + margin, scale * image_width + margin
    rows = -(-num_images // columns)
    grid = np.full((rows * step_y + margin, columns * step_x + margin, 3), 64, np.uint8)
    for i in range(num_images):
        y, x = margin + i // columns * step_y, margin + i % columns * step_x
        grid[y : y + scale * height, x : x + scale * image_width] = image[i]
    return grid


def write(
    image_NCHW: np.ndarray,
    place: Path,
    *,
    folder: bool = False,
    above: np.ndarray | None = None,
    columns: int | None = None,
) -> list[str]:
    """Write images as one grid, as an array, or one by one.

    Args:
        image_NCHW: float32 [N, C, H, W] in [0, 1]; C is 1 (grey) or 3, except for an array.
        place: a `.png` file for a grid, a `.npy` file for the array, or a folder for single images `000.png`, ...
        folder: whether the place is a folder, if it does not exist yet.
        above: images of the same shapes, of which a grid shows each row above the row that belongs to it; None: none.
        columns: of a grid; None: about as many as rows.

    Returns:
        The files' paths.

    Raises:
        ValueError: the place is none of these, or the samples are no images.
    """
    if place.suffix == ".npy" and not folder:
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, image_NCHW)
        return [str(place)]
    if image_NCHW.ndim != 4:
        raise ValueError(f"samples of shape {list(image_NCHW.shape)} are no images; valid: --out FILE.npy")
    image = torch.from_numpy(image_NCHW)
    if place.is_dir() or folder:
        place.mkdir(parents=True, exist_ok=True)
        digits = max(3, len(str(len(image) - 1)))
        files = []
        for i, one_CHW in enumerate(image):
            files.append(write_one(one_CHW.numpy(), place / f"{i:0{digits}}.png"))
        return files
    if place.suffix != ".png":
        raise ValueError(f"{place}: valid are FILE.png for a grid, FILE.npy for the array, DIR/ for single images")
    place.parent.mkdir(parents=True, exist_ok=True)
    columns = columns or math.ceil(math.sqrt(len(image)))
    if above is not None:
        pairs = zip(torch.from_numpy(above).split(columns), image.split(columns), strict=True)
        image = torch.cat([row for pair in pairs for row in _filled(pair, columns)])
    Image.fromarray(image_grid(image, columns=columns, width=max(480, columns * image.shape[3]))).save(place)
    return [str(place)]


def write_one(image_CHW: np.ndarray, place: Path) -> str:
    """Write one image, float32 [C, H, W] in [0, 1], as a .png file; returns its path."""
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels_HWC = torch.from_numpy(image_CHW).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC).save(place)
    return str(place)


def _filled(rows: Sequence[Tensor], columns: int) -> list[Tensor]:
    """Rows of images with black ones after them, so that each row has all columns."""
    return [torch.cat([row, row.new_zeros(columns - len(row), *row.shape[1:])]) for row in rows]
