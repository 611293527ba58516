"""Files that a trained model is to say something of, and what it says as a table."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trivium.data.image_folder import SUFFIXES, opened, pixels
from trivium.data.source import Signature
from trivium.data.table import read_frame
from trivium.data.texts.vocabulary import decoded


def read_inputs(path: Path, signature: Signature) -> tuple[pd.DataFrame, Any]:
    """What a model of this signature is given from files.

    Args:
        path: for a table a .csv or .parquet file with the columns that the training's had; for images a file, or a
            folder, of which all images are taken, those in folders below it too. They are scaled and cropped to the
            training's size as `image_folder` does. For texts a table with the column of texts, a .txt file with a text
            on each line, or a folder of .txt files with a text each; for tagging a .txt file with a token on each line
            and an empty line between two sequences; for time series a table whose last rows are the values seen.

    Returns:
        The columns that name the rows (the table itself, `file`, `text` or `tokens`), and what `Trained.predict` takes.

    Raises:
        ValueError: a file can't be read, or data of this kind are not read from files.
    """
    preparation = signature.preparation
    kind = preparation.get("kind")
    if kind == "table":
        frame = read_frame(path)
        return frame, frame
    if kind in ("labelled_text", "pairs"):
        rows, texts = _texts(path, preparation.get("text" if kind == "labelled_text" else "source", "source"))
        return rows, texts
    if kind == "tagged":
        sequences = _sequences(path, signature.offers["context"])
        return pd.DataFrame({"tokens": sequences}), sequences
    if kind == "series":
        return pd.DataFrame(), _history(read_frame(path), path, signature)
    if kind != "image":
        raise ValueError(f"{path}: data of the kind {kind} are not read from files; use trivium.load(RUN).predict")
    shape = signature.offers.get("input_shape", ())
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{path}: the training's images were {list(shape)}; files are read as 1 or 3 channels")
    channels, height, width = shape
    files, images = zip(*read_images(path, grey=channels == 1, size=(width, height)), strict=True)
    return pd.DataFrame({"file": [str(file) for file in files]}), np.stack(images)


def read_images(path: Path, *, grey: bool, size: tuple[int, int] | None = None) -> list[tuple[Path, np.ndarray]]:
    """An image, or those of a folder and of folders below it by name: the file and float32 [C, H, W] in [0, 1].

    Args:
        grey: one channel in place of three.
        size: (width, height) that images are scaled and cropped to; None: each has its own.

    Raises:
        ValueError: there is no image, or one can't be decoded.
    """
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise ValueError(f"{path} holds no image ({', '.join(SUFFIXES)})")
    images = []
    for file in files:
        image = opened(file)
        if isinstance(image, str):
            raise ValueError(f"{file} can't be decoded: {image}")
        images.append((file, pixels(image[0], size, grey=grey)))
    return images


def read_standard_input(signature: Signature) -> tuple[pd.DataFrame, Any]:
    """As `read_inputs`, of what is piped into the process: a table in CSV, an image, or texts, one on each line.

    Raises:
        ValueError: see `read_inputs`.
    """
    suffix = {"table": ".csv", "series": ".csv"}.get(str(signature.preparation.get("kind")), "")
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        try:
            rows, inputs = read_inputs(Path(file.name), signature)
        except ValueError as error:
            raise ValueError(str(error).replace(f"path={file.name}", "it").replace(file.name, "it")) from error
    return rows.assign(file="-") if suffix == "" and "file" in rows else rows, inputs


def with_answers(
    rows: pd.DataFrame, answers: Mapping[str, np.ndarray], signature: Signature, *, every_class: bool = False
) -> pd.DataFrame:
    """The rows with what a model says of them beside their columns.

    Args:
        answers: see `Trained.predict`.
        every_class: add the probability of each class as `probability_CLASS`.

    Returns:
        Classification adds `prediction`, a class's name, and `probability`, its own; regression `prediction`, or
        `prediction_TARGET` where there are several targets; several labels `prediction`, their names with spaces
        between; what is written for a text `prediction`. Tagging has a row for each token, forecasting one for each
        step ahead.

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
    elif "labels" in answers:
        names = np.asarray(_named(signature, "class_names", answers["scores"].shape[1]), dtype=object)
        added = {"prediction": [" ".join(names[chosen]) for chosen in answers["labels"]]}
        if every_class:
            added |= {f"probability_{name}": answers["scores"][:, k] for k, name in enumerate(names)}
    elif "written" in answers:
        added = {"prediction": [decoded(map(int, row), signature.preparation) for row in answers["written"]]}
    elif "tags" in answers:
        return _tags(rows, answers, signature)
    elif "values" in answers and answers["values"].ndim == 3:
        ahead = answers["values"][0]
        series = _named(signature, "target_names", ahead.shape[1])
        return pd.DataFrame({"step": range(1, len(ahead) + 1), **{name: ahead[:, k] for k, name in enumerate(series)}})
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


