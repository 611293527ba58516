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


def balanced_accuracy(confusion: Tensor) -> Tensor:
    """The mean over the classes that occur of their recall, in [0, 1].

    Args:
        confusion: int64 [C, C], see `confusion_matrix`.

    Returns:
        float32, 0-d; NaN when there are no samples.
    """
    size = confusion.sum(1)
    recall: Tensor = confusion.diagonal() / size
    return recall[size > 0].mean()


def roc_auc(score: Tensor, positive: Tensor) -> Tensor:
    """The probability that a positive sample scores higher than a negative one, a tie counting half: the area under
    the ROC curve, in [0, 1].

    Args:
        score: float [N].
        positive: bool [N].

    Returns:
        float32, 0-d; NaN unless both kinds occur.
    """
    value, order = score.double().sort()
    _, group, size = value.unique_consecutive(return_inverse=True, return_counts=True)
    rank = (size.cumsum(0) - (size - 1) / 2)[group]  # from 1; equal scores share the mean of their ranks
    hit = positive[order].double()
    positives, negatives = hit.sum(), (1 - hit).sum()
    area: Tensor = ((rank * hit).sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return area.float()


def average_precision(score: Tensor, positive: Tensor) -> Tensor:
    """The area under the steps of precision over recall, in [0, 1]: sum of (recall_i - recall_{i-1}) * precision_i over
    the thresholds, from the highest score down.

    Args:
        score: float [N].
        positive: bool [N].

    Returns:
        float32, 0-d; NaN when there is no positive sample.
    """
    value, order = score.double().sort(descending=True)
    hits = positive[order].double().cumsum(0)
    last = value.diff(append=value.new_full((1,), -torch.inf)) != 0  # of equal scores
    hits, taken = hits[last], last.nonzero()[:, 0] + 1
    gained = hits.diff(prepend=hits.new_zeros(1))
    return (gained * hits / taken).sum().div(positive.sum()).float()


def calibration_error(probability: Tensor, target: Tensor, *, bins: int = 15) -> Tensor:
    """Expected calibration error (arXiv:1706.04599): the mean over samples of |accuracy - confidence| of their bin, in
    [0, 1].

    Args:
        probability: float [N, C].
        target: int64 [N], the classes.
        bins: of equal width of the highest probability; bin i holds (i / bins, (i + 1) / bins].

    Returns:
        float32, 0-d; NaN when there are no samples.
    """
    confidence_N, predicted_N = probability.double().max(1)
    bin_N = ((confidence_N * bins).ceil().long() - 1).clamp(0, bins - 1)
    excess_N = (predicted_N == target).double() - confidence_N
    gap = torch.zeros(bins, dtype=torch.float64, device=probability.device).index_add(0, bin_N, excess_N)
    return (gap.abs().sum() / len(target)).float()
