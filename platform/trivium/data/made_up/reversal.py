"""A task that is made up: write a word from its end to its beginning."""

from __future__ import annotations

import torch

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, Seed
from trivium.data.source import Signature, Splits, Tensors
from trivium.data.texts.vocabulary import BEGIN, END, PAD, SPECIAL

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@checks_keywords
def reversal(
    *, num_samples: Count = 50_000, max_length: Count = 12, split_seed: Seed = 0, val_samples: Count = 1000
) -> Splits:
    """Random words of 1 to `max_length` letters and the same words reversed.

    Args:
        num_samples: words to learn from.
        max_length: of a word, >= 1.
        split_seed: decides the words; not the run's seed.
        val_samples: words of the validation and of the test split each.

    Returns:
        Columns `source`, int64 [n, max_length]; `target`, int64 [n, max_length + 1], begins with `BEGIN`; `y`, the same
        shifted by one, ends with `END`; all padded with `PAD` at their ends.
    """
    generator = torch.Generator().manual_seed(split_seed)

    def words(count: int) -> Tensors:
        length = torch.randint(1, max_length + 1, (count, 1), generator=generator)
        letters = torch.randint(len(SPECIAL), len(SPECIAL) + len(LETTERS), (count, max_length), generator=generator)
        position = torch.arange(max_length)
        source = letters.masked_fill(position >= length, PAD)
        backwards = source.gather(1, (length - 1 - position).clamp(min=0)).masked_fill(position >= length, PAD)
        y = torch.cat([backwards, torch.zeros(count, 1, dtype=torch.int64)], dim=1).scatter(1, length, END)
        target = torch.cat([torch.full((count, 1), BEGIN), backwards], dim=1)
        return Tensors(source=source, target=target, y=y)

    signature = Signature(
        task="sequence_to_sequence",
        inputs=("source", "target"),
        offers={"vocab_size": len(SPECIAL) + len(LETTERS), "max_length": max_length + 1},
        preparation={"kind": "pairs", "tokens": "characters", "vocabulary": [*SPECIAL, *LETTERS]},
    )
    return Splits(words(num_samples), words(val_samples), words(val_samples), signature)
