"""A task that is made up: dates as people write them, to be written as ISO 8601 does."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import torch

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, Seed
from trivium.data.source import Signature, Splits, Tensors
from trivium.data.texts.vocabulary import BEGIN, END, PAD, SPECIAL

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
FORMS: tuple[Callable[[datetime.date], str], ...] = (
    lambda d: f"{d.day} {MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{MONTHS[d.month - 1]} {d.day}, {d.year}",
    lambda d: f"{d.day}.{d.month}.{d.year}",
    lambda d: f"{d.month}/{d.day}/{d.year}",
    lambda d: f"{d.day} {MONTHS[d.month - 1][:3]} {d.year}",
    lambda d: f"{MONTHS[d.month - 1][:3]} {d.day} {d.year}",
)
FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)


@checks_keywords
def dates(*, num_samples: Count = 20_000, val_samples: Count = 1000, split_seed: Seed = 0) -> Splits:
    """Days between 1900 and 2099 in six forms (`3 May 1990`, `May 3, 1990`, `3.5.1990`, `5/3/1990`, `3 May 1990`,
    `May 3 1990` with short months), and the same as YYYY-MM-DD. No day of one split occurs in another.

    Args:
        num_samples: dates to learn from.
        val_samples: dates of the validation and of the test split each.
        split_seed: decides the dates; not the run's seed.

    Returns:
        Columns `source`, int64 [n, 18]; `target`, int64 [n, 11], begins with `BEGIN`; `y`, the same shifted by one,
        ends with `END`; all padded with `PAD` at their ends.

    Raises:
        ValueError: a number of samples is below 1.
    """
    generator = torch.Generator().manual_seed(split_seed)
    days = torch.randperm((LAST - FIRST).days + 1, generator=generator).tensor_split([58_000, 65_000])
    letters = sorted(set("".join(MONTHS) + "0123456789 .,/-"))
    number = {letter: i for i, letter in enumerate(letters, start=len(SPECIAL))}

    def made(own: torch.Tensor, count: int) -> Tensors:
        chosen = own[torch.randint(len(own), (count,), generator=generator)].tolist()
        forms = torch.randint(len(FORMS), (count,), generator=generator).tolist()
        written = [FIRST + datetime.timedelta(days=day) for day in chosen]
        source = torch.full((count, 18), PAD)
        iso = torch.zeros(count, 10, dtype=torch.int64)
        for row, (day, form) in enumerate(zip(written, forms, strict=True)):
            text = FORMS[form](day)
            source[row, : len(text)] = torch.tensor([number[letter] for letter in text])
            iso[row] = torch.tensor([number[letter] for letter in day.isoformat()])
        target = torch.cat([torch.full((count, 1), BEGIN), iso], dim=1)
        return Tensors(source=source, target=target, y=torch.cat([iso, torch.full((count, 1), END)], dim=1))

    signature = Signature(
        task="sequence_to_sequence",
        inputs=("source", "target"),
        offers={"vocab_size": len(SPECIAL) + len(letters), "max_length": 11},
        preparation={"kind": "pairs", "tokens": "characters", "vocabulary": [*SPECIAL, *letters]},
    )
    counts = (num_samples, val_samples, val_samples)
    train, val, test = (made(own, count) for own, count in zip(days, counts, strict=True))
    return Splits(train, val, test, signature)
