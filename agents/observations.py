"""Any observation as one tensor: what the envs give, rollouts and replay buffers hold, and networks take apart.

A Box or Discrete observation is a tensor already. A Dict or Tuple of them, at any depth, is packed into bytes: one row
an observation, its leaves one after another, each in its own dtype. A mask of the valid actions travels in the same
way, as the leaf `action_mask`: what acted, what is learnt and what is evaluated see the same one.

Shapes: B batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from trivium.learner import UserCodeError

ACTION_MASK = "action_mask"

_DTYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.float32): torch.float32, np.dtype(np.int64): torch.int64}


class Leaf(NamedTuple):
    """One part of an observation.

    Args:
        name: its keys joined by `.`; empty for an observation that is not composed.
        path: its keys.
        space: its space.
        shape: of one.
        dtype: uint8 for Boxes of uint8 and masks, int64 for Discrete and MultiDiscrete, else float32.
        start: the first byte in the packed row.
    """

    name: str
    path: tuple[Any, ...]
    space: gym.Space
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Layout:
    """Where the leaves of an observation are.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of such.

    Attributes:
        leaves: all but the mask.
        mask: the leaf with the mask of the valid actions, bool as uint8 [S], or None.

    Raises:
        ValueError: another kind of space.
    """

    def __init__(self, space: gym.Space) -> None:
        self.space = space
        self.leaves: list[Leaf] = []
        self.mask: Leaf | None = None
        self.packed = isinstance(space, gym.spaces.Dict | gym.spaces.Tuple)
        start = 0
        # Wide dtypes first: every leaf of the row is aligned to its own.
        for path, leaf_space in sorted(_walk(space, ()), key=lambda found: -_dtype(*found).itemsize):
            shape = tuple(leaf_space.shape or ())
            leaf = Leaf(".".join(map(str, path)), path, leaf_space, shape, _dtype(path, leaf_space), start)
            start += leaf.num_bytes
            if path == (ACTION_MASK,):
                self.mask = leaf
            else:
                self.leaves.append(leaf)
        self._every = (*self.leaves, *filter(None, (self.mask,)))
        self.num_bytes = -(-start // 8) * 8  # so that rows of a batch are aligned too

    def agrees(self, other: Layout) -> bool:
        """Whether what serves observations of one serves those of the other, too; Boxes may have other bounds."""

        def parts(layout: Layout) -> list[Any]:
            leaves = (leaf for leaf in (*layout.leaves, layout.mask) if leaf is not None)
            return [
                (one.path, one.shape, one.dtype, isinstance(one.space, gym.spaces.Box) or one.space) for one in leaves
            ]

        return parts(self) == parts(other)

    def array(self, leaf: Leaf, raw: Any, *, batch: tuple[int, ...] = ()) -> np.ndarray:
        """A copy of what an env returned for a leaf, in the leaf's dtype; Discrete values begin at 0.

        Args:
            batch: (B,) where it is of so many envs; () of one.

        Raises:
            UserCodeError: of another shape, or no numbers, or numbers that the leaf's dtype can't hold, such as 0.7 or
                300 in uint8.
        """
        shape = (*batch, *leaf.shape)
        if type(raw) is np.ndarray and raw.dtype == leaf.dtype and raw.shape == shape:
            value = raw.copy()
        elif (type(raw) is int or type(raw) is np.int64) and leaf.dtype == np.int64 and shape == ():
            value = np.array(raw)
        else:
            value = _cast(leaf, raw, shape)
        if isinstance(leaf.space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            value -= np.asarray(leaf.space.start, dtype=np.int64)
        return value

    def cast(self, raw: Any) -> Any:
        """One observation in the dtypes of its spaces, else as the env returned it; its errors are those of `pack`."""
        if not self.packed and _is_of(self.space, raw):
            return raw
        try:
            if all(_is_of(leaf.space, _at(raw, leaf.path)) for leaf in self._every):
                return raw
        except (IndexError, KeyError, TypeError):
            pass  # `pack` says what it is
        self.pack(raw)
        return _in_dtypes(self.space, raw)

    def problem(self, packed: np.ndarray) -> tuple[int, str] | None:
        """What is wrong with the numbers of a packed batch, [B, ...]: NaN, inf (also where float32 can't hold what the
        env returned), a choice that does not exist.

        Returns:
            The first row that has the first such problem, and what to say of it; None if there is none.
        """
        for leaf in self.leaves:
            value = packed
            if self.packed:
                value = packed[:, leaf.start : leaf.start + leaf.num_bytes].view(leaf.dtype)
                value = value.reshape(len(packed), *leaf.shape)
            if leaf.dtype == np.float32:
                good = np.isfinite(value)
                if isinstance(leaf.space, gym.spaces.MultiBinary):
                    good = (value == 0) | (value == 1)
            elif leaf.dtype == np.int64:
                good = (value >= 0) & (value < _sizes(leaf))
            else:
                continue
            if not good.all():
                row = int(good.reshape(len(packed), -1).all(1).argmin())
                bad = value[row]
                if leaf.dtype == np.float32 and not np.isfinite(bad).all():
                    what = "NaN" if np.isnan(bad).any() else "inf"
                    return row, f"it returned an observation{_of(leaf)} with {what}: {_text(bad)}"
                shown = bad + (leaf.space.start if leaf.dtype == np.int64 else 0)  # type: ignore[attr-defined]
                return row, f"it returned an observation{_of(leaf)} that is not of {leaf.space}: {_text(shown)}"
        return None

    def pack(self, raw: Any, *, batch: tuple[int, ...] = ()) -> np.ndarray:
        """One observation of the space, or those of a batch, as one array; see `array`, and for what is yet to be
        checked `problem`."""
        if not self.packed:
            return self.array(self.leaves[0], raw, batch=batch)
        row = np.zeros((*batch, self.num_bytes), np.uint8)
        for leaf in self._every:
            try:
                value = _at(raw, leaf.path)
            except (IndexError, KeyError, TypeError):
                raise UserCodeError(f"it returned an observation without{_of(leaf)}: {raw!r:.80}") from None
            array = np.ascontiguousarray(self.array(leaf, value, batch=batch)).reshape(*batch, -1)
            row[..., leaf.start : leaf.start + leaf.num_bytes] = array.view(np.uint8)
        return row

    def unpack(self, obs: Tensor, leaf: Leaf) -> Tensor:
        """A leaf of packed observations [B, ...] as [B, *leaf.shape] in the leaf's dtype."""
        if not self.packed:
            return obs
        part = obs[:, leaf.start : leaf.start + leaf.num_bytes]
        return part.contiguous().view(_DTYPES[leaf.dtype]).view(obs.shape[0], *leaf.shape)

    def action_mask(self, obs: Tensor) -> Tensor | None:
        """bool [B, S], True where an action is valid; None if the env has no masks."""
        return None if self.mask is None else self.unpack(obs, self.mask).bool()


