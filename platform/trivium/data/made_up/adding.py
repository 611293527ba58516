"""The adding problem: add two marked numbers of a long sequence (Hochreiter & Schmidhuber 1997)."""

from __future__ import annotations

from typing import Annotated

import torch

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, Range, Seed
from trivium.data.source import Signature, Splits, Tensors


@checks_keywords
def adding(
    *,
    num_samples: Count = 50_000,
    length: Annotated[int, Range(ge=2)] = 50,
    val_samples: Count = 2000,
    split_seed: Seed = 0,
) -> Splits:
    """Sequences of random numbers in [0, 1), of which one in each half is marked; the target is the sum of the two.

    Always answering 1 gives a squared error of 1/6 = 0.167, which a network that forgets does not fall below.

    Args:
        num_samples: sequences to learn from.
        length: T, >= 2.
        val_samples: sequences of the validation and of the test split each.
        split_seed: decides the sequences; not the run's seed.

    Returns:
        Columns `x`, float32 [n, T, 2], the number and the mark of each step, and `y`, float32 [n, 1].

    Raises:
        ValueError: a number is out of range.
    """
    generator = torch.Generator().manual_seed(split_seed)

    def made(count: int) -> Tensors:
        number = torch.rand(count, length, generator=generator)
        half = length // 2
        first = torch.randint(half, (count, 1), generator=generator)
        second = torch.randint(half, length, (count, 1), generator=generator)
        marked = torch.cat([first, second], dim=1)
        mark = torch.zeros(count, length).scatter(1, marked, 1.0)
        return Tensors(x=torch.stack([number, mark], dim=2), y=number.gather(1, marked).sum(1, keepdim=True))

    signature = Signature(
        task="regression",
        offers={"input_shape": (length, 2), "num_outputs": 1, "target_names": ("sum",)},
        preparation={"kind": "adding"},
    )
    return Splits(made(num_samples), made(val_samples), made(val_samples), signature)