def _tags(rows: pd.DataFrame, answers: Mapping[str, np.ndarray], signature: Signature) -> pd.DataFrame:
    names = _named(signature, "class_names", len(signature.offers.get("class_names", ())))
    made = []
    for i, tokens in enumerate(rows["tokens"]):
        for t, token in enumerate(tokens):
            tag, score = names[int(answers["tags"][i, t])], float(answers["scores"][i, t])
            made.append({"sequence": i + 1, "token": token, "prediction": tag, "probability": score})
    return pd.DataFrame(made)


def _texts(path: Path, column: str) -> tuple[pd.DataFrame, list[str]]:
    """Texts, and the columns that name them."""
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        if not files:
            raise ValueError(f"{path} holds no .txt file")
        texts = [_read(file) for file in files]
        return pd.DataFrame({"file": [str(file) for file in files]}), texts
    if path.suffix in (".csv", ".parquet", ".tsv"):
        frame = read_frame(path)
        if column not in frame:
            raise ValueError(f"{path} has no column {column}; it has {', '.join(map(str, frame))}")
        if (missing := np.flatnonzero(frame[column].isna())).size:
            raise ValueError(f"{path}, row {missing[0] + 1}, column {column}: there is no text")
        return frame, [str(text) for text in frame[column]]
    lines = [line for line in _read(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} holds no text")
    return pd.DataFrame({"text": lines}), lines


def _sequences(path: Path, most: int) -> list[list[str]]:
    """Tokens, the first word on each line, by sequences; those longer than `most` are cut into several."""
    sequences: list[list[str]] = [[]]
    for line in _read(path).splitlines():
        if not line.strip():
            sequences.append([])
        elif len(sequences[-1]) == most:
            sequences.append([line.split()[0]])
        else:
            sequences[-1].append(line.split()[0])
    found = [sequence for sequence in sequences if sequence]
    if not found:
        raise ValueError(f"{path} holds no token")
    return found


def _history(frame: pd.DataFrame, path: Path, signature: Signature) -> np.ndarray:
    """The last values of a table's series: float64 [1, P, K]."""
    columns, steps = signature.preparation["columns"], signature.offers["input_shape"][0]
    if absent := [name for name in columns if name not in frame]:
        raise ValueError(f"{path} lacks {', '.join(absent)}; it has {', '.join(map(str, frame))}")
    if len(frame) < steps:
        raise ValueError(f"{path} has {len(frame)} rows; the model needs the last {steps}")
    values: np.ndarray = frame[columns].iloc[-steps:].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = len(frame) - steps + wrong[0][0] + 1, columns[wrong[0][1]]
        raise ValueError(f"{path}, row {row}, column {column}: the value is missing or no finite number")
    return values[None]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as UTF-8 text: {error}") from error


def _named(signature: Signature, kind: str, number: int) -> list[str]:
    """The names that a signature offers for outputs, or their numbers where it offers none."""
    names = list(signature.offers.get(kind, ()))
    return [str(name) for name in names] if len(names) == number else [str(i) for i in range(number)]
