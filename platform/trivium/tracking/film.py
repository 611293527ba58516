"""A film of how a model's samples have changed while it trained: what it makes of the same latents, evaluation after
evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from trivium.tracking.video import write_video

FILMED = "samples"  # the picture, by name
FOLDER = "film"  # within figures: its frames
MOST_FRAMES = 60
FPS = 6.0
HELD = 6  # frames that the last one is seen for


class Film:
    """The frames are files named by their step: a run that is resumed draws those after its checkpoint again.

    Args:
        figures: the folder of the run's figures.
    """

    def __init__(self, figures: Path) -> None:
        self._figures = figures
        self._folder = figures / FOLDER

    def add(self, step: int, picture: Path) -> None:
        """Keep a picture, a .png file, as a frame; every other one goes when there are too many. Raises OSError."""
        self._folder.mkdir(exist_ok=True)
        shutil.copyfile(picture, self._folder / f"{FILMED}-{step:012}.png")
        frames = self.frames()
        if len(frames) > MOST_FRAMES:
            for frame in frames[1:-1:2]:
                frame.unlink()

    def frames(self) -> list[Path]:
        """Those there are, in the order of their steps."""
        return sorted(self._folder.glob(f"{FILMED}-*.png"))

    def write(self) -> Path | None:
        """Write `samples_film.gif` beside the figures; None if there are fewer than two frames. Raises OSError."""
        frames = self.frames()
        if len(frames) < 2:
            return None

        def shown() -> Iterator[np.ndarray]:
            with Image.open(frames[-1]) as last:
                size = last.size
            for path in [*frames, *[frames[-1]] * (HELD - 1)]:
                with Image.open(path) as image:
                    if image.size == size:
                        yield np.asarray(image.convert("RGB"))

        return write_video(self._figures / f"{FILMED}_film.gif", shown(), FPS)
