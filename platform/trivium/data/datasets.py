"""Data sets that fit in memory, as tensors: a batch is an index.

Each function returns a `Dataset` of three disjoint splits; models are chosen on `val` and judged on `test`.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Split(NamedTuple):
    """Inputs and targets, aligned along their first dimension."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> Split:
        return Split(self.x.to(device), self.y.to(device))

    def shard(self, rank: int, world_size: int) -> Split:
        """Every `world_size`-th sample from `rank`: the part that one worker evaluates."""
        return Split(self.x[rank::world_size], self.y[rank::world_size])


class Dataset(NamedTuple):
    """Images as float32 [n, C, H, W] in [0, 1], labels as int64 [n] in [0, len(class_names))."""

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]

    def to(self, device: torch.device) -> Dataset:
        return Dataset(self.train.to(device), self.val.to(device), self.test.to(device), self.class_names)


def digits(*, val_fraction: float = 0.1, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (UCI optdigits' test set).

    Args:
        val_fraction, test_fraction: of all samples, stratified by class; each in (0, 1), together below 1.
        split_seed: which samples go where; not the run's seed, so that seeds can be compared.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if not (0 < val_fraction < 1 and 0 < test_fraction < 1 and val_fraction + test_fraction < 1):
        raise ValueError(f"val_fraction={val_fraction} and test_fraction={test_fraction} must sum to less than 1")
    bunch = load_digits()
    x = (bunch.images / 16.0).astype(np.float32)[:, None]
    y = bunch.target.astype(np.int64)
    rest_x, test_x, rest_y, test_y = train_test_split(
        x, y, test_size=test_fraction, random_state=split_seed, stratify=y
    )
    train_x, val_x, train_y, val_y = train_test_split(
        rest_x, rest_y, test_size=val_fraction / (1 - test_fraction), random_state=split_seed, stratify=rest_y
    )
    return Dataset(_split(train_x, train_y), _split(val_x, val_y), _split(test_x, test_y), tuple(map(str, range(10))))


def mnist(*, path: str, val_samples: int = 5000) -> Dataset:
    """MNIST from its four IDX files (`train-images-idx3-ubyte.gz`, ...; gzipped or not) in the folder `path`.

    The last `val_samples` of the 60,000 training images are the validation split.

    Raises:
        ValueError: a file is missing or is not IDX; names it.
    """
    folder = Path(path)
    train_x, train_y = _idx(folder, "train-images-idx3-ubyte"), _idx(folder, "train-labels-idx1-ubyte")
    test_x, test_y = _idx(folder, "t10k-images-idx3-ubyte"), _idx(folder, "t10k-labels-idx1-ubyte")
    if (len(train_x), len(test_x)) != (len(train_y), len(test_y)):
        raise ValueError(f"{folder}: there are not as many labels as images")
    if not 0 < val_samples < len(train_x):
        raise ValueError(f"val_samples={val_samples} must lie between 1 and {len(train_x) - 1}")
    return Dataset(
        _split(_unit(train_x[:-val_samples]), train_y[:-val_samples]),
        _split(_unit(train_x[-val_samples:]), train_y[-val_samples:]),
        _split(_unit(test_x), test_y),
        tuple(map(str, range(10))),
    )


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.astype(np.int64)))


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
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} can't be read: {error}") from error
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{file} is not an IDX file of unsigned bytes")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if data.size != shape.prod():
        raise ValueError(f"{file} is cut short: {data.size} bytes of {shape.prod()}")
    return data.reshape(shape)
