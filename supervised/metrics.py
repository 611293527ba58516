"""Scores of a classifier, from its confusion matrix: it is small, and it adds up over batches and workers."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion_matrix(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """How often each class was taken for each other.

    Args:
        predicted: int64 [B], in [0, num_classes).
        target: int64 [B], in [0, num_classes): the truth.
        num_classes: C.

    Returns:
        int64 [C, C]: row = the truth, column = what was predicted; sums to B.
    """
    return torch.bincount(target * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def accuracy(confusion: Tensor) -> Tensor:
    """The share of samples that were predicted right, in [0, 1]; NaN when there are none.

    Args:
        confusion: int64 [C, C], see `confusion_matrix`.

    Returns:
        float32, 0-d.
    """
    return confusion.diagonal().sum() / confusion.sum()


def macro_f1(confusion: Tensor) -> Tensor:
    """The mean over the classes of F1 = 2 TP / (2 TP + FP + FN), in [0, 1].

    Classes that neither occur nor are predicted are left out, as scikit-learn and torchmetrics do.

    Args:
        confusion: int64 [C, C], see `confusion_matrix`.

    Returns:
        float32, 0-d; NaN when there are no samples.
    """
    size = confusion.sum(0) + confusion.sum(1)  # 2 TP + FP + FN
    f1 = 2 * confusion.diagonal() / size
    return f1[size > 0].mean()
