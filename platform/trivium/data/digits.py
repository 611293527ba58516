"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

import numpy as np

from trivium.data.images import labelled_images
from trivium.data.source import Splits


def digits(
    *, val_fraction: float = 0.1, test_fraction: float = 0.2, split_seed: int = 0, normalize: bool = False
) -> Splits:
    """1,797 grey images of 8 x 8 pixels in ten classes (UCI optdigits' test set).

    Args:
        val_fraction, test_fraction: of all images, stratified by class; each in (0, 1), together below 1.
        split_seed: which images go where; not the run's seed, so that seeds can be compared.
        normalize: see `labelled_images`.

    Raises:
        ValueError: the fractions are out of range.
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
    return labelled_images(
        (train_x, train_y), (val_x, val_y), (test_x, test_y), class_names=list("0123456789"), normalize=normalize
    )
