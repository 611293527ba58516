from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from trivium.supervised.metrics import accuracy, confusion_matrix, macro_f1

COUNTS = torch.tensor([[3, 1, 0], [0, 2, 2], [0, 0, 0]])  # class 2 never occurs, but is predicted


def test_confusion_matrix_counts_truth_in_rows_and_prediction_in_columns() -> None:
    predicted, target = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert confusion_matrix(predicted, target, 3).tolist() == COUNTS.tolist()
    nothing = torch.empty(0, dtype=torch.int64)
    assert confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]


def test_accuracy_by_hand() -> None:
    assert accuracy(COUNTS).item() == pytest.approx(5 / 8)


def test_macro_f1_by_hand() -> None:
    # 2 TP / (2 TP + FP + FN): 6/7, 4/7, 0/2
    assert macro_f1(COUNTS).item() == pytest.approx((6 / 7 + 4 / 7 + 0) / 3)


def test_macro_f1_leaves_out_a_class_that_neither_occurs_nor_is_predicted() -> None:
    counts = torch.tensor([[2, 0, 0], [0, 0, 0], [1, 0, 1]])
    assert macro_f1(counts).item() == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_scores_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(5, (200,), generator=generator)
    predicted = torch.where(torch.rand(200, generator=generator) < 0.6, target, target * 3 % 5)
    counts = confusion_matrix(predicted, target, 7)
    assert accuracy(counts).item() == pytest.approx(accuracy_score(target, predicted))
    assert macro_f1(counts).item() == pytest.approx(f1_score(target, predicted, average="macro"))
