"""A learner's state by the names that it declares: saved, loaded strictly, and found where a name was forgotten.

A learner names in `state` the attributes that its next step depends on:

    class Mine:
        state: ClassVar = ("model", "optimizer", "batches", "noise")

A named attribute is a module, an optimizer, a gradient scaler, a scheduler, a generator (torch's, numpy's, Python's), a
tensor or an array, a number, a text or None, any object with `state_dict` and `load_state_dict`, or a list, tuple or
dict of these. `derived` names the attributes that look like state and are none: what is made from the state or never
changes. Where names are not enough a learner writes `state_dict`, `load_state_dict` or `load_weights` itself; its own
method then takes the place of the function here, and may call `save_named` and `load_named`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trivium.data.source import Source
from trivium.ema import Average
from trivium.learner import Learner, Run
from trivium.saved import load_module, load_optimizer, load_scaler, require_like

PLAIN = (bool, int, float, str, type(None))
LOOKED_AT = 1000  # items of a list or dict, of which the first ones show what the others are
DEPTH = 6  # objects within objects that are looked into for what was not named


def state_dict(learner: Learner) -> dict[str, Any]:
    """Everything that the next `step` of a learner depends on, as nested dicts and lists of tensors, numbers and texts.
    No communication between workers."""
    own = getattr(learner, "state_dict", None)
    state: dict[str, Any] = own() if own else save_named(learner)
    return state


def load_state_dict(learner: Learner, state: Mapping[str, Any]) -> None:
    """Take back what `state_dict` returned for a learner built with the same config on the same rank.

    Raises:
        ValueError: the names differ, or a value has another shape, dtype or type than the learner's present one; names
            the value and both. The learner may then have taken a part of the state, and can take another.
    """
    own = getattr(learner, "load_state_dict", None)
    own(state) if own else load_named(learner, state)


def load_weights(learner: Learner, state: Mapping[str, Any]) -> None:
    """Take only what `evaluate` needs from a state of any rank of any world size: modules and averages of weights.

    Raises:
        ValueError: see `load_state_dict`.
    """
    own = getattr(learner, "load_weights", None)
    if own:
        own(state)
        return
    for name in _names(learner):
        value = getattr(learner, name)
        if _is_weights(value):
            _require_key(state, name, learner)
            _load(value, state[name], name)


def save_named(learner: object) -> dict[str, Any]:
    """The named attributes of a learner, by name."""
    return {name: _saved(getattr(learner, name), name) for name in _names(learner)}


def load_named(learner: object, state: Mapping[str, Any]) -> None:
    """Take back what `save_named` returned. Raises ValueError, see `load_state_dict`."""
    names = _names(learner)
    for name in names:
        _require_key(state, name, learner)
    if unknown := sorted(set(state) - set(names)):
        raise ValueError(f"the state holds {', '.join(unknown)}, which {type(learner).__name__} does not have")
    for name in names:
        value = getattr(learner, name)
        loaded = _load(value, state[name], name)
        if loaded is not value:
            setattr(learner, name, loaded)


def check(learner: Learner) -> None:
    """Check before a run begins that a learner can be saved.

    Raises:
        ValueError: it names no state and has no `state_dict`, a name is not an attribute or its value can't be saved,
            or an optimizer, a generator or a trained module is neither named nor said to be derived.
    """
    kind = type(learner).__name__
    if _hand_written(learner):
        return
    if not isinstance(getattr(learner, "state", None), tuple | list):
        raise ValueError(f"{kind} must name its state, as `state = ('model', 'optimizer')`, or have state_dict")
    for name in (*_names(learner), *_derived(learner)):
        if not hasattr(learner, name):
            raise ValueError(f"{kind} has no attribute {name}, which its `state` or `derived` names")
    for name in _names(learner):
        _require_saveable(getattr(learner, name), name)
    if forgotten := _forgotten(learner, tensors=False):
        raise ValueError(
            f"{kind} has {'; '.join(forgotten)}: name it in `state`, or in `derived` if no step depends on it"
        )


def undeclared(learner: Learner) -> list[str]:
    """What a learner's `state` forgets, for tests: modules, optimizers, generators and tensors that neither `state` nor
    `derived` names, wherever the learner's attributes hold them, and numbers that a step changes. Makes two steps and
    two evaluations.

    Returns:
        One text for each, which begins with the attribute's name; none for a learner that is declared whole.

    Raises:
        ValueError: see `check`; or the learner has a `state_dict` of its own, of which nothing is known.
    """
    if _hand_written(learner):
        raise ValueError(f"{type(learner).__name__} has a state_dict of its own")
    check(learner)
    learner.step(), learner.evaluate(), learner.evaluate(final=True)
    named = {*_names(learner), *_derived(learner)}
    before = {name: value for name, value in vars(learner).items() if isinstance(value, PLAIN)}
    learner.step()
    changed = [
        f"{name}, which a step changes from {value!r} to {vars(learner)[name]!r}"
        for name, value in before.items()
        if name not in named and vars(learner).get(name) != value
    ]
    return [*_forgotten(learner, tensors=True), *changed]


# ----------------------------------------------------------------------------------------------- saving and loading


def _names(learner: object) -> tuple[str, ...]:
    names: tuple[str, ...] = tuple(getattr(learner, "state", ()))
    return names


def _derived(learner: object) -> tuple[str, ...]:
    names: tuple[str, ...] = tuple(getattr(learner, "derived", ()))
    return names


def _hand_written(learner: object) -> bool:
    return hasattr(learner, "state_dict") and hasattr(learner, "load_state_dict")


def _require_key(state: Mapping[str, Any], name: str, learner: object) -> None:
    if name not in state:
        raise ValueError(f"the state lacks {name}, which {type(learner).__name__} needs")


def _is_weights(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_weights, value))
    if isinstance(value, dict):
        return bool(value) and all(map(_is_weights, value.values()))
    return isinstance(value, nn.Module | Average)


def _has_state(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _is_generator(value: Any) -> bool:
    return isinstance(value, torch.Generator | np.random.Generator | random.Random)


def _require_saveable(value: Any, where: str) -> None:
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _require_saveable(item, f"{where}.{key}")
    elif not (_has_state(value) or _is_generator(value) or isinstance(value, (Tensor, np.ndarray, *PLAIN))):
        raise ValueError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which can't be saved: "
            "it needs state_dict and load_state_dict"
        )


def _saved(value: Any, where: str) -> Any:
    if _has_state(value):
        return value.state_dict()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return _saved(value.bit_generator.state, where)
    if isinstance(value, random.Random):
        return _saved(value.getstate(), where)
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {key: _saved(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_saved(item, f"{where}.{i}") for i, item in enumerate(value)]
    _require_saveable(value, where)
    return value


def _load(value: Any, saved: Any, where: str) -> Any:
    """What the attribute is from now on: `value` itself with the saved content where that can be, else a new value."""
    if isinstance(value, nn.Module):
        load_module(value, saved, where)
    elif isinstance(value, torch.optim.Optimizer):
        load_optimizer(value, saved, where)
    elif isinstance(value, torch.amp.GradScaler):
        load_scaler(value, saved, where)
    elif isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        require_like(saved, value.state_dict(), where)
        value.load_state_dict(saved)
    elif _has_state(value):
        if not isinstance(saved, Mapping):
            require_like(saved, value.state_dict(), where)
        value.load_state_dict(saved)
    elif isinstance(value, torch.Generator):
        require_like(saved, value.get_state(), where)
        value.set_state(saved.cpu())  # a generator of any device keeps its state on the CPU
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = _load(value.bit_generator.state, saved, where)
    elif isinstance(value, random.Random):
        value.setstate(_load(value.getstate(), saved, where))
    elif isinstance(value, Tensor):
        require_like(saved, value.detach(), where)
        with torch.no_grad():
            value.copy_(saved)
    elif isinstance(value, np.ndarray):
        require_like(saved, torch.from_numpy(value), where)
        value[...] = saved.numpy()
    elif isinstance(value, dict):
        if not isinstance(saved, Mapping) or set(saved) != set(value):
            require_like(saved, value, where)
        for key, item in value.items():
            value[key] = _load(item, saved[key], f"{where}.{key}")
    elif isinstance(value, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(value):
            require_like(saved, value, where)
        items = [_load(item, saved[i], f"{where}.{i}") for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return tuple(items)
        value[:] = items
    else:
        require_like(saved, value, where)
        return saved
    return value


# ----------------------------------------------------------------------------------------------- what was forgotten


def _forgotten(learner: Learner, *, tensors: bool) -> list[str]:
    """What holds state and is reached from the learner's attributes, but not from those that are named.

    Args:
        tensors: whether to look for tensors, too, and for modules that are not trained.
    """
    attributes = vars(learner)
    known: set[int] = set()
    for name in (*_names(learner), *_derived(learner)):
        for _, value in _holders(getattr(learner, name), name, set()):
            known |= _identities(value)
    found: dict[str, str] = {}
    for name, value in attributes.items():
        if name not in (*_names(learner), *_derived(learner)):
            for where, holder in _holders(value, name, set()):
                within = any(where.startswith(outer) for outer in found)
                if not within and _counts(holder, tensors=tensors) and not _identities(holder) <= known:
                    found[where] = f"{where}, a {type(holder).__name__}"
    return list(found.values())


def _counts(holder: Any, *, tensors: bool) -> bool:
    if isinstance(holder, nn.Module):
        return tensors or any(p.requires_grad for p in holder.parameters())
    return tensors or isinstance(holder, torch.optim.Optimizer) or _is_generator(holder)


def _identities(value: Any) -> set[int]:
    """What identifies the state in a value: the memory of tensors, so that views and wrappers are the same."""
    if isinstance(value, nn.Module):
        held = (*value.parameters(), *value.buffers())
        return {key for tensor in held for key in _identities(tensor)}
    if isinstance(value, Tensor):
        if nn.parameter.is_lazy(value):
            return {id(value)}
        return {value.untyped_storage().data_ptr()} if value.numel() else set()
    return {id(value)}


def _holders(value: Any, where: str, seen: set[int], depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """The modules, optimizers, generators, tensors and objects with a state that a value is or holds, and where."""
    if id(value) in seen or depth < 0 or isinstance(value, (Run, Source, type, *PLAIN)):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module | Tensor) or _is_generator(value) or _has_state(value):
        yield where, value
    if isinstance(value, nn.Module | Tensor | torch.optim.Optimizer | np.ndarray):
        return
    inner: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        inner = {f"[{key!r}]": value[key] for key in list(value)[:LOOKED_AT]}
    elif isinstance(value, list | tuple | set | frozenset):
        inner = {f"[{i}]": item for i, item in enumerate(list(value)[:LOOKED_AT])}
    elif isinstance(value, functools.partial):
        inner = {".func": value.func, ".args": value.args, ".keywords": value.keywords}
    elif not callable(value) or _has_state(value):
        inner = {f".{name}": item for name, item in getattr(value, "__dict__", {}).items()}
    for name, item in inner.items():
        yield from _holders(item, f"{where}{name}", seen, depth - 1)
