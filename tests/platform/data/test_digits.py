from __future__ import annotations

import numpy as np
import pytest
import torch

from trivium.data.digits import digits
from trivium.data.source import Source


def columns(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    batch = source.batch(torch.arange(len(source)))
    return batch["x"], batch["y"]


def test_digits_are_images_in_the_unit_interval_with_labels() -> None:
    data = digits()
    assert [len(split) for split in data[:3]] == [1257, 180, 360]
    assert data.signature.offers["class_names"] == tuple("0123456789")
    for x, y in map(columns, data[:3]):
        assert x.dtype == torch.float32
        assert x.shape[1:] == (1, 8, 8)
        assert y.dtype == torch.int64
        assert y.shape == x.shape[:1]
        assert (x.min().item(), x.max().item()) == (0.0, 1.0)
        assert y.unique().tolist() == list(range(10))


def test_digits_are_split_without_overlap_and_by_class() -> None:
    from sklearn.datasets import load_digits

    data, source = digits(), load_digits()
    pairs = [
        (*image.flatten().tolist(), int(y)) for split in data[:3] for image, y in zip(*columns(split), strict=True)
    ]
    expected = [
        (*(image.flatten() / 16).tolist(), int(y)) for image, y in zip(source.images, source.target, strict=True)
    ]
    assert len(set(expected)) == len(expected)  # so that equal images would be an overlap
    assert sorted(pairs) == sorted(expected)
    share = np.bincount(source.target) / 1797
    for _, y in map(columns, data[:3]):
        assert np.abs(y.bincount().numpy() / len(y) - share).max() < 0.01


def test_the_split_seed_decides_what_goes_where() -> None:
    one, again, other = digits(), digits(), digits(split_seed=1)
    assert torch.equal(columns(one.test)[0], columns(again.test)[0])
    assert torch.equal(columns(one.train)[1], columns(again.train)[1])
    assert not torch.equal(columns(one.test)[0], columns(other.test)[0])
    assert len(digits(val_fraction=0.25, test_fraction=0.5).train) == pytest.approx(1797 / 4, abs=2)


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.2), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.2), (0.1, 1.0)])
def test_impossible_fractions_are_refused(val: float, test: float) -> None:
    with pytest.raises(ValueError, match=f"(val_fraction={val}|test_fraction={test}).* must"):
        digits(val_fraction=val, test_fraction=test)


def test_normalised_images_have_mean_0_and_standard_deviation_1_over_the_training_split() -> None:
    data = digits(normalize=True)
    x, _ = columns(data.train)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    raw, _ = columns(digits().test)
    mean, std = data.signature.preparation["mean"][0], data.signature.preparation["std"][0]
    torch.testing.assert_close(columns(data.test)[0], (raw - mean) / std, rtol=1e-4, atol=1e-5)
