"""Which rows of a data set are learned from, and which are kept to choose and to judge models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Index(NamedTuple):
    """Numbers of rows, int64 [n] each; no row is in two of them."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_rows(
    number: int,
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    strata: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
    ordered: bool = False,
    folds: int | None = None,
    fold: int = 0,
    rows: str = "rows",
    names: str = "",
) -> Index:
    """Divide the rows of a data set among its three splits.

    Args:
        number: n, of rows.
        val_fraction, test_fraction: of all rows; each above 0, together below 1.
        split_seed: decides which rows go where; not the run's seed, so that seeds can be compared.
        strata: the class of each row: every split has the same share of each class.
        groups: the group of each row (a patient, a speaker): no group is in two splits. The strata are then used only
            by folds.
        ordered: the rows are in the order of time: training comes first and the test last. Nothing is shuffled.
        folds: k of a cross-validation, at least 2: the rows are divided into k parts and part number `fold` is the test
            split; `test_fraction` is not used. None: no cross-validation.
        fold: in [0, folds).
        rows: what the rows are, in messages.
        names: what messages about the rows begin with, such as `target=price: `.

    Raises:
        ValueError: a number is out of range, there are too few rows, classes or groups, or a class has fewer than 3
            rows.
    """
    at_end = 1 / folds if folds else test_fraction
    if folds is not None and not (folds >= 2 and 0 <= fold < folds):
        raise ValueError(f"fold={fold} and folds={folds}: there must be at least 2 folds, counted from 0")
    if not (0 < val_fraction < 1 and 0 < at_end < 1 and val_fraction + at_end < 1):
        second = f"folds={folds}" if folds else f"test_fraction={test_fraction}"
        raise ValueError(f"val_fraction={val_fraction} and {second} must be above 0 and leave rows to learn from")
    if ordered and folds:
        raise ValueError(f"folds={folds}: rows in the order of time are not divided into folds")
    least = max(3, folds or 0)
    if number < least:
        raise ValueError(f"{names}there must be at least {least} {rows}; there are {number}")
    if groups is not None and (many := len(set(groups))) < least:
        raise ValueError(f"{names}there must be at least {least} groups, one for each split; there are {many}")
    _require_of_each(strata, least, "split" if least == 3 else "fold", rows, names)
    if ordered:
        ends = [round(number * (1 - val_fraction - at_end)), round(number * (1 - at_end))]
        index = Index(*np.split(np.arange(number), ends))
    else:
        try:
            index = _shuffled(number, val_fraction, at_end, split_seed, strata, groups, folds, fold)
        except ValueError as error:
            raise ValueError(f"{names}the {rows} can't be split: {error}") from error
    for name, part in zip(Index._fields, index, strict=True):
        if not len(part):
            raise ValueError(f"{names}no {rows} are left for the split {name}; there are {number}")
    return index


def split_off(
    fraction: float, *, split_seed: int, strata: Sequence[Any], rows: str = "rows", names: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """A part of the rows for a second split, stratified; see `split_rows`.

    Returns:
        The numbers of the rows that stay and of those that are split off.
    """
    from sklearn.model_selection import train_test_split

    _require_of_each(strata, 2, "split", rows, names)
    try:
        stay, taken = train_test_split(
            np.arange(len(strata)), test_size=fraction, random_state=split_seed, stratify=np.asarray(strata)
        )
    except ValueError as error:
        raise ValueError(f"{names}the {rows} can't be split: {error}") from error
    return stay, taken


def _require_of_each(strata: Sequence[Any] | None, least: int, each: str, rows: str, names: str) -> None:
    counts = Counter(strata if strata is not None else ())
    if rare := [f"{stratum} ({count})" for stratum, count in sorted(counts.items()) if count < least]:
        few = f"each class needs at least {least} {rows}, one for each {each}"
        raise ValueError(f"{names}{few}; fewer has {', '.join(rare)}")


def _shuffled(
    number: int,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    strata: Sequence[Any] | None,
    groups: Sequence[Any] | None,
    folds: int | None,
    fold: int,
) -> Index:
    from sklearn import model_selection

    every = np.arange(number)
    stratum_of = None if strata is None else np.asarray(strata)
    group_of = None if groups is None else np.asarray(groups)

    def parted(rows: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        if group_of is not None:
            by_group = model_selection.GroupShuffleSplit(1, test_size=fraction, random_state=seed)
            rest, taken = next(by_group.split(rows, groups=group_of[rows]))
            return rows[rest], rows[taken]
        pair = model_selection.train_test_split(
            rows, test_size=fraction, random_state=seed, stratify=None if stratum_of is None else stratum_of[rows]
        )
        return pair[0], pair[1]

    if folds:
        kinds = {
            (False, False): model_selection.KFold,
            (True, False): model_selection.StratifiedKFold,
            (False, True): model_selection.GroupKFold,
            (True, True): model_selection.StratifiedGroupKFold,
        }
        made = kinds[strata is not None, groups is not None](folds, shuffle=True, random_state=seed)
        rest, test = list(made.split(every, stratum_of, group_of))[fold]
    else:
        rest, test = parted(every, test_fraction)
    train, val = parted(rest, val_fraction / (1 - test_fraction))
    return Index(train, val, test)
