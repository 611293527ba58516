"""A device that is not there, for machines without a GPU: its tensors say that they are elsewhere, and have their
numbers on the CPU.

What a GPU refuses is refused: an operation on tensors of two devices, NumPy of a tensor that is not on the CPU, a
generator of another device, a tensor in a message to a process that has no such device. What makes the CPU wait for a
GPU is counted. The name is torch's `meta`, the only device that no operation asks a driver about.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)  # a GPU takes indices of the CPU too
TOLD = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default)
TOLD += (aten.bincount.default, aten.repeat_interleave.Tensor, aten.equal.default)


class There(Tensor):
    """A tensor on the device; `held` has the numbers."""

    held: Tensor
    is_meta = False  # it has numbers, whatever the device is called
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made: There = Tensor._make_wrapper_subclass(cls, held.shape, **layout, device=DEVICE)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: There) -> None:
        self.held = value.held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a process without the device is sent a tensor of it")


class _Everywhere(TorchDispatchMode):
    """So that what makes new tensors asks `_run` too."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


waits: list[str] = []
"""Where the CPU has waited for a number of the device, a line of code each."""
_refused: set[torch.dtype] = set()


def _run(op: Any, args: Any, kwargs: Any) -> Any:
    leaves = tree_leaves((args, kwargs))
    there = any(isinstance(leaf, There) for leaf in leaves)
    where = kwargs.get("device") or (DEVICE if there else torch.device("cpu"))
    if op is aten.copy_.default:
        where = args[0].device
    on_device = torch.device(where) == DEVICE
    for leaf in leaves:
        if isinstance(leaf, torch._C.Generator) and (leaf._cdata in _generators_there) != on_device:
            raise RuntimeError(f"{op} on {where} with a generator of another device")
        elsewhere = isinstance(leaf, Tensor) and not isinstance(leaf, There)
        sent_along = op in MOVES or (op in INDEXED and leaf is not args[0])
        if elsewhere and leaf.dim() == 0:  # a number, for an operation on each element
            sent_along = sent_along or torch.Tag.pointwise in op.tags
        if there and elsewhere and not sent_along:
            raise RuntimeError(f"{op} of tensors on two devices")
    if (there and _is_told(op, args)) or _moves(op, args, kwargs, on_device):
        ours = [frame for frame in traceback.extract_stack() if "site-packages" not in frame.filename]
        waits.append(next(str(frame.line) for frame in reversed(ours) if frame.filename != __file__))
    result = op(*tree_map(_here, args), **tree_map(_here, kwargs))
    if on_device and op is not aten._local_scalar_dense.default:
        result = tree_map(_there, result)
    return return_and_correct_aliasing(op, args, kwargs, result) if there else result


def _is_told(op: Any, args: Any) -> bool:
    """Whether the CPU must know numbers of the device: one, or how many elements a result has."""
    indices = [one for one in args[1] if one is not None] if op in INDEXED else []
    return op in TOLD or any(one.dtype == torch.bool or not isinstance(one, There) for one in indices)


def _moves(op: Any, args: Any, kwargs: Any, on_device: bool) -> bool:
    """Whether torch copies from one device to the other, and waits for it; in either direction, unless asked not to."""
    if op not in MOVES or kwargs.get("non_blocking"):
        return False
    source = args[1] if op is aten.copy_.default else args[0]
    return isinstance(source, There) != on_device


def _there(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dtype in _refused:
        raise TypeError(f"the device has no {value.dtype}")
    return There(value)


def _here(value: Any) -> Any:
    if isinstance(value, There):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value == DEVICE else value


_generators_there: set[int] = set()


class _Generator(torch.Generator):
    """One of the CPU that says where it was made for."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")

    def __init__(self, device: Any = "cpu") -> None:
        self._device = torch.device(device)
        (_generators_there.add if self._device == DEVICE else _generators_there.discard)(self._cdata)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._device


def _on_device(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor`, whose move to a device no mode sees."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


def _apply(module: nn.Module, move: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which can't swap a parameter for one of another class."""
    for child in module.children():
        _apply(child, move)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(move(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = move(buffer)
    return module


def _autocast(kind: str, *args: Any, autocast: Any = torch.autocast, **how: Any) -> Any:
    """`torch.autocast`, which is not there for `meta`; there is none to switch off."""
    return contextlib.nullcontext() if kind == "meta" and how.get("enabled") is False else autocast(kind, *args, **how)


@contextlib.contextmanager
def device(*, float64: bool = True) -> Iterator[torch.device]:
    """The device, for as long as it is there; without float64 as Apple's."""
    save = torch.save
    waits.clear()
    _refused.clear()
    _refused.update(() if float64 else (torch.float64,))
    _generators_there.clear()
    with (
        mock.patch("torch.Generator", _Generator),
        mock.patch("torch.tensor", _on_device(torch.tensor)),
        mock.patch("torch.as_tensor", _on_device(torch.as_tensor)),
        mock.patch("torch.save", lambda value, *args, **how: save(tree_map(_here, value), *args, **how)),
        mock.patch("torch.nn.Module._apply", _apply),
        mock.patch("torch.autocast", _autocast),
        mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", return_value=["meta", "cpu"]),
        _Everywhere(),
    ):
        yield DEVICE
