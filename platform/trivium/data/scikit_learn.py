"""Small tables that scikit-learn ships: nothing to download."""

from __future__ import annotations

from typing import Literal

from trivium.data.source import Splits
from trivium.data.table import from_frame

Name = Literal["breast_cancer", "wine", "diabetes", "iris"]


def scikit_learn(
    *,
    name: Name,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    folds: int | None = None,
    fold: int = 0,
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
    if name not in loaders:
        raise ValueError(f"name={name} must be one of {', '.join(loaders)}")
    bunch = loaders[name](as_frame=True)
    frame = bunch.frame
    if "target_names" in bunch:
        frame = frame.assign(target=bunch.target_names[bunch.target])
    return from_frame(
        frame, target="target", val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed,
        folds=folds, fold=fold,
    )  # fmt: skip
