"""Images that do not fit in memory: decoded once into a file, and read from it row by row, ahead of time."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trivium.boundary.places import find_data
from trivium.data.source import Batch

THREADS = 4  # decoders release the interpreter's lock
AT_ONCE = 512  # files that are decoded, rows that are read for statistics


class Decoded(NamedTuple):
    """A file of pixels, one image after the other.

    Attributes:
        file: uint8 [N, C, H, W].
        shape: (C, H, W).
        labels: int64 [N].
        groups: int64 [N], what `decode` was told besides.
    """

    file: Path
    shape: tuple[int, int, int]
    labels: np.ndarray
    groups: np.ndarray


class ImagesOnDisk:
    """Rows of such a file as a source: `x`, float32 [B, C, H, W], and `y`, int64 [B]. What is read passes through the
    system's cache of the disk; of the process's own memory a batch is all that it needs.

    Args:
        decoded: the file.
        rows: int64 [n], which of its images.
        mean_C, std_C: float64 [C] each, to standardise by; None: pixels stay in [0, 1].
        device: of the batches.
    """

    def __init__(
        self,
        decoded: Decoded,
        rows: np.ndarray,
        *,
        mean_C: np.ndarray | None = None,
        std_C: np.ndarray | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.decoded, self.rows, self.mean_C, self.std_C, self.device = decoded, rows, mean_C, std_C, device
        self._labels = torch.from_numpy(decoded.labels[rows].astype(np.int64)).to(device)
        self._bytes = int(np.prod(decoded.shape))
        self._descriptor = os.open(decoded.file, os.O_RDONLY)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._ahead: dict[bytes, Future[Tensor]] = {}

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self._reader.shutdown(wait=False)  # no read is under way: it would hold this object
            os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index_B: Tensor) -> Batch:
        index = index_B.cpu().numpy()
        waiting = self._ahead.pop(index.tobytes(), None)
        pixels = waiting.result() if waiting else self._read(index)
        x = pixels.to(self.device).float() / 255
        if self.mean_C is not None and self.std_C is not None:
            scale, shift = (1 / self.std_C)[:, None, None], (self.mean_C / self.std_C)[:, None, None]
            x = x * torch.from_numpy(scale).float().to(x.device) - torch.from_numpy(shift).float().to(x.device)
        return {"x": x, "y": self._labels[index_B]}

    def prefetch(self, indices: Sequence[Tensor]) -> None:
        """Begin to read the rows of the next batches, in a thread; what was read ahead before and not asked for is
        dropped."""
        keys = {index.cpu().numpy().tobytes(): index for index in indices}
        self._ahead = {key: future for key, future in self._ahead.items() if key in keys}
        for key, index in keys.items():
            if key not in self._ahead:
                self._ahead[key] = self._reader.submit(self._read, index.cpu().numpy())

    def to(self, device: torch.device) -> ImagesOnDisk:
        return ImagesOnDisk(self.decoded, self.rows, mean_C=self.mean_C, std_C=self.std_C, device=device)

    def _read(self, index: np.ndarray) -> Tensor:
        """uint8 [B, C, H, W]."""
        pixels = np.empty((len(index), self._bytes), np.uint8)
        for i, row in enumerate(self.rows[index]):
            if os.preadv(self._descriptor, [memoryview(pixels[i])], int(row) * self._bytes) != self._bytes:
                raise ValueError(f"{self.decoded.file} is shorter than it was; delete it, and it is made again")
        return torch.from_numpy(pixels.reshape(len(index), *self.decoded.shape))


def statistics(source: ImagesOnDisk) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all rows, float64 [C] each, in the scale of [0, 1]."""
    total, squares, count = np.zeros(source.decoded.shape[0]), np.zeros(source.decoded.shape[0]), 0
    for start in range(0, len(source), AT_ONCE):
        x = source._read(np.arange(start, min(start + AT_ONCE, len(source)))).numpy() / 255
        total, squares = total + x.sum((0, 2, 3)), squares + np.square(x).sum((0, 2, 3))
        count += x[:, 0].size
    mean = total / count
    return mean, np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), 1e-6)


def decode(
    files: Sequence[tuple[Any, int, int]], *, read: Any, shape: tuple[int, int, int], cache: str, source: str
) -> Decoded:
    """The file of images in the folder `cache`, which is made if there is none of exactly these.

    Args:
        files: paths, labels and the number of the group that each is in, such as its split.
        read: of a path, its uint8 [C, H, W] and a digest of its content; images whose digest was there are left out.
        shape: (C, H, W).
        cache: a folder, which is made.
        source: where the images are from, for the file's name.

    Raises:
        ValueError: the folder can't be written.
    """
    key = hashlib.blake2b(digest_size=12)
    for file, label, group in files:
        key.update(f"{file}\0{label}\0{group}\0{_stamp(file)}\n".encode())
    key.update(json.dumps([source, shape]).encode())
    folder = find_data(cache)
    pixels = folder / f"{Path(source).stem}-{key.hexdigest()}.u8"
    labels = pixels.with_suffix(".labels.npy")
    try:
        if not (labels.is_file() and pixels.is_file()):
            folder.mkdir(parents=True, exist_ok=True)
            _write(files, read, pixels, labels)
        found = np.load(labels, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"cache={cache}: {error.strerror or error}") from error
    if pixels.stat().st_size != len(found) * int(np.prod(shape)):
        raise ValueError(f"cache={cache}: {pixels} is damaged; delete it, and it is made again")
    return Decoded(pixels, shape, found[:, 0], found[:, 1])


def _write(files: Sequence[tuple[Any, int, int]], read: Any, pixels: Path, labels: Path) -> None:
    """Both files, whole or not at all: under other names until they are."""
    staged = pixels.with_name(f".{pixels.name}.{os.getpid()}")
    seen: set[bytes] = set()
    kept: list[tuple[int, int]] = []
    try:
        with staged.open("wb") as stream, ThreadPoolExecutor(THREADS) as pool:
            for some in _parts(files):
                images = pool.map(read, [file for file, _, _ in some])
                for (_, label, group), (image, digest) in zip(some, images, strict=True):
                    if digest not in seen:
                        seen.add(digest)
                        kept.append((label, group))
                        stream.write(image.tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        staged.replace(pixels)
        with staged.open("wb") as stream:
            np.save(stream, np.array(kept, np.int64).reshape(-1, 2))
        staged.replace(labels)
    finally:
        staged.unlink(missing_ok=True)


def _parts(files: Sequence[tuple[Any, int, int]]) -> Iterator[Sequence[tuple[Any, int, int]]]:
    iterator = iter(files)
    while some := list(itertools.islice(iterator, AT_ONCE)):
        yield some


def _stamp(file: Any) -> str:
    if not isinstance(file, Path):
        return ""  # inside of an archive, whose own name and size are in the source's
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"
