from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from trivium.data.datasets import Dataset, Split, digits, mnist

IMAGES = np.arange(7 * 6, dtype=np.uint8).reshape(7, 2, 3)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven training images of 2 x 3 pixels and two for the test; one file gzipped."""
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(255 - IMAGES[:2]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:2]))
    return tmp_path


def test_digits_are_images_in_the_unit_interval_with_labels() -> None:
    data = digits()
    assert [len(split.x) for split in data[:3]] == [1257, 180, 360]
    assert data.class_names == tuple("0123456789")
    for split in (data.train, data.val, data.test):
        assert split.x.dtype == torch.float32
        assert split.x.shape[1:] == (1, 8, 8)
        assert split.y.dtype == torch.int64
        assert split.y.shape == split.x.shape[:1]
        assert (split.x.min().item(), split.x.max().item()) == (0.0, 1.0)
        assert split.y.unique().tolist() == list(range(10))


def test_digits_are_split_without_overlap_and_by_class() -> None:
    from sklearn.datasets import load_digits

    data, source = digits(), load_digits()
    pairs = [(*image.flatten().tolist(), int(y)) for split in data[:3] for image, y in zip(*split, strict=True)]
    expected = [
        (*(image.flatten() / 16).tolist(), int(y)) for image, y in zip(source.images, source.target, strict=True)
    ]
    assert len(set(expected)) == len(expected)  # so that equal images would be an overlap
    assert sorted(pairs) == sorted(expected)
    share = np.bincount(source.target) / 1797
    for split in (data.train, data.val, data.test):
        assert np.abs(split.y.bincount().numpy() / len(split.y) - share).max() < 0.01


def test_the_split_seed_decides_what_goes_where() -> None:
    one, again, other = digits(), digits(), digits(split_seed=1)
    assert torch.equal(one.test.x, again.test.x)
    assert torch.equal(one.train.y, again.train.y)
    assert not torch.equal(one.test.x, other.test.x)
    assert len(digits(val_fraction=0.25, test_fraction=0.5).train.x) == pytest.approx(1797 / 4, abs=2)


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.2), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.2), (0.1, 1.0)])
def test_impossible_fractions_are_refused(val: float, test: float) -> None:
    with pytest.raises(ValueError, match=f"val_fraction={val} and test_fraction={test}"):
        digits(val_fraction=val, test_fraction=test)


def test_mnist_reads_idx_files_gzipped_or_not(folder: Path) -> None:
    data = mnist(path=str(folder), val_samples=2)
    assert [tuple(split.x.shape) for split in data[:3]] == [(5, 1, 2, 3), (2, 1, 2, 3), (2, 1, 2, 3)]
    assert [split.y.tolist() for split in data[:3]] == [[3, 1, 4, 1, 5], [9, 2], [3, 1]]
    assert data.train.x.dtype == torch.float32
    torch.testing.assert_close(data.train.x[0, 0] * 255, torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    torch.testing.assert_close(data.val.x[-1, 0] * 255, torch.tensor([[36.0, 37, 38], [39, 40, 41]]))
    assert data.test.x[0, 0, 0, 0] == 1.0


@pytest.mark.parametrize("val_samples", [0, 7, 8])
def test_mnist_keeps_something_to_train_on_and_to_validate(folder: Path, val_samples: int) -> None:
    with pytest.raises(ValueError, match=f"val_samples={val_samples} must lie between 1 and 6"):
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


def test_shards_are_disjoint_and_complete() -> None:
    split = Split(torch.arange(7)[:, None], torch.arange(7) * 10)
    shards = [split.shard(rank, 3) for rank in range(3)]
    assert [shard.x.flatten().tolist() for shard in shards] == [[0, 3, 6], [1, 4], [2, 5]]
    assert all(torch.equal(shard.x.flatten() * 10, shard.y) for shard in shards)
    assert len(split.shard(8, 9).x) == 0


def test_a_dataset_moves_as_a_whole() -> None:
    split = Split(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    moved = Dataset(split, split, split, ("a",)).to(torch.device("meta"))
    assert {t.device.type for part in moved[:3] for t in part} == {"meta"}
    assert moved.class_names == ("a",)
