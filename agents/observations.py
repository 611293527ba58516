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
            ValueError: of another shape, or a NaN, or no numbers at all.
        """
        try:
            value = np.array(raw, dtype=leaf.dtype)
        except (TypeError, ValueError):
            raise ValueError(
                f"it returned an observation{_of(leaf)} that is not of {leaf.space}: {raw!r:.80}"
            ) from None
        if value.shape != (*batch, *leaf.shape):
            raise ValueError(
                f"it returned an observation{_of(leaf)} of shape {value.shape}, its space says {(*batch, *leaf.shape)}"
            )
        if value.dtype == np.float32 and np.isnan(value).any():
            raise ValueError(f"it returned an observation{_of(leaf)} with NaN: {raw!r:.200}")
        if isinstance(leaf.space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            value -= np.asarray(leaf.space.start, dtype=np.int64)
        return value

    def pack(self, raw: Any, *, batch: tuple[int, ...] = ()) -> np.ndarray:
        """One observation of the space, or those of a batch, as one array; see `array`."""
        if not self.packed:
            return self.array(self.leaves[0], raw, batch=batch)
        row = np.zeros((*batch, self.num_bytes), np.uint8)
        for leaf in (*self.leaves, *filter(None, (self.mask,))):
            value = raw
            for key in leaf.path:
                try:
                    value = value[key]
                except (IndexError, KeyError, TypeError):
                    raise ValueError(f"it returned an observation without{_of(leaf)}: {raw!r:.80}") from None
            array = np.ascontiguousarray(self.array(leaf, value, batch=batch)).reshape(*batch, -1)
            row[..., leaf.start : leaf.start + leaf.num_bytes] = array.view(np.uint8)
        return row

    def unpack(self, obs: Tensor, leaf: Leaf) -> Tensor:
        """A leaf of packed observations [B, ...] as [B, *leaf.shape] in the leaf's dtype."""
        if not self.packed:
            return obs
        part = obs[:, leaf.start : leaf.start + leaf.num_bytes]
        return part.contiguous().view(_DTYPES[leaf.dtype]).view(-1, *leaf.shape)

    def action_mask(self, obs: Tensor) -> Tensor | None:
        """bool [B, S], True where an action is valid; None if the env has no masks."""
        return None if self.mask is None else self.unpack(obs, self.mask).bool()


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
