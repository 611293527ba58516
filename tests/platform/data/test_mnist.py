from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from trivium.data.mnist import mnist
from trivium.data.source import Source

IMAGES = np.arange(7 * 6, dtype=np.uint8).reshape(7, 2, 3)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def columns(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    batch = source.batch(torch.arange(len(source)))
    return batch["x"], batch["y"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven training images of 2 x 3 pixels and two for the test; one file gzipped."""
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(255 - IMAGES[:2]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:2]))
    return tmp_path


def test_mnist_reads_idx_files_gzipped_or_not(folder: Path) -> None:
    data = mnist(path=str(folder), val_samples=2)
    (train_x, _), (val_x, _), (test_x, _) = pairs = [columns(split) for split in data[:3]]
    assert [tuple(x.shape) for x, _ in pairs] == [(5, 1, 2, 3), (2, 1, 2, 3), (2, 1, 2, 3)]
    assert [y.tolist() for _, y in pairs] == [[3, 1, 4, 1, 5], [9, 2], [3, 1]]
    assert train_x.dtype == torch.float32
    torch.testing.assert_close(train_x[0, 0] * 255, torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    torch.testing.assert_close(val_x[-1, 0] * 255, torch.tensor([[36.0, 37, 38], [39, 40, 41]]))
    assert test_x[0, 0, 0, 0] == 1.0


@pytest.mark.parametrize("val_samples", [0, 7, 8])
def test_mnist_keeps_something_to_train_on_and_to_validate(folder: Path, val_samples: int) -> None:
    with pytest.raises(ValueError, match=f"val_samples={val_samples}:? must (be an integer >= 1|lie between 1 and 6)$"):
        mnist(path=str(folder), val_samples=val_samples)


def test_mnist_names_the_file_that_is_missing_or_wrong(folder: Path) -> None:
    file = folder / "t10k-labels-idx1-ubyte"
    for content, complaint in ((idx(LABELS)[:-1], "is cut short: 6 bytes of 7"), (b"<html>", "is not an IDX file")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{file} {complaint}"):
            mnist(path=str(folder), val_samples=2)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{file}\[\.gz\] does not exist"):
        mnist(path=str(folder), val_samples=2)
