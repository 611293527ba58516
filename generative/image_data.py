"""What the learners on images ask of a data set, its classes among it, and how their figures are laid out.

Shapes: N images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trivium.data.checks import checked, require_range, rows_of
from trivium.data.pictures import image_grid
from trivium.data.source import Splits
from trivium.learner import Picture, Run


def unit_images(data: Splits, run: Run, *columns: str) -> tuple[Splits, tuple[int, ...]]:
    """A data set on the run's device whose columns hold numbers in [0, 1], and the shape of one row of the first.

    Args:
        columns: the columns to check; none: `x`.

    Raises:
        ValueError: see `trivium.data.checks.checked` and `require_range`.
    """
    data = checked(data, run.device)
    for column in columns or ("x",):
        require_range(data, column, 0.0, 1.0, device=run.device)
    return data, tuple(rows_of(data.train, run.device)[(columns or ("x",))[0]].shape[1:])


def classes_of(data: Splits, conditional: bool) -> int:
    """The number of classes that a conditional model is trained with; 0 if it is not conditional.

    Raises:
        ValueError: `conditional`, but the data has no classes.
    """
    if not conditional:
        return 0
    if "num_outputs" not in data.signature.offers or data.signature.task not in ("", "classification"):
        raise ValueError("conditional=true: the data has no classes")
    return int(data.signature.offers["num_outputs"])


def labels_for(num: int, num_classes: int, label_N: Tensor | None, device: torch.device) -> Tensor | None:
    """The classes of `num` samples, int64 [num]: those given, else the classes in turn; None without classes."""
    if not num_classes:
        return None
    if label_N is None:
        return torch.arange(num, device=device) % num_classes
    return label_N.to(device)


def rows_above(parts: Sequence[Tensor], *, columns: int) -> Picture:
    """A grid in which a row of the first images is above a row of the second ones that belong to them, and so on.

    Args:
        parts: float [N, C, H, W] in [0, 1] each, such as originals and their reconstructions.
        columns: images in a row, at most.
    """
    columns = min(columns, len(parts[0]))
    rows = [row for group in zip(*(part.split(columns) for part in parts), strict=True) for row in group]
    return image_grid(torch.cat(rows), columns=columns)
