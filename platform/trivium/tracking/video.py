"""Frames to a file that moves: GIF by pillow, always; MP4 by ffmpeg, where the extra `video` is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".gif", ".mp4")
GIF_FPS = 50.0  # a GIF tells its times in 1/100 s, and browsers show a frame of a single one for ten times as long


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write an animation that ends as it began, or, to `.mp4`, a film; whole or not at all.

    Args:
        path: ends in one of `SUFFIXES`; its folder is made.
        frames: uint8 [H, W, 3] each, at least one, of one size; taken one after another: they need not fit in memory.
        fps: frames a second, at most `GIF_FPS` in a GIF; over the whole, times are right to 1/100 s.

    Raises:
        ValueError: another suffix, or no frame.
        ImportError: MP4, and there is neither ffmpeg nor imageio-ffmpeg.
        OSError: the file can't be written.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path.name} must end in {' or '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}")
    staged.unlink(missing_ok=True)
    try:
        (_write_gif if path.suffix == ".gif" else _write_mp4)(staged, frames, fps)
        return staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def lasting(frames: Iterable[np.ndarray], fps: float) -> Iterator[tuple[np.ndarray, int]]:
    """Each frame and how long it is seen, in 1/100 s; equal neighbours are one.

    Example:
        frames a, a, b, c at 30 a second -> (a, 7), (b, 3), (c, 3): together 13, as 4 / 30 s are.
    """
    held: np.ndarray | None = None
    since = number = 0
    for number, frame in enumerate(frames, start=1):
        if held is None:
            held = frame
        elif not np.array_equal(frame, held):
            now = round(100 * (number - 1) / fps)
            yield held, now - since
            held, since = frame, now
    if held is None:
        raise ValueError("a video needs a frame")
    yield held, round(100 * number / fps) - since


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    images = _with_palette(lasting(frames, fps))
    next(images).save(path, format="gif", save_all=True, append_images=images, loop=0)


def _with_palette(timed: Iterable[tuple[np.ndarray, int]]) -> Iterator[Image.Image]:
    for frame, hundredths in timed:
        true = Image.fromarray(frame)
        # A third of the time of pillow's own choice, and no dots where a renderer drew a plane.
        image = true.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        if true.getcolors(256):  # a drawing: its own colours, not means of neighbours, which flicker
            used, first = np.unique(np.asarray(image), return_index=True)
            palette = np.zeros((256, 3), np.uint8)
            palette[used] = frame.reshape(-1, 3)[first]
            image.putpalette(palette.tobytes())
        image.info["duration"] = 10 * hundredths
        yield image


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    program = shutil.which("ffmpeg") or _ffmpeg_of_imageio()
    process = None
    try:
        for frame in frames:
            height, width = (side - side % 2 for side in frame.shape[:2])  # the colour format needs even ones
            if process is None:
                process = _encoder(program, path, f"{width}x{height}", fps)
            assert process.stdin is not None
            process.stdin.write(frame[:height, :width].tobytes())
        if process is None:
            raise ValueError("a video needs a frame")
        _, said = process.communicate()
    except BaseException as error:
        if process is None:
            raise
        process.kill()
        _, said = process.communicate()
        if not isinstance(error, BrokenPipeError):  # that is: ffmpeg has gone, and said why
            raise
    if process.returncode:
        raise OSError(f"ffmpeg: {said.decode(errors='replace').strip() or f'exit code {process.returncode}'}")


def _encoder(program: str, path: Path, size: str, fps: float) -> subprocess.Popen[bytes]:
    """ffmpeg, which takes frames from its stdin and writes H.264 that every player knows."""
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
    codec = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart"]
    command = [program, "-loglevel", "error", "-y", *source, *codec, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def _ffmpeg_of_imageio() -> str:
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())
