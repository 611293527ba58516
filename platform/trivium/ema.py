"""An exponential moving average of a module's weights, which is what is evaluated, sampled from and exported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trivium.saved import require_count, require_like


class Average:
    """The average of a module's parameters and floating-point buffers (batch normalisation's statistics, which fit no
    other weights, among them):

        average_n = d_n average_(n-1) + (1 - d_n) weights_n,    d_n = min(decay, (1 + n) / (10 + n))

    The bound on d_n lets the average follow fast while it is young. Integer buffers are taken as they are.

    Args:
        module: whose weights are averaged; it is not changed.
        decay: per update, in (0, 1).
        every: updates between two times that the average is moved, by `decay ** every`; more is cheaper.

    Raises:
        ValueError: `decay` or `every` is out of range.
    """

    def __init__(self, module: nn.Module, *, decay: float, every: int = 1) -> None:
        if not 0 < decay < 1 or every < 1:
            raise ValueError(f"decay={decay} must lie between 0 and 1, and every={every} be at least 1")
        self.decay, self.every = decay, every
        self.updates = 0
        self._module = module
        self._averages = [tensor.detach().clone() for tensor in self._weights()]

    def _weights(self) -> list[Tensor]:
        return [*self._module.parameters(), *self._module.buffers()]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the module's weights as they are now; called after each update."""
        self.updates += 1
        if self.updates % self.every:
            return
        decay = min(self.decay**self.every, (1 + self.updates) / (10 + self.updates))
        averages, weights = [], []
        for average, weight in zip(self._averages, self._weights(), strict=True):
            if average.is_floating_point():
                averages.append(average)
                weights.append(weight)
            else:
                average.copy_(weight)
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextlib.contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights, until the context is left, by an exception too."""
        own = [weight.detach().clone() for weight in self._weights()]
        self._copy(self._averages)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, tensors: list[Tensor]) -> None:
        for weight, tensor in zip(self._weights(), tensors, strict=True):
            weight.copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": self._averages}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = require_count(state["updates"], "average.updates")
        require_like(state["averages"], self._averages, "average")
        for average, loaded in zip(self._averages, state["averages"], strict=True):
            average.copy_(loaded)


def averaged(average: Average | None) -> contextlib.AbstractContextManager[None]:
    """The module has its averaged weights within, see `Average.applied`; its own where there is no average."""
    return average.applied() if average else contextlib.nullcontext()
