"""What workers that train one module together keep alike: the mean of their gradients, and the first one's buffers.

As torch's DistributedDataParallel, which needs every parameter in every update, or searches the graph in each and sends
a message more. Here a layer that was not used, on this worker or on any, costs nothing until there is one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trivium.parallel.shared_sum import all_reduce

BUCKET_BYTES = 25 * 2**20  # of gradients that are summed at once, as DistributedDataParallel's


class Averaging(nn.Module):
    """A module whose gradients are averaged over the workers when the backward pass ends that its output is part of.

    A parameter that a worker did not use counts as a gradient of zeros there; one that nobody used keeps what it had,
    usually None, and optimizers leave it alone as they would on one worker. With the gradients' the buffers are made
    those of rank 0.

    Args:
        module: whose parameters and buffers become those of rank 0 now; not moved or converted afterwards.
        device: the worker's, on which messages to the others lie.
        overlap: sum gradients while the backward pass computes others: what a GPU does beside computing.
        bucket_bytes: see `BUCKET_BYTES`.
    """

    def __init__(
        self, module: nn.Module, device: torch.device, *, overlap: bool, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        super().__init__()
        self.module = module
        self._device = device
        self._overlap = overlap
        self._bucket_bytes = bucket_bytes
        self._active = True
        self._ready = self._has_buffers = False
        self._buckets: list[list[nn.Parameter]] = []
        self._bucket_of: dict[nn.Parameter, int] = {}
        self._pass: int | None = None  # torch's number of the backward pass that is under way
        self._missing: list[int] = []  # of each bucket, how many gradients have yet to come in it
        self._sums: list[tuple[Tensor, dist.Work | None]] = []  # of the first buckets, and what to wait for
        if not any(nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            self._prepare()

    def _prepare(self) -> None:
        parameters = list(self.module.parameters())
        buffers = list(self.module.buffers())
        make_first([*parameters, *buffers], self._device)
        self._ready, self._has_buffers = True, bool(buffers)
        self._buckets = list(_in_buckets(reversed(parameters), self._bucket_bytes))  # the last layers' come first
        self._bucket_of = {p: k for k, bucket in enumerate(self._buckets) for p in bucket}
        for parameter in parameters if self._overlap else ():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._came)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients of what is computed within are this worker's; the next backward pass outside averages the sum."""
        before, self._active = self._active, False
        try:
            yield
        finally:
            self._active = before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self._ready:
            with torch.no_grad():
                self.module(*args, **kwargs)  # lazy layers take their sizes from what they are given
            self._prepare()
        recomputed = torch._C._current_graph_task_id() != -1  # by a backward pass, for activation checkpointing
        if not self._active or not torch.is_grad_enabled() or recomputed:
            return self.module(*args, **kwargs)
        output = self.module(*args, **kwargs)
        tensors = _tensors(output)
        if not tensors:
            raise TypeError(
                f"{type(self.module).__name__} returns a {type(output).__name__}; several workers train what returns "
                "tensors, also in tuples, lists, dicts or attributes"
            )
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(self._begins)
        return output

    def _begins(self, _: Tensor) -> None:
        """A backward pass has come to the output."""
        number = torch._C._current_graph_task_id()
        if self._pass != number:
            self._pass, self._sums = number, []  # also after one that ended with an error
            self._missing = [sum(p.requires_grad for p in bucket) for bucket in self._buckets]
            torch.autograd.Variable._execution_engine.queue_callback(self._ends)

    def _came(self, parameter: nn.Parameter) -> None:
        """A parameter's gradient is there."""
        if self._pass is None:
            return
        bucket = self._bucket_of[parameter]
        if bucket < len(self._sums):
            raise RuntimeError("a parameter's gradient came in two parts: checkpointing needs use_reentrant=False")
        self._missing[bucket] -= 1
        while len(self._sums) < len(self._buckets) and not self._missing[len(self._sums)]:
            self._sum_next()

    def _sum_next(self) -> None:
        """Begin to sum a bucket, the same on every worker: its gradients, and how many workers have each of them."""
        bucket = _trained(self._buckets[len(self._sums)])
        if not bucket:
            self._sums.append((torch.empty(0), None))
            return
        have = bucket[0].new_ones(len(bucket))
        if any(p.grad is None for p in bucket):
            have = have.new_tensor([float(p.grad is not None) for p in bucket])
        flat = torch.cat([*map(_flat_gradient, bucket), have])
        if self._overlap:
            self._sums.append((flat, dist.all_reduce(flat, async_op=True)))
        else:
            self._sums.append((all_reduce(flat), None))

    @torch.no_grad()
    def _ends(self) -> None:
        """The backward pass has ended: sum what is left, give each parameter its mean, and agree on the buffers."""
        while len(self._sums) < len(self._buckets):
            self._sum_next()
        for bucket, (total, under_way) in zip(self._buckets, self._sums, strict=True):
            if under_way is not None:
                under_way.wait()
            _give_means(_trained(bucket), total)
        if self._has_buffers:
            make_first(list(self.module.buffers()), self._device)
        self._pass, self._sums = None, []


