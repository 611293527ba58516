"""Sums over the workers of one machine, through memory that they share.

By gloo the gradient of a small network takes one or two milliseconds to sum, longer than the update that it is for:
messages wake threads that wake others. Here each worker writes its numbers, says that they are there, and looks until
those of all are: 0.1 ms (`benchmarks/agents_on_workers.py`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CAPACITY = 2**18  # numbers; of more, gloo's throughput counts, not how long it takes to begin
LINE = 8  # int64 in a cache line: a worker that writes its own does not slow down who reads another's
LOOKS = 20_000  # before a worker sleeps between two looks: some milliseconds
TIMEOUT_S = 1800.0  # as gloo's


class SharedSum:
    """Sums of float32 tensors on the CPU, of at most `CAPACITY` elements; all workers make one, and call it, together.

    A number is written before the count that tells of it and seen in that order, which an x86 processor guarantees.
    Two places are written in turn: who is at a sum has seen that all are done with the last but one.

    Args:
        rank, world_size: see `trivium.learner.Run`; all workers stand on this machine.
        pid, descriptor: where rank 0 holds the memory open.
    """

    def __init__(self, rank: int, world_size: int, pid: int, descriptor: int) -> None:
        counts, numbers = world_size * LINE * 8, 2 * world_size * CAPACITY * 4
        own = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR)
        try:
            self._memory = mmap.mmap(own, counts + numbers)
        finally:
            os.close(own)
        self._sums = 0
        self._counts = memoryview(self._memory)[:counts].cast("q")
        self._own, self._others = rank * LINE, [other * LINE for other in range(world_size) if other != rank]
        self._rank = rank
        self._number_2WC = torch.frombuffer(self._memory, dtype=torch.float32, offset=counts).view(
            2, world_size, CAPACITY
        )
        self._views: dict[torch.Size, list[tuple[Tensor, list[Tensor]]]] = {}

    def takes(self, value: Tensor) -> bool:
        """Whether it sums such a tensor."""
        plain = value.dtype == torch.float32 and value.device.type == "cpu" and not value.requires_grad
        return plain and value.numel() <= CAPACITY

    def __call__(self, value: Tensor) -> Tensor:
        """The sum of `value` (any shape, the same on each) over the workers in the order of their ranks, a new tensor.

        Raises:
            DistNetworkError: another worker has not come to the same sum within `TIMEOUT_S`.
        """
        self._sums += 1
        own, all_W = (self._views.get(value.shape) or self._view(value.shape))[self._sums % 2]
        own.copy_(value)
        self._counts[self._own] = self._sums
        for other in self._others:
            self._wait(other)
        total = all_W[0] + all_W[1]
        for number in all_W[2:]:
            total += number
        return total

    def _view(self, shape: torch.Size) -> list[tuple[Tensor, list[Tensor]]]:
        """Of each of the two places, where this worker writes numbers of this shape, and those of all."""
        all_2W = self._number_2WC[:, :, : shape.numel()].view(2, len(self._others) + 1, *shape)
        self._views[shape] = [(all_W[self._rank], list(all_W)) for all_W in all_2W]
        return self._views[shape]

    def _wait(self, other: int) -> None:
        """Until another worker has come as far as this one."""
        looks = 0
        while self._counts[other] < self._sums:
            looks += 1
            if looks <= LOOKS:
                os.sched_yield()
                until = time.monotonic() + TIMEOUT_S if looks == LOOKS else 0.0
            elif time.monotonic() < until:
                time.sleep(1e-4)
            else:
                raise dist.DistNetworkError(f"another worker has not come to sum {self._sums} within {TIMEOUT_S:g} s")


_joined: SharedSum | None = None  # as torch.distributed's process group, of this process
_operators: list[torch.library.Library] = []  # what is registered is gone with what registered it


def all_reduce(value: Tensor) -> Tensor:
    """The sum of `value` over the workers, a new tensor: through shared memory where they have joined one, by
    torch.distributed otherwise."""
    if _joined is not None and _joined.takes(value):
        summed: Tensor = torch.ops.trivium.shared_sum(value)
        return summed
    value = value.clone()
    dist.all_reduce(value)
    return value


def join(rank: int, world_size: int) -> None:
    """Share memory with the other workers, who all stand on this machine and call this too. Where it can't be had, by
    any of them, all go on without."""
    global _joined
    place: list[Any] = [None]
    held = -1
    if rank == 0 and platform.machine().lower() in ("x86_64", "amd64") and hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            held = os.memfd_create("trivium-sum")  # no file: nothing is left when all are killed
            os.truncate(held, world_size * (LINE * 8 + 2 * CAPACITY * 4))
            place = [(os.getpid(), held)]
    dist.broadcast_object_list(place, src=0)
    made = None
    if place[0] is not None:
        with contextlib.suppress(OSError, ValueError):  # /proc is not to be read, or not of this machine
            made = SharedSum(rank, world_size, *place[0])
    all_have = torch.tensor(int(made is not None))
    dist.all_reduce(all_have, dist.ReduceOp.MIN)
    if held >= 0:
        os.close(held)
    _joined = made if all_have else None
    if not _operators:
        _register()


def _register() -> None:
    """Make it an operator of torch's, which stands in a compiled graph as it is."""
    library = torch.library.Library("trivium", "DEF")
    library.define("shared_sum(Tensor value) -> Tensor")
    library.impl("shared_sum", lambda value: _joined(value), "CPU")  # type: ignore[misc]  # called where there is one
    torch.library.register_fake("trivium::shared_sum", lambda value: value.new_empty(value.shape), lib=library)
    _operators.append(library)
