from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from trivium.supervised.metrics import (
    accuracy,
    average_precision,
    balanced_accuracy,
    calibration_error,
    confusion_matrix,
    macro_f1,
    roc_auc,
)

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


def test_areas_by_hand_and_as_scikit_learn_computes_them() -> None:
    score = torch.tensor([0.1, 0.4, 0.4, 0.8])
    positive = torch.tensor([False, True, False, True])
    assert roc_auc(score, positive).item() == pytest.approx(3.5 / 4)  # of 4 pairs one is a tie
    assert average_precision(score, positive).item() == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    generator = torch.Generator().manual_seed(0)
    score = (torch.rand(500, generator=generator) * 20).round() / 20  # with ties
    positive = torch.rand(500, generator=generator) < score * 0.7
    assert roc_auc(score, positive).item() == pytest.approx(roc_auc_score(positive, score), abs=1e-6)
    reference = average_precision_score(positive, score)
    assert average_precision(score, positive).item() == pytest.approx(reference, abs=1e-6)
    assert roc_auc(score, torch.ones(500, dtype=torch.bool)).isnan()
    assert average_precision(score, torch.zeros(500, dtype=torch.bool)).isnan()


def test_balanced_accuracy_by_hand() -> None:
    confusion = torch.tensor([[8, 2, 0], [0, 5, 0], [0, 0, 0]])  # recalls 0.8 and 1, the third class does not occur
    assert balanced_accuracy(confusion).item() == pytest.approx(0.9)


def test_the_calibration_error_by_hand_and_as_torchmetrics_computes_it() -> None:
    probability = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    target = torch.tensor([0, 1, 1])
    # Two with 0.9 of which one is right: 2 * 0.4; one with 0.6 that is right: 0.4; of three.
    assert calibration_error(probability, target, bins=10).item() == pytest.approx(1.2 / 3)
    generator = torch.Generator().manual_seed(0)
    probability = torch.randn(300, 4, generator=generator).softmax(1)
    target = torch.randint(0, 4, (300,), generator=generator)
    reference = multiclass_calibration_error(probability, target, num_classes=4, n_bins=15)
    assert calibration_error(probability, target).item() == pytest.approx(reference.item(), abs=1e-5)
