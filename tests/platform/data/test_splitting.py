"""Which rows go to which split: stratified, grouped, by time, in folds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trivium.data.splitting import split_off, split_rows


def split(number: int = 100, **keywords: Any) -> Any:
    return split_rows(number, **{"val_fraction": 0.1, "test_fraction": 0.2, "split_seed": 0, **keywords})


def test_each_row_is_in_one_split() -> None:
    index = split()
    assert [len(part) for part in index] == [70, 10, 20]
    assert sorted(np.concatenate(index)) == list(range(100))
    assert list(split().test) == list(index.test)
    assert list(split(split_seed=1).test) != list(index.test)


def test_strata_have_the_same_share_everywhere() -> None:
    strata = np.array(["a"] * 80 + ["b"] * 20)
    assert [sorted(strata[part].tolist()).count("b") for part in split(strata=strata.tolist())] == [14, 2, 4]


def test_no_group_is_in_two_splits() -> None:
    groups = np.arange(100) // 5
    found = [set(groups[part]) for part in split(groups=groups.tolist(), strata=["a", "b"] * 50)]
    assert sum(map(len, found)) == len(set.union(*found)) == 20
    assert [len(group) for group in found] == [14, 2, 4]


def test_time_goes_on_from_split_to_split() -> None:
    index = split(ordered=True)
    assert np.concatenate(index).tolist() == list(range(100))
    assert [len(part) for part in index] == [70, 10, 20]


@pytest.mark.parametrize("keywords", [{}, {"strata": ["a", "b"] * 50}, {"groups": [i // 5 for i in range(100)]}])
def test_each_row_is_tested_in_one_fold(keywords: dict[str, Any]) -> None:
    indices = [split(folds=5, fold=fold, **keywords) for fold in range(5)]
    assert sorted(np.concatenate([index.test for index in indices])) == list(range(100))
    for index in indices:
        assert sorted(np.concatenate(index)) == list(range(100))
        assert len(index.val) == 10


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave rows to learn from"),
        ({"val_fraction": 0.0}, "val_fraction=0.0"),
        ({"number": 2}, "at least 3 rows; there are 2"),
        ({"strata": ["a"] * 98 + ["b"] * 2}, r"at least 3 rows, one for each split; fewer has b \(2\)"),
        ({"strata": ["a"] * 96 + ["b"] * 4, "folds": 5}, r"at least 5 rows, one for each fold; fewer has b \(4\)"),
        ({"groups": [0] * 50 + [1] * 50}, "at least 3 groups"),
        ({"folds": 1}, "at least 2 folds"),
        ({"folds": 5, "fold": 5}, "fold=5 and folds=5"),
        ({"folds": 5, "ordered": True}, "order of time"),
        ({"number": 5, "strata": [*"aaabb"]}, r"fewer has b \(2\)"),
        ({"number": 6, "strata": [*"aaabbb"], "names": "path: "}, "path: the rows can't be split"),
    ],
)
def test_what_can_not_be_split_is_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(**keywords)


def test_a_part_is_split_off_by_class() -> None:
    stay, taken = split_off(0.25, split_seed=0, strata=["a", "b"] * 20)
    assert sorted([*stay, *taken]) == list(range(40))
    assert [int(row) % 2 for row in taken].count(0) == 5
    with pytest.raises(ValueError, match=r"path: each class needs at least 2 rows.*b \(1\)"):
        split_off(0.5, split_seed=0, strata=["a", "a", "b"], names="path: ")
