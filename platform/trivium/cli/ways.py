"""Samples on ways through the latents, as a grid or as a film."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from trivium.data import pictures
from trivium.tracking.video import write_video

FPS = 8.0


def write_ways(image_NTCHW: np.ndarray, place: Path, *, folder: bool = False) -> list[str]:
    """Write the images of N ways of T steps.

    Args:
        image_NTCHW: float32 [N, T, C, H, W] in [0, 1].
        place: a `.gif` or `.mp4` file for all ways side by side, there and back; else see
            `trivium.data.pictures.write`, in whose grid each way is a row.
        folder: see there.

    Returns:
        The files' paths.

    Raises:
        ValueError, OSError: see there.
    """
    num, steps = image_NTCHW.shape[:2]
    if place.suffix not in (".gif", ".mp4") or folder:
        images = image_NTCHW.reshape(num * steps, *image_NTCHW.shape[2:])
        return pictures.write(images, place, folder=folder, columns=steps)

    def frames() -> Iterator[np.ndarray]:
        for step in [*range(steps), *range(steps - 2, 0, -1)]:
            now = torch.from_numpy(image_NTCHW[:, step])
            yield pictures.image_grid(now, columns=math.ceil(math.sqrt(num)))

    return [str(write_video(place, frames(), FPS))]
