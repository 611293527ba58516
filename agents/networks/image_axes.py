"""Which axis of an image holds its channels: a Box of uint8 does not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Channels = Literal["first", "last"]


def channels_of(shape: Sequence[int]) -> Channels | None:
    """Where the channels of a picture are; None if that can't be told from its shape.

    At the end without which the picture is a square, or else at the shorter end if it is at most half as long as the
    other axes, or at the only end that is 1, 3 or 4 long.

    Args:
        shape: of one picture, [C, H, W] or [H, W, C].

    Example:
        [84, 84, 6] -> last, [2, 40, 60] -> first, [8, 8, 111] -> last, [84, 84, 84] and [10, 9, 12] -> None.
    """
    first, middle, last = shape
    if (first == middle) != (middle == last):
        return "last" if first == middle else "first"
    if 2 * min(first, last) <= sorted(shape)[1]:
        return "last" if last < first else "first"
    if (first in (1, 3, 4)) != (last in (1, 3, 4)):
        return "last" if last in (1, 3, 4) else "first"
    return None


def image_axes(shape: Sequence[int], channels: Channels | None = None) -> Channels | None:
    """Where the channels of a uint8 Box are that is an image; None if it is not.

    Args:
        shape: of the Box. An image is [H, W, C] or [C, H, W], also [K, H, W] of K frames without colours; or of frames
            one after another [K, H, W, C] or [K, C, H, W].
        channels: where they are, if that is known.

    Raises:
        ValueError: it is an image, and where its channels are can't be told from its shape, see `channels_of`.
    """
    if len(shape) not in (3, 4) or 0 in shape:
        return None
    *frames, first, middle, last = shape
    found = channels or channels_of((first, middle, last))
    sides = (first, middle) if found == "last" else (middle, last)
    if found is None or (channels is None and frames and frames[0] > min(sides)):
        raise ValueError(
            f"an image of shape {list(shape)} may have its channels first or last, after the frames if there are any: "
            "say so by agent.channels=first or agent.channels=last"
        )
    return found


def image_shape(shape: Sequence[int], channels: Channels | None = None) -> tuple[int, int, int] | None:
    """C, H, W of a uint8 Box that is an image, the channels of all frames together; None if it is not.

    Args, Raises:
        see `image_axes`.
    """
    found = image_axes(shape, channels)
    if found is None:
        return None
    *frames, first, middle, last = shape
    number = frames[0] if frames else 1
    return (number * last, first, middle) if found == "last" else (number * first, middle, last)
