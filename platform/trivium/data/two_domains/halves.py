"""Two domains of which the truth is known: the halves of a data set, the second one transformed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Seed
from trivium.data.source import Signature, Source, Splits, Tensors

Transform = Literal["invert", "edges", "dilate"]


@checks_keywords
def transformed_halves(*, source: Splits, transform: Transform = "dilate", split_seed: Seed = 0) -> Splits:
    """Domain A is one half of the training images, domain B the transformed other half: a model sees no image in both.

    Validation and test images are in both domains: the row of B is the transform of the row of A, so that what a model
    makes of one can be compared with the truth, which it never saw.

    Args:
        source: a data set of images in [0, 1], held in memory.
        transform: what makes B of A, see `transformed`.
        split_seed: which training images are in which half; not the run's seed.

    Returns:
        Columns `x`, float32 [n, C, H, W], the images of A, and `other`, those of B.

    Raises:
        ValueError: the data set has no column `x` of images in memory, fewer than two rows, or no such transform.
    """
    for name, split in zip(("train", "val", "test"), source[:3], strict=True):
        x = split.columns.get("x") if isinstance(split, Tensors) else None
        if x is None or x.ndim != 4 or not x.is_floating_point() or len(x) < 2:
            raise ValueError(f"source: {name} must hold at least two images in memory, as a column x [n, C, H, W]")
    train = _images(source.train)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(split_seed))
    half = len(train) // 2
    shape = tuple(train.shape[1:])
    return Splits(
        Tensors(x=train[order[:half]], other=transformed(train[order[half : 2 * half]], transform)),
        _paired(source.val, transform),
        _paired(source.test, transform),
        Signature(
            offers={"input_shape": shape, "other_shape": shape, "paired": True},
            preparation={"kind": "image", **source.signature.preparation},
        ),
    )


def transformed(image_NCHW: Tensor, transform: Transform) -> Tensor:
    """Images with a known change, float32 [N, C, H, W] in [0, 1].

        invert  1 - x
        edges   the length of the gradient by Sobel's filters, at most 1
        dilate  the largest of 3 x 3 pixels: bright strokes become thicker

    Args:
        image_NCHW: float32 in [0, 1].

    Raises:
        ValueError: there is no such transform.
    """
    if transform == "invert":
        return 1 - image_NCHW
    if transform == "dilate":
        return F.max_pool2d(image_NCHW, 3, stride=1, padding=1)
    if transform == "edges":
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
        kernels = torch.stack([across, across.T])[:, None].to(image_NCHW)
        flat = F.pad(image_NCHW.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        length: Tensor = F.conv2d(flat, kernels).norm(dim=1).clamp(max=1)
        return length.view_as(image_NCHW)
    raise ValueError(f"transform={transform} must be one of invert, edges, dilate")


def _images(split: Source) -> Tensor:
    assert isinstance(split, Tensors)
    return split.columns["x"]


def _paired(split: Source, transform: Transform) -> Tensors:
    x = _images(split)
    return Tensors(x=x, other=transformed(x, transform))
