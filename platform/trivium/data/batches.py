"""The order in which samples are read: shuffled, endless, the same for any number of workers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trivium.learner import Run
from trivium.saved import require_count
from trivium.schedules import Shape, scheduled

POOL = 64
"""The batches whose samples are sorted by length together: more make lengths more alike, and less is random."""


class Batches:
    """An endless stream of shuffled sample indices, epoch after epoch, cut into full batches.

    Sample k of the stream is `permutation(k // n)[k % n]`; a batch may straddle two epochs, so every batch is full
    and every sample is read exactly once an epoch. Each permutation depends on the seed and its epoch only:
    the whole state is the number of samples read, and the order is the same for any number of workers, each of
    which takes its slice of every batch.

    Args:
        num_samples: n, size of the data set, >= 1.
        batch_size: of the whole run, a multiple of the number of workers, at most n.
        weights: float [n] >= 0, how often each sample is drawn relative to the others: an epoch is then n draws with
            replacement. None: every sample once an epoch.
        lengths: int64 [n], the lengths of the samples, on the device of the indices: those of a batch are then alike.
            Each epoch is shuffled, sorted by length within the samples of `POOL` batches, and its batches are shuffled;
            the one that straddles two epochs is mixed. None: the order does not depend on them.
        run: gives seed, rank, world_size and the device of the indices.

    Raises:
        ValueError: the data set is empty or smaller than a batch, or that does not divide among the workers.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        run: Run,
        weights: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError("the data set is empty")
        if batch_size > num_samples:
            raise ValueError(f"batch_size={batch_size}: the training set has {num_samples:,} samples")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.samples = 0  # read so far by all workers
        self._weights, self._lengths = weights, lengths
        self._share = run.share(batch_size, "batch_size")
        self._run = run
        self._order = torch.empty(0, dtype=torch.int64, device=run.device)
        self._start = 0  # the stream's position of _order[0]

    @property
    def epochs(self) -> float:
        """How often the data set has been read."""
        return self.samples / self.num_samples

    def samples_in(self, epochs: float | None) -> int | None:
        """How many samples are read in this many epochs; None for None."""
        return None if epochs is None else round(epochs * self.num_samples)

    def schedule(
        self,
        peak: float,
        *,
        warmup_epochs: float | None,
        decay_epochs: float | None,
        final_ratio: float,
        shape: Shape = "cosine",
    ) -> Callable[[float], float]:
        """A learning rate by the number of samples read; see `trivium.schedules.scheduled`, whose positions are given
        in epochs here: None for no warm-up, and for no fall.

        Raises:
            ValueError: `warmup_epochs` is negative or not below `decay_epochs`.
        """
        if warmup_epochs is not None and not 0 <= warmup_epochs < (math.inf if decay_epochs is None else decay_epochs):
            below = "" if decay_epochs is None else f" and below decay_epochs={decay_epochs:g}"
            raise ValueError(f"warmup_epochs={warmup_epochs:g} must be at least 0{below}")
        return functools.partial(
            scheduled,
            peak=peak,
            shape=shape,
            warmup=self.samples_in(warmup_epochs) or 0,
            decay=self.samples_in(decay_epochs),
            final_ratio=final_ratio,
        )

    def counters(self) -> dict[str, float]:
        """A learner's progress, see `trivium.learner.Learner.counters`."""
        return {"samples": self.samples, "epochs": self.epochs}

    def next(self) -> Tensor:
        """The next batch of this worker: int64 [batch_size / world_size]. A view: do not write to it."""
        if self._start + len(self._order) < self.samples + self.batch_size:
            self._extend()
        begin = self.samples - self._start + self._run.rank * self._share
        self.samples += self.batch_size
        return self._order[begin : begin + self._share]

    def peek(self) -> Tensor:
        """What `next` will return, without taking it."""
        read = self.samples
        index = self.next()
        self.samples = read
        return index

    def _extend(self) -> None:
        unread = self._order[self.samples - self._start :]
        epoch = (self._start + len(self._order)) // self.num_samples
        self._start, self._order = self.samples, torch.cat([unread, self._permutation(epoch)])

    def _permutation(self, epoch: int) -> Tensor:
        generator = self._run.generator("order", epoch)
        if self._weights is None:
            order = torch.randperm(self.num_samples, generator=generator)
        else:
            order = torch.multinomial(self._weights, self.num_samples, replacement=True, generator=generator)
        order = order.to(self._run.device)
        return order if self._lengths is None else self._by_length(order, self._lengths, epoch)

    def _by_length(self, order: Tensor, lengths: Tensor, epoch: int) -> Tensor:
        """An epoch's order with samples of similar length in each batch that lies within it."""
        begin = -epoch * self.num_samples % self.batch_size  # where the first such batch begins
        count = (self.num_samples - begin) // self.batch_size
        end = begin + count * self.batch_size
        pools = order[begin:end].split(POOL * self.batch_size)
        alike = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in pools]).view(count, self.batch_size)
        generator = self._run.generator("lengths", epoch)
        rows, columns = (torch.randperm(n, generator=generator).to(order.device) for n in alike.shape)
        # The columns too, so that no worker has the longest samples of each batch.
        return torch.cat([order[:begin], alike[rows][:, columns].flatten(), order[end:]])

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.samples = require_count(state["samples"], "batches.samples")
        epoch = self.samples // self.num_samples
        self._start, self._order = epoch * self.num_samples, self._permutation(epoch)
