"""Raw inputs made what a data set's tensors are, by what its signature says of their preparation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trivium.data.inputs.texts import of_sequences, of_sources, of_texts
from trivium.data.source import Signature


def prepared(raw: Any, signature: Signature) -> dict[str, Tensor]:
    """The inputs of a model from what a user has.

    Args:
        raw: an array or tensor [n, ...]; a tuple of them, one for each input; a dict of them by name; or, for a table,
            a pandas frame with the columns that the training's had (others, and their order, do not matter). For texts
            that are classified or that others are written for, a list of them; for tagging, a list of lists of tokens;
            for time series the values seen, [n, P, K], in their own units. Bytes of
            pictures become numbers in [0, 1], and pictures are standardised as the training's were.

    Returns:
        By name, on the CPU.

    Raises:
        ValueError: the number of inputs, a shape, or a column is not what the training's was.
    """
    preparation = signature.preparation
    kind = preparation.get("kind")
    if kind == "table" and hasattr(raw, "columns"):
        return of_table(raw, preparation)
    if kind in ("labelled_text", "pairs", "tagged") and isinstance(raw, list | tuple) and not _tensors(raw):
        if kind == "tagged":
            return of_sequences(raw, preparation, signature.offers["context"])
        return of_texts(raw, preparation) if kind == "labelled_text" else of_sources(raw, preparation)
    names = ("source",) if kind == "pairs" else signature.inputs
    if isinstance(raw, Mapping):
        if set(raw) != set(names):
            raise ValueError(f"the model's inputs are {', '.join(names)}; got {', '.join(map(str, raw))}")
        parts = [raw[name] for name in names]
    else:
        parts = list(raw) if isinstance(raw, tuple) else [raw]
    if len(parts) != len(names):
        raise ValueError(f"the model has {len(names)} inputs, {', '.join(names)}; got {len(parts)}")
    inputs = {name: _numbers(part) for name, part in zip(names, parts, strict=True)}
    first, shape = names[0], signature.offers.get("input_shape")
    if kind == "series":
        mean_K, std_K = (torch.tensor(preparation[name], dtype=torch.float64) for name in ("mean", "std"))
        if inputs[first].shape[-1:] == mean_K.shape:
            inputs[first] = ((torch.as_tensor(parts[0]).double() - mean_K) / std_K).float()
    if kind == "image":
        inputs[first] = _of_images(inputs[first], parts[0], preparation)
    if shape is not None and list(inputs[first].shape[1:]) != list(shape):
        raise ValueError(f"{first} must be [n, {', '.join(map(str, shape))}]; is {list(inputs[first].shape)}")
    return inputs


def _tensors(raw: Any) -> bool:
    return any(hasattr(part, "shape") for part in raw)


def _numbers(part: Any) -> Tensor:
    tensor = part.detach().cpu() if isinstance(part, Tensor) else torch.as_tensor(np.asarray(part))
    if tensor.is_floating_point() or tensor.dtype in (torch.uint8, torch.bool):
        return tensor.float()
    return tensor.long()


def _of_images(x: Tensor, raw: Any, preparation: Mapping[str, Any]) -> Tensor:
    if "uint8" in str(getattr(raw, "dtype", "")):
        x = x / float(preparation.get("scale", 255))
    x = x.float()
    if "mean" in preparation:
        mean_C, std_C = (torch.tensor(preparation[name], dtype=torch.float64) for name in ("mean", "std"))
        scale, shift = (1 / std_C)[:, None, None].float(), (mean_C / std_C)[:, None, None].float()
        x = x * scale - shift
    return x


def _numeric(column: Any) -> np.ndarray:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    wrong = (numbers.isna() & column.notna()).to_numpy().nonzero()[0]
    if len(wrong):
        raise ValueError(f"column {column.name}, row {wrong[0]}: {column.iloc[wrong[0]]!r} is no number")
    values: np.ndarray = numbers.to_numpy(np.float64, na_value=np.nan)
    return values


def of_table(frame: Any, preparation: Mapping[str, Any]) -> dict[str, Tensor]:
    """The columns of a pandas frame as `x`, float32 [n, numbers], and `categories`, int64 [n, columns], if there are
    any: numbers standardised, a missing one as the mean, with a column that says so; categories by number, 0 for those
    that are missing or unknown. Columns go by their names as text.

    Raises:
        ValueError: a column is not there, or one of numbers holds something else; names it and the row, from 0.
    """
    frame = frame.rename(columns=str)
    wanted = [*preparation["numbers"], *preparation["categories"]]
    absent = [name for name in wanted if name not in frame]
    if absent:
        raise ValueError(f"the table lacks {', '.join(absent)}; it has {', '.join(map(str, frame))}")
    numbers: list[np.ndarray] = []
    for name, of in preparation["numbers"].items():
        values = _numeric(frame[name])
        missing = ~np.isfinite(values)
        numbers.append(np.where(missing, 0.0, (values - of["mean"]) / of["std"]))
        if of["missing"]:
            numbers.append(missing.astype(np.float64))
    x = np.stack(numbers, 1) if numbers else np.zeros((len(frame), 0))
    inputs = {"x": torch.from_numpy(x.astype(np.float32))}
    categories: list[np.ndarray] = []
    for name, known in preparation["categories"].items():
        order = {value: i + 1 for i, value in enumerate(known)}
        column = frame[name]
        text = column.astype(object).where(column.notna(), None)
        categories.append(
            np.array([0 if value is None else order.get(str(value), 0) for value in text], dtype=np.int64)
        )
    if categories:
        inputs["categories"] = torch.from_numpy(np.stack(categories, 1))
    return inputs
