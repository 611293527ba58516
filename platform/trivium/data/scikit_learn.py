"""Small tables and photographs that scikit-learn ships: nothing to download."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, CountOrZero, Range, Seed
from trivium.data.images import labelled_images
from trivium.data.source import Splits
from trivium.data.splitting import split_rows
from trivium.data.table import from_frame

Name = Literal["breast_cancer", "wine", "diabetes", "iris"]


@checks_keywords
def scikit_learn(
    *,
    name: Name,
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.2,
    split_seed: Seed = 0,
    folds: Annotated[int, Range(ge=2)] | None = None,
    fold: CountOrZero = 0,
) -> Splits:
    """A table of measurements.

    Args:
        name: `breast_cancer` (569 tumours, malignant or benign), `wine` (178 wines of three growers), `iris`
            (150 flowers of three kinds), `diabetes` (442 patients, and how far the disease got in a year: a quantity).
        val_fraction, test_fraction, split_seed, folds, fold: see `trivium.data.table.table`.

    Raises:
        ValueError: there is no table of this name.
    """
    from sklearn import datasets

    loaders = {
        "breast_cancer": datasets.load_breast_cancer,
        "wine": datasets.load_wine,
        "iris": datasets.load_iris,
        "diabetes": datasets.load_diabetes,
    }
    bunch = loaders[name](as_frame=True)
    frame = bunch.frame
    if "target_names" in bunch:
        frame = frame.assign(target=bunch.target_names[bunch.target])
    return from_frame(
        frame, target="target", val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed,
        folds=folds, fold=fold,
    )  # fmt: skip


@checks_keywords
def photographs(
    *,
    size: Annotated[int, Range(ge=4, le=128)] = 32,
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.2,
    split_seed: Seed = 0,
) -> Splits:
    """Square patches, side by side, of two colour photographs of 640 x 427 pixels, a temple and a flower, which are
    their classes. Patches of two splits may be neighbours, but share no pixel.

    Args:
        size: pixels of a patch's side, in [4, 128].
        val_fraction, test_fraction, split_seed: see `trivium.data.splitting.split_rows`.

    Raises:
        ValueError: a number is out of range.
    """
    from sklearn.datasets import load_sample_images

    patches, labels = [], []
    for label, image in enumerate(load_sample_images().images):
        rows, columns = (side // size for side in image.shape[:2])
        cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size, 3)
        patches.append(cut.transpose(0, 2, 4, 1, 3).reshape(-1, 3, size, size))
        labels += [label] * (rows * columns)
    x, y = np.concatenate(patches).astype(np.float32) / np.float32(255), np.array(labels)
    index = split_rows(
        len(y), val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed, strata=labels,
        rows="patches",
    )  # fmt: skip
    train, val, test = ((x[part], y[part]) for part in index)
    return labelled_images(train, val, test, class_names=("temple", "flower"), normalize=False)
