"""A row of tensors as what it was before it became numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trivium.data.source import UNSCORED, Signature
from trivium.data.texts.vocabulary import SPECIAL, UNKNOWN, decoded

NUMBERS_UP_TO = 12  # longer columns are shown as their shape and range


def readable_row(row: Mapping[str, Tensor], signature: Signature) -> dict[str, Any]:
    """As a user would recognise it.

    Args:
        row: one row's tensors, on the CPU.

    Returns:
        A table's columns by name in their own units, classes by name, texts as text, other columns as their numbers or,
        if these are many, as their shape and range.
    """
    preparation, names = signature.preparation, signature.offers.get("class_names", ())
    table = preparation.get("kind") == "table"
    shown: dict[str, Any] = _table_row(row, preparation) if table else {}
    for name, values in row.items():
        called = str(preparation.get("target", "y")) if name == "y" else name
        if table and name != "y":
            continue
        if values.dtype == torch.int64 and values.ndim == 1 and "vocabulary" in preparation:
            kept = [number for number in values.tolist() if number != UNSCORED]
            if name == "y" and signature.task == "tagging":
                shown[called] = " ".join(str(names[number]) for number in kept)
            else:
                shown[called] = decoded(kept[: _length(row, name, len(kept))], _written(preparation))
        elif name == "y" and values.ndim == 0 and names:
            shown[called] = str(names[int(values)])
        elif values.numel() <= NUMBERS_UP_TO:
            numbers = [float(f"{value:.6g}") for value in values.flatten().tolist()]
            shown[called] = numbers[0] if len(numbers) == 1 else numbers
        else:
            shown[called] = f"{list(values.shape)} from {float(values.min()):.4g} to {float(values.max()):.4g}"
    return shown


def readable_tokens(tokens: Sequence[int], signature: Signature) -> list[str]:
    """Each token by itself, as it is written; by its number, if there is no vocabulary, and special ones by their
    names."""
    preparation = signature.preparation
    if preparation.get("tokens") != "bytes" and "vocabulary" not in preparation:
        return [str(number) for number in tokens]
    names: Any = preparation.get("vocabulary")
    written = []
    for number in tokens:
        special = isinstance(names, (list, tuple)) and number < len(names) and names[number] in (*SPECIAL, UNKNOWN)
        written.append(names[number] if special else decoded([number], _written(preparation)))
    return written


def as_pixels(x_NCHW: Tensor, preparation: Mapping[str, Any]) -> Tensor:
    """Images in [0, 1], from normalised ones: float [N, C, H, W] both."""
    if "mean" not in preparation:
        return x_NCHW
    mean_C, std_C = (torch.tensor(preparation[name], dtype=torch.float32) for name in ("mean", "std"))
    return x_NCHW * std_C[:, None, None] + mean_C[:, None, None]


def _length(row: Mapping[str, Tensor], name: str, number: int) -> int:
    """Of a padded sequence, how many tokens are none of the padding."""
    return int(row["length"]) if name == "x" and "length" in row else number


def _written(preparation: Mapping[str, Any]) -> Mapping[str, Any]:
    """How tokens become text; a sequence that is tagged is written with spaces between its tokens."""
    return preparation if "tokens" in preparation else {**preparation, "tokens": "words"}


def _table_row(row: Mapping[str, Tensor], preparation: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    at = 0
    for name, of in preparation["numbers"].items():
        missing = of["missing"] and bool(row["x"][at + 1])
        shown[name] = None if missing else float(f"{float(row['x'][at]) * of['std'] + of['mean']:.6g}")
        at += 1 + of["missing"]
    for k, (name, values) in enumerate(preparation["categories"].items()):
        number = int(row["categories"][k])
        shown[name] = values[number - 1] if number else None
    return shown
