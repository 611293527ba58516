"""Files that a trained model is to say something of, and what it says as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trivium.data.image_folder import SUFFIXES, opened, pixels
from trivium.data.source import Signature
from trivium.data.table import read_frame


def read_inputs(path: Path, signature: Signature) -> tuple[pd.DataFrame, Any]:
    """What a model of this signature is given from files.

    Args:
        path: for a table a .csv or .parquet file with the columns that the training's had; for images a file, or a
            folder, of which all images are taken, those in folders below it too. They are scaled and cropped to the
            training's size as `image_folder` does.

    Returns:
        The columns that name the rows (the table itself, or `file`), and what `Trained.predict` takes.

    Raises:
        ValueError: a file can't be read, or the signature is of neither tables nor images.
    """
    kind = signature.preparation.get("kind")
    if kind == "table":
        frame = read_frame(path)
        return frame, frame
    if kind != "image":
        raise ValueError(f"{path}: the model's data were no table and no images; use trivium.load(RUN).predict")
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise ValueError(f"{path} holds no image ({', '.join(SUFFIXES)})")
    shape = signature.offers.get("input_shape", ())
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{path}: the training's images were {list(shape)}; files are read as 1 or 3 channels")
    channels, height, width = shape
    images = []
    for file in files:
        image = opened(file)
        if isinstance(image, str):
            raise ValueError(f"{file} can't be decoded: {image}")
        images.append(pixels(image[0], (width, height), grey=channels == 1))
    return pd.DataFrame({"file": [str(file) for file in files]}), np.stack(images)


def with_answers(
    rows: pd.DataFrame, answers: Mapping[str, np.ndarray], signature: Signature, *, every_class: bool = False
) -> pd.DataFrame:
    """The rows with what a model says of them beside their columns.

    Args:
        answers: see `Trained.predict`.
        every_class: add the probability of each class as `probability_CLASS`.

    Returns:
        Classification adds `prediction`, a class's name, and `probability`, its own; regression `prediction`, or
        `prediction_TARGET` where there are several targets.

    Raises:
        ValueError: the model's task is another one, or the rows already have a column of such a name.
    """
    added: dict[str, Any] = {}
    if "classes" in answers:
        scores = answers["scores"]
        names = np.asarray(_named(signature, "class_names", scores.shape[1]), dtype=object)
        added = {"prediction": names[answers["classes"]], "probability": scores.max(1)}
        if every_class:
            added |= {f"probability_{name}": scores[:, k] for k, name in enumerate(names)}
    elif "values" in answers:
        values = answers["values"]
        targets = _named(signature, "target_names", values.shape[1])
        each = ["prediction"] if len(targets) == 1 else [f"prediction_{name}" for name in targets]
        added = {name: values[:, k] for k, name in enumerate(each)}
    else:
        raise ValueError(f"the task {signature.task} has no predictions for a table; use trivium.load(RUN).predict")
    taken = [name for name in added if name in rows]
    if taken:
        raise ValueError(f"the input has a column {', '.join(taken)} already; rename it")
    return rows.assign(**added)


def _named(signature: Signature, kind: str, number: int) -> list[str]:
    """The names that a signature offers for outputs, or their numbers where it offers none."""
    names = list(signature.offers.get(kind, ()))
    return [str(name) for name in names] if len(names) == number else [str(i) for i in range(number)]