def _trained(bucket: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in bucket if parameter.requires_grad]


def _give_means(bucket: Sequence[nn.Parameter], total: Tensor) -> None:
    """To each parameter that any worker has a gradient of, the mean of the workers' gradients."""
    if not bucket:
        return
    *sums, have = total.split([*(p.numel() for p in bucket), len(bucket)])
    gradients = [p.grad for p in bucket if p.grad is not None and not p.grad.is_sparse]
    if len(gradients) == len(bucket):
        means = [each.view_as(p) for each, p in zip(sums, bucket, strict=True)]
        torch._foreach_div_(means, dist.get_world_size())
        torch._foreach_copy_(gradients, means)
        return
    for parameter, each, workers in zip(bucket, sums, have.tolist(), strict=True):
        if workers:
            mean = each.view_as(parameter) / dist.get_world_size()
            sparse = parameter.grad is not None and parameter.grad.is_sparse
            parameter.grad = mean.to_sparse(1) if sparse else mean


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter).flatten()
    return (gradient.to_dense() if gradient.is_sparse else gradient).flatten()


def _in_buckets(parameters: Iterable[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
    """In order, each bucket of one dtype and device, and of `size` bytes or a single parameter."""
    bucket: list[nn.Parameter] = []
    filled = 0
    for parameter in parameters:
        alike = bucket and (parameter.dtype, parameter.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and not (alike and filled + parameter.nbytes <= size):
            yield bucket
            bucket, filled = [], 0
        bucket.append(parameter)
        filled += parameter.nbytes
    if bucket:
        yield bucket


def _tensors(output: Any) -> list[Tensor]:
    """Those in nested tuples, lists and dicts, and in the attributes of what is none of these."""
    found = []
    for leaf in tree_leaves(output):
        inner = tree_leaves(list(vars(leaf).values())) if hasattr(leaf, "__dict__") else []
        found += [each for each in ([leaf] if isinstance(leaf, Tensor) else inner) if isinstance(each, Tensor)]
    return found


@torch.no_grad()
def make_first(tensors: Sequence[Tensor], device: torch.device) -> None:
    """Make tensors those of rank 0, bit for bit and in place; every worker calls it with as many of the same shapes.

    Args:
        device: on which messages lie.
    """
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.layout == torch.strided and tensor.numel():
            alike.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    for group in alike.values():
        flat = torch.cat([tensor.flatten() for tensor in group]).to(device)
        dist.broadcast(flat.view(torch.uint8), src=0)  # bytes: not all dtypes can be sent
        for tensor, first in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(first.view_as(tensor))


def make_buffers_first(learner: object, device: torch.device) -> None:
    """Make the buffers of a learner's modules those of rank 0: what running statistics are is not decided by gradients,
    and each worker has seen other samples."""
    buffers = {id(buffer): buffer for module in modules_of(learner) for buffer in module.buffers()}
    make_first([buffer for buffer in buffers.values() if not nn.parameter.is_lazy(buffer)], device)


def modules_of(learner: object) -> list[nn.Module]:
    """The modules that a learner has as its attributes, or in lists and dicts of them, or is itself."""
    modules = []
    for value in (learner, *getattr(learner, "__dict__", {}).values()):
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
        if isinstance(next(iter(values), None), nn.Module):  # one look at each: a list may be of a million samples
            modules += [each for each in values if isinstance(each, nn.Module)]
    return modules
