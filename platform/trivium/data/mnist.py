"""MNIST, and every data set in its format: Fashion-MNIST, KMNIST, EMNIST's digits."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trivium.boundary.places import find_data
from trivium.boundary.untrusted import read_bytes
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count
from trivium.data.images import labelled_images
from trivium.data.source import Splits

MAX_BYTES = 1_000_000_000  # of a file, unpacked: the largest there is, EMNIST, has half


@checks_keywords
def mnist(
    *, path: str, val_samples: Count = 5000, normalize: bool = False, class_names: Sequence[str] | None = None
) -> Splits:
    """70,000 grey images of 28 x 28 pixels from four IDX files in the folder `path`: `train-images-idx3-ubyte`,
    `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, each gzipped (`.gz`) or not.

    Args:
        path: the folder, see `find_data`.
        val_samples: the last ones of the training images, which become the validation split.
        normalize: see `labelled_images`.
        class_names: in the order of the labels; by default the numbers themselves.

    Raises:
        ValueError: a file is missing or is not IDX, or the numbers of images, labels and names do not agree; the
            message names the file.
    """
    folder = find_data(path)
    train_x, train_y = _idx(folder, "train-images-idx3-ubyte"), _idx(folder, "train-labels-idx1-ubyte")
    test_x, test_y = _idx(folder, "t10k-images-idx3-ubyte"), _idx(folder, "t10k-labels-idx1-ubyte")
    if (len(train_x), len(test_x)) != (len(train_y), len(test_y)):
        raise ValueError(f"{folder}: there are not as many labels as images")
    if not 0 < val_samples < len(train_x):
        raise ValueError(f"val_samples={val_samples} must lie between 1 and {len(train_x) - 1}")
    names = list(class_names or map(str, range(int(train_y.max()) + 1)))
    largest = max(int(train_y.max()), int(test_y.max()))
    if largest >= len(names):
        raise ValueError(f"{folder}: there is a label {largest}, but there are {len(names)} classes")
    return labelled_images(
        (_unit(train_x[:-val_samples]), train_y[:-val_samples]),
        (_unit(train_x[-val_samples:]), train_y[-val_samples:]),
        (_unit(test_x), test_y),
        class_names=names,
        normalize=normalize,
    )


def _unit(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32)[:, None] / np.float32(255)


def _idx(folder: Path, name: str) -> np.ndarray:
    """One IDX file of unsigned bytes: two zero bytes, type 8, number of dimensions, big-endian sizes, data."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.exists():
            break
    else:
        raise ValueError(f"{folder / name}[.gz] does not exist")
    try:
        raw = read_bytes(file, MAX_BYTES)
        if file.suffix == ".gz":
            with gzip.open(io.BytesIO(raw)) as unpacked:  # not all at once: a few kB may unpack to gigabytes
                raw = unpacked.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"{file} unpacks to more than {MAX_BYTES:,} bytes")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} can't be read: {error}") from error
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{file} is not an IDX file of unsigned bytes")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if data.size != shape.prod():
        raise ValueError(f"{file} is cut short: {data.size} bytes of {shape.prod()}")
    return data.reshape(shape)
