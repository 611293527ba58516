"""What a classifier's answers say of generated samples.

They are as good as the classifier, which has an answer for anything: a sample that is no digit has a class, too. The
distances and the overlap see that.

Shapes: N samples, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def agreement(class_N: Tensor, label_N: Tensor) -> float:
    """The share of samples in which a classifier finds the class that they should have.

    Args:
        class_N, label_N: int64 [N].

    Raises:
        ValueError: the shapes differ, or there are no samples.
    """
    if class_N.shape != label_N.shape or not len(class_N):
        raise ValueError(
            f"classes {list(class_N.shape)} and labels {list(label_N.shape)} must be of one shape [N >= 1]"
        )
    return float((class_N.cpu() == label_N.cpu()).double().mean())


def shares(class_N: Tensor, num_classes: int) -> Tensor:
    """How the samples are distributed over the classes, float64 [K], of the sum 1."""
    return torch.bincount(class_N.cpu(), minlength=num_classes).double() / max(1, len(class_N))


def divergence(share_K: Tensor, of_K: Tensor) -> float:
    """KL(share || of) = sum of share log(share / of), in nats: 0 for equal distributions; infinite if a class has
    samples that should have none."""
    share_K, of_K = share_K.double(), of_K.double()
    return float(torch.special.xlogy(share_K, share_K).sum() - torch.special.xlogy(share_K, of_K).sum())
