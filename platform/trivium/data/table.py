"""Tables: numbers and categories in columns, from CSV or Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from trivium.boundary.places import find_data
from trivium.data.prepared import of_table
from trivium.data.source import Signature, Splits, Tensors

Kind = Literal["auto", "classification", "regression"]
DELIMITERS = (",", ";", "\t", "|")
CLASSES_UP_TO = 20  # whole numbers of more values are quantities


def table(
    *,
    path: str,
    target: str,
    task: Kind = "auto",
    ignore: Sequence[str] = (),
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Splits:
    """A table of which one column is predicted from the others.

    Numbers are standardised by the training split's mean and standard deviation; a missing one becomes the mean, and a
    column of its own says that it was missing. Text, true/false and categories become numbers of categories; what is
    missing, or was not seen in the training split, is category 0.

    Args:
        path: a .csv or .parquet file, see `find_data` and `read_frame`.
        target: the column to predict; rows without a value there are left out.
        task: `auto`: text, true/false and whole numbers of at most 20 values are classes, other numbers quantities.
        ignore: columns that are not used.
        val_fraction, test_fraction: of the rows; stratified where there are classes.
        split_seed: which rows go where; not the run's seed.

    Returns:
        Columns `x`, float32 [n, numbers], `categories`, int64 [n, columns], if there are any, and `y`: classes,
        int64 [n], or quantities, float32 [n, 1].

    Raises:
        ValueError: the file or the column can't be used; names them.
    """
    frame = read_frame(find_data(path))
    if target not in frame:
        raise ValueError(f"target={target}: {path} has no such column; it has {', '.join(map(str, frame))}")
    unknown = [name for name in ignore if name not in frame]
    if unknown:
        raise ValueError(f"ignore={unknown}: {path} has no such columns; it has {', '.join(map(str, frame))}")
    frame = frame.drop(columns=list(ignore)).dropna(subset=[target]).reset_index(drop=True)
    return from_frame(
        frame, target=target, task=task, val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed
    )


def from_frame(
    frame: pd.DataFrame,
    *,
    target: str,
    task: Kind = "auto",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Splits:
    """As `table`, from a pandas frame without missing targets."""
    from sklearn.model_selection import train_test_split

    y = frame[target]
    whole = pd.api.types.is_integer_dtype(y) and y.nunique() <= CLASSES_UP_TO
    classes = task == "classification" or (task == "auto" and (whole or not pd.api.types.is_numeric_dtype(y)))
    if task == "auto" and pd.api.types.is_bool_dtype(y):
        classes = True
    rows = np.arange(len(frame))
    strata = y.astype(str) if classes else None
    if strata is not None and (rare := [f"{name} ({n})" for name, n in strata.value_counts().items() if n < 3]):
        raise ValueError(
            f"target={target}: each class needs at least 3 rows, one for each split; fewer has {', '.join(rare)}"
        )
    try:
        rest, test = train_test_split(rows, test_size=test_fraction, random_state=split_seed, stratify=strata)
        train, val = train_test_split(
            rest,
            test_size=val_fraction / (1 - test_fraction),
            random_state=split_seed,
            stratify=None if strata is None else strata.iloc[rest],
        )
    except ValueError as error:
        raise ValueError(f"target={target}: the rows can't be split: {error}") from error

    features = frame.drop(columns=[target])
    preparation = _fitted(features, train)
    inputs = of_table(features, preparation)
    offers: dict[str, Any] = {"input_shape": (inputs["x"].shape[1],)}
    if "categories" in inputs:
        offers["cardinalities"] = tuple(len(names) + 1 for names in preparation["categories"].values())
    if classes:
        names = sorted(y.astype(str).unique(), key=lambda name: (not whole, int(name) if whole else 0, name))
        numbers = {name: i for i, name in enumerate(names)}
        inputs["y"] = torch.tensor([numbers[value] for value in y.astype(str)])
        offers |= {"num_outputs": len(names), "class_names": tuple(names)}
    else:
        values = y.to_numpy(np.float64)
        mean, std = float(values[train].mean()), float(values[train].std()) or 1.0
        inputs["y"] = torch.from_numpy(values.astype(np.float32))[:, None]
        offers |= {"num_outputs": 1, "target_names": (target,), "target_mean": (mean,), "target_std": (std,)}
    signature = Signature(
        task="classification" if classes else "regression",
        inputs=("x", "categories") if "categories" in inputs else ("x",),
        offers=offers,
        preparation={"kind": "table", "target": target, **preparation},
    )

    def split(index: np.ndarray) -> Tensors:
        chosen = torch.from_numpy(np.sort(index))
        return Tensors(**{name: column[chosen] for name, column in inputs.items()})

    return Splits(split(train), split(val), split(test), signature)


def _fitted(frame: pd.DataFrame, train: np.ndarray) -> dict[str, Any]:
    """How the input columns are to be prepared, see `trivium.data.prepared`; from the training split's rows alone."""
    made: dict[str, Any] = {"numbers": {}, "categories": {}}
    for name in frame:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            values = column.to_numpy(np.float64, na_value=np.nan)
            seen = values[train][np.isfinite(values[train])]
            if len(seen) == 0:
                raise ValueError(f"column {name}: all values are missing; leave it out with ignore=[{name}]")
            mean, std = float(seen.mean()), float(seen.std()) or 1.0
            made["numbers"][str(name)] = {"mean": mean, "std": std, "missing": not np.isfinite(values).all()}
        else:
            made["categories"][str(name)] = sorted({str(value) for value in column.iloc[train].dropna()})
    return made


def read_frame(path: Path) -> pd.DataFrame:
    """A table from a .parquet file, or from a CSV file in UTF-8 whose delimiter is that of `,`, `;`, `|` and the
    tabulator which its first line has most of.

    Raises:
        ValueError: the file can't be read as a table; names the file and, where one is broken, the line.
    """
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            return pd.read_csv(file, sep=max(DELIMITERS, key=first.count))
    except UnicodeDecodeError as error:
        raise ValueError(f"path={path} is not in UTF-8: {error.reason} at byte {error.start}") from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"path={path} can't be read as a table: {' '.join(str(error).split())}") from error
