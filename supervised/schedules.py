"""Learning rates as functions of the samples read: the same for any batch size and any number of workers."""

from __future__ import annotations

import math


def warmup_cosine(samples: int, *, peak: float, warmup_samples: int = 0, decay_samples: int | None = None) -> float:
    """A linear rise to `peak`, then, if wanted, half a cosine down to 0 (arXiv:1608.03983, without restarts).

    Args:
        samples: read so far, those of the batch that this update learns from included: the first update of a
            warm-up moves, and the one that reads sample number `decay_samples` has a rate of 0.
        peak: the highest rate.
        warmup_samples: the rate rises over these; 0 for no warm-up.
        decay_samples: the rate reaches 0 here and stays there; counted from the first sample, so that it may be
            the budget. None: it stays at `peak`.

    Returns:
        The rate, in [0, peak].

    Raises:
        ValueError: `warmup_samples` is negative or not below `decay_samples`.

    Example:
        peak=1, warmup_samples=10, decay_samples=30
        -> 0.5 after 5 samples, 1 after 10, 0.5 after 20, 0 after 30 and later.
    """
    if warmup_samples < 0 or (decay_samples is not None and warmup_samples >= decay_samples):
        raise ValueError(f"warmup_samples={warmup_samples} must be at least 0 and below decay_samples={decay_samples}")
    if samples < warmup_samples:
        return peak * samples / warmup_samples
    if decay_samples is None:
        return peak
    progress = min(1.0, (samples - warmup_samples) / (decay_samples - warmup_samples))
    return peak * (1 + math.cos(math.pi * progress)) / 2