def _cast(leaf: Leaf, raw: Any, shape: tuple[int, ...]) -> np.ndarray:
    """See `Layout.array`."""
    try:
        given = np.asarray(raw)
    except (RuntimeError, TypeError, ValueError):  # ragged lists, tensors that are elsewhere
        given = np.empty((), dtype=object)
    if given.dtype.kind not in "biuf":
        raise UserCodeError(f"it returned an observation{_of(leaf)} that is not of {leaf.space}: {raw!r:.80}")
    if given.shape != shape:
        raise UserCodeError(f"it returned an observation{_of(leaf)} of shape {given.shape}, its space says {shape}")
    if given.dtype == leaf.dtype:
        return given.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        value = given.astype(leaf.dtype)
    if leaf.dtype != np.float32 and (lost := value != given).any():
        example, dtype = given[lost].flat[0], leaf.space.dtype
        raise UserCodeError(
            f"it returned an observation{_of(leaf)} with {example:g} ({given.dtype}), which {dtype}, the dtype of its "
            "space, can't hold"
        )
    return value


def _at(raw: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        raw = raw[key]
    return raw


def _is_of(space: gym.Space, value: Any) -> bool:
    """Whether a value has a space's very type and shape; its numbers may be any."""
    if isinstance(space, gym.spaces.Discrete):
        return type(value) is int or type(value) is np.int64
    return type(value) is np.ndarray and value.dtype == space.dtype and value.shape == space.shape


def _in_dtypes(space: gym.Space, raw: Any) -> Any:
    """See `Layout.cast`."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _in_dtypes(part, raw[key]) for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_in_dtypes(part, raw[i]) for i, part in enumerate(space.spaces))
    with np.errstate(over="ignore"):
        return np.asarray(raw).astype(space.dtype)


def _sizes(leaf: Leaf) -> Any:
    """How many choices each number of a Discrete or MultiDiscrete leaf has, as `problem` lays them out."""
    if isinstance(leaf.space, gym.spaces.Discrete):
        return leaf.space.n
    return leaf.space.nvec  # type: ignore[attr-defined]


def _text(array: np.ndarray) -> str:
    return f"{array.tolist()!s:.200}"


def with_mask(space: gym.Space, num_logits: int) -> gym.Space:
    """The space of observations that carry a mask beside what they were."""
    parts = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"obs": space}
    return gym.spaces.Dict({**parts, ACTION_MASK: gym.spaces.MultiBinary(num_logits)})


def _walk(space: gym.Space, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], gym.Space]]:
    if isinstance(space, gym.spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(part, (*path, key))
    elif isinstance(space, gym.spaces.Tuple):
        for i, part in enumerate(space.spaces):
            yield from _walk(part, (*path, i))
    elif isinstance(space, gym.spaces.Box | gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        yield path, space
    else:
        raise ValueError(
            f"the observation space {space}: valid are Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple "
            "of them"
        )


def _dtype(path: tuple[Any, ...], space: gym.Space) -> np.dtype:
    if path == (ACTION_MASK,):
        return np.dtype(np.uint8)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return np.dtype(np.int64)
    return np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)


def _of(leaf: Leaf) -> str:
    return f" {leaf.name!r}" if leaf.name else ""
