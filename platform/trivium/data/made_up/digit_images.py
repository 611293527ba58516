"""Made of the handwritten digits that scikit-learn ships: pictures with several digits, nothing to download."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, CountOrZero, Seed
from trivium.data.source import Signature, Splits, Tensors

NAMES = tuple("0123456789")


@checks_keywords
def digit_pairs(*, num_samples: Count = 8000, val_samples: Count = 1000, split_seed: Seed = 0) -> Splits:
    """Two digits side by side, and which digits occur: one or two of ten labels.

    No digit of one split occurs in another.

    Args:
        num_samples: pictures to learn from.
        val_samples: pictures of the validation and of the test split each.
        split_seed: decides the pictures; not the run's seed.

    Returns:
        Columns `x`, float32 [n, 1, 8, 16] in [0, 1], and `y`, float32 [n, 10] of 0 and 1.

    Raises:
        ValueError: a number of samples is below 1.
    """

    def made(images: Tensor, classes: Tensor, count: int, generator: torch.Generator) -> Tensors:
        chosen = torch.randint(len(images), (count, 2), generator=generator)
        y = torch.zeros(count, 10).scatter(1, classes[chosen], 1.0)
        return Tensors(x=torch.cat([images[chosen[:, 0]], images[chosen[:, 1]]], dim=2)[:, None], y=y)

    signature = Signature(
        task="multi_label",
        offers={"input_shape": (1, 8, 16), "num_outputs": 10, "class_names": NAMES},
        preparation={"kind": "image", "scale": 16},
    )
    return _splits(made, num_samples, val_samples, split_seed, signature)


@checks_keywords
def digit_strips(
    *,
    num_samples: Count = 8000,
    val_samples: Count = 500,
    max_digits: Count = 5,
    max_gap: CountOrZero = 4,
    split_seed: Seed = 0,
) -> Splits:
    """A row of 1 to `max_digits` digits with gaps of unknown width, read column by column, and the number that they
    form: a small handwriting recogniser for CTC.

    No digit of one split occurs in another.

    Args:
        num_samples: strips to learn from.
        val_samples: strips of the validation and of the test split each.
        max_digits: of a strip, >= 1.
        max_gap: the most empty columns before each digit, >= 0.
        split_seed: decides the strips; not the run's seed.

    Returns:
        Columns `x`, float32 [n, T, 8] in [0, 1], columns of pixels from left to right with T = max_digits
        (8 + max_gap), empty at the end; `y`, int64 [n, max_digits], 1 + each digit, padded with 0, the blank.

    Raises:
        ValueError: a number is out of range.
    """
    steps = max_digits * (8 + max_gap)

    def made(images: Tensor, classes: Tensor, count: int, generator: torch.Generator) -> Tensors:
        chosen = torch.randint(len(images), (count, max_digits), generator=generator)
        digits = torch.randint(1, max_digits + 1, (count, 1), generator=generator)
        absent = torch.arange(max_digits) >= digits
        gap = torch.randint(max_gap + 1, (count, max_digits), generator=generator)
        start = (gap + 8).cumsum(1) - 8
        column = (start[:, :, None] + torch.arange(8)).flatten(1)
        pixels = images[chosen].transpose(2, 3)  # [n, digits, columns, rows]
        pixels = pixels.masked_fill(absent[:, :, None, None], 0).flatten(1, 2)
        x = torch.zeros(count, steps, 8).scatter(1, column[:, :, None].expand(-1, -1, 8), pixels)
        return Tensors(x=x, y=(classes[chosen] + 1).masked_fill(absent, 0))

    names = ("<blank>", *NAMES)
    signature = Signature(
        task="ctc",
        offers={"input_shape": (steps, 8), "num_outputs": len(names), "class_names": names},
        preparation={"kind": "strips", "scale": 16},
    )
    return _splits(made, num_samples, val_samples, split_seed, signature)


def _splits(made, num_samples: int, val_samples: int, split_seed: int, signature: Signature) -> Splits:  # type: ignore[no-untyped-def]
    """The digits are divided 7 : 1 : 2 before anything is made of them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(split_seed).permutation(len(bunch.target))
    images = torch.from_numpy((bunch.images[order] / 16).astype(np.float32))
    classes = torch.from_numpy(bunch.target[order].astype(np.int64))
    ends = [round(len(order) * 0.7), round(len(order) * 0.8)]
    generator = torch.Generator().manual_seed(split_seed)
    parts = zip(
        images.tensor_split(ends), classes.tensor_split(ends), (num_samples, val_samples, val_samples), strict=True
    )
    train, val, test = (made(x, y, count, generator) for x, y, count in parts)
    return Splits(train, val, test, signature)
