"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count, CountOrZero, Range, Seed
from trivium.data.images import labelled_images
from trivium.data.source import Splits
from trivium.data.splitting import split_rows


@checks_keywords
def digits(
    *,
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.2,
    split_seed: Seed = 0,
    normalize: bool = False,
    size: Annotated[int, Range(ge=8)] = 8,
    train_per_class: Count | None = None,
    folds: Annotated[int, Range(ge=2)] | None = None,
    fold: CountOrZero = 0,
) -> Splits:
    """1,797 grey images of 8 x 8 pixels in ten classes (UCI optdigits' test set).

    Args:
        val_fraction, test_fraction: of all images, stratified by class; each in (0, 1), together below 1.
        split_seed: which images go where; not the run's seed, so that seeds can be compared.
        normalize: see `labelled_images`.
        size: pixels of a side, >= 8, to which images are enlarged by linear interpolation: 28 as MNIST's.
        train_per_class: how many images of each class are learned from, >= 1; None: all of the training split.
        folds, fold: of a cross-validation, see `trivium.data.splitting.split_rows`.

    Raises:
        ValueError: a number is out of range.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images / 16.0).astype(np.float32)[:, None]
    y = bunch.target.astype(np.int64)
    index = split_rows(
        len(y), val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed, strata=y.tolist(),
        folds=folds, fold=fold,
    )  # fmt: skip
    train_x, val_x, test_x = (x[part] for part in index)
    train_y, val_y, test_y = (y[part] for part in index)
    if train_per_class is not None:
        few = np.concatenate([np.flatnonzero(train_y == label)[:train_per_class] for label in range(10)])
        train_x, train_y = train_x[few], train_y[few]
    if size != 8:
        train_x, val_x, test_x = (_enlarged(images, size) for images in (train_x, val_x, test_x))
    return labelled_images(
        (train_x, train_y), (val_x, val_y), (test_x, test_y), class_names=list("0123456789"), normalize=normalize
    )


def _enlarged(images: np.ndarray, size: int) -> np.ndarray:
    larger: np.ndarray = F.interpolate(torch.from_numpy(images), size=(size, size), mode="bilinear").numpy()
    return larger
