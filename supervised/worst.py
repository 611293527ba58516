"""The samples that a model is most wrong about, as a picture: often it is the label that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trivium.data.shown.readable import as_pixels, readable_row
from trivium.data.source import Batch, Signature, Source
from trivium.learner import Picture
from trivium.supervised.figures import captioned_figure, lines_figure

SHOWN = 12


class Worst(NamedTuple):
    """How wrong each sample is, and what there is to say of it.

    Attributes:
        badness_N: float [N], on the CPU: greater is worse.
        captions: the truth and the prediction of a sample, by its number.
    """

    badness_N: Tensor
    captions: Any


def worst_figure(worst: Worst, source: Source, signature: Signature, device: torch.device, *, title: str) -> Picture:
    """The worst samples with what they are and what the model says of them: images as images, the rest as text.

    Args:
        source: the split that was evaluated, whose row i is sample i.
    """
    number = min(SHOWN, len(worst.badness_N))
    index = worst.badness_N.topk(number).indices
    batch: Batch = source.batch(index.to(device))
    captions = [worst.captions(int(i)) for i in index]
    first = batch[signature.inputs[0]]
    if first.ndim == 4 and first.shape[1] in (1, 3):
        return captioned_figure(as_pixels(first.float().cpu(), signature.preparation), captions, title=title)
    rows = [readable_row({name: values[i].cpu() for name, values in batch.items()}, signature) for i in range(number)]
    texts = [_as_line(row, signature) for row in rows]
    return lines_figure(list(zip(captions, texts, strict=True)), title=title)


def _as_line(row: Mapping[str, Any], signature: Signature) -> str:
    """The inputs, without the target, which the caption has."""
    hidden = ("y", "target", "length", signature.preparation.get("target"))
    inputs = {name: value for name, value in row.items() if name not in hidden}
    if len(inputs) == 1:
        return str(next(iter(inputs.values())))
    return "  ".join(f"{name}={value}" for name, value in inputs.items())
