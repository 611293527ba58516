"""How many threads a run's updates are worth.

Several threads compute a large matrix sooner. For a small one they wait for each other longer than they compute, and on
a machine that does anything else much longer: a tiny network was fifteen times slower on two busy cores than on one.
How large matrices are is counted in the first update, not timed: so equal runs choose alike, and the bits of a result,
which depend on the number of threads, are the same again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

FLOP_PER_THREAD = 10_000_000  # of one matrix product: 0.1 to 0.3 ms, beside which waiting for the others is little


def worth(typical_flop: float, most: int) -> int:
    """The number of threads, from 1 to `most`, each of which has at least `FLOP_PER_THREAD` of a typical product.

    Example:
        at most 8 threads: 1e6 -> 1; 2.5e7 -> 2; 1e9 -> 8.
    """
    return max(1, min(most, int(typical_flop / FLOP_PER_THREAD)))


class Work(TorchDispatchMode):
    """Counts the floating-point operations of each matrix product and convolution on the CPU, backward passes included.
    What is computed comes to the same bits as otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._sum = self._sum_of_squares = 0.0

    @property
    def typical_flop(self) -> float:
        """The operations of the product that a random operation belongs to, sum f_i^2 / sum f_i; 0 without any."""
        return self._sum_of_squares / self._sum if self._sum else 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None and isinstance(args[0], Tensor) and args[0].device.type == "cpu":
            flop = float(formula(*args, **kwargs, out_val=out))
            self._sum += flop
            self._sum_of_squares += flop * flop
        return out


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    flop: int = sdpa_flop_count(query.shape, key.shape, value.shape)
    return flop


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    flop: int = sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)
    return flop


def _rnn_step(x_TBD: Tensor, weight: Tensor, recurrent: Tensor, *_: Any, **__: Any) -> int:
    """Of one of the time steps, which come one after the other."""
    batch = x_TBD.numel() // (x_TBD.shape[-1] * x_TBD.shape[0])
    return 2 * batch * (weight.numel() + recurrent.numel())


_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten.mkldnn_rnn_layer: _rnn_step,
    _aten.mkldnn_rnn_layer_backward: _rnn_step,
}


@contextlib.contextmanager
def counted(*, compile: bool) -> Iterator[Work]:
    """The work of what is computed within; what `torch.compile` has made is not compiled there.

    Args:
        compile: whether there is anything compiled: asking torch's compiler for it imports it, which takes a second.
    """
    eager = torch.compiler.set_stance("force_eager") if compile else contextlib.nullcontext()
    with eager, Work() as work:
        yield work
