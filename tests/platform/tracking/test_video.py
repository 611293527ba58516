"""Animations are read back: how many frames, of what colours, how long, and that no half of a file is left."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trivium.tracking.video import lasting, write_video


def plain(*greys: int, height: int = 6, width: int = 8) -> list[np.ndarray]:
    return [np.full((height, width, 3), grey, np.uint8) for grey in greys]


def read_gif(path: Path) -> list[tuple[np.ndarray, int]]:
    """The frames and their durations in ms; it goes round and round."""
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        frames = []
        for i in range(gif.n_frames):  # type: ignore[attr-defined]
            gif.seek(i)
            frames.append((np.asarray(gif.convert("RGB")), gif.info["duration"]))
        return frames


def test_equal_neighbours_are_one_and_rounding_does_not_add_up() -> None:
    a, b, c = plain(1, 2, 3)
    assert [(int(f[0, 0, 0]), t) for f, t in lasting([a, a, b, c], 30)] == [(1, 7), (2, 3), (3, 3)]
    times = [t for _, t in lasting(plain(*range(90)), 30)]
    assert sum(times) == 300
    assert set(times) == {3, 4}
    with pytest.raises(ValueError, match="needs a frame"):
        list(lasting([], 30))


def test_a_gif_has_the_frames_their_colours_and_their_times(tmp_path: Path) -> None:
    frames = plain(0, 60, 60, 255)
    frames[3][:2, :3] = (201, 52, 7)
    path = write_video(tmp_path / "new" / "a.gif", iter(frames), 20)
    shown = read_gif(path)
    assert [t for _, t in shown] == [50, 100, 50]
    for (got, _), expected in zip(shown, (frames[0], frames[1], frames[3]), strict=True):
        assert np.array_equal(got, expected)


def test_a_photograph_is_close(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64].astype(np.uint8)
    photograph = np.stack((4 * x, 4 * y, 2 * (x + y)), 2)
    path = write_video(tmp_path / "a.gif", [photograph, photograph[::-1]], 10)
    error = np.abs(read_gif(path)[1][0].astype(int) - photograph[::-1])
    assert error.mean() < 12


def test_an_mp4_has_the_frames_at_their_rate(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra `video`").get_ffmpeg_exe()
    path = write_video(tmp_path / "a.mp4", plain(*range(0, 250, 10), height=33, width=48), 10)
    read = subprocess.run([ffmpeg, "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
    assert re.search(rb"Video: h264 .* 48x32.* 10 fps", read.stderr)
    greys = np.frombuffer(read.stdout, np.uint8).reshape(25, 32, 48, 3).mean((1, 2, 3))
    assert greys == pytest.approx(range(0, 250, 10), abs=4)


def test_what_ffmpeg_refuses_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho no such codec >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    frames = plain(*range(200), height=400, width=400)  # more than a pipe holds
    with pytest.raises(OSError, match="ffmpeg: no such codec"):
        write_video(tmp_path / "a.mp4", frames, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["ffmpeg"]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_what_fails_leaves_the_file_that_was_there(tmp_path: Path, suffix: str) -> None:
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg", reason="the extra `video`")
    path = tmp_path / f"a{suffix}"
    path.write_text("old")

    def torn() -> Iterator[np.ndarray]:
        yield from plain(1, 2)
        raise RuntimeError("the env broke")

    with pytest.raises(RuntimeError, match="the env broke"):
        write_video(path, torn(), 10)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="needs a frame"):
        write_video(path, [], 10)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.avi must end in \.gif or \.mp4"):
        write_video(tmp_path / "a.avi", plain(1), 10)
