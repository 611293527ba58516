"""Tables: numbers and categories in columns, from CSV or Parquet files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch

from trivium.boundary.places import find_data
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, CountOrZero, Range, Seed
from trivium.data.inputs.prepared import of_table
from trivium.data.source import Signature, Splits, Tensors
from trivium.data.splitting import split_rows

Kind = Literal["auto", "classification", "regression"]
log = logging.getLogger("trivium")
COPY = "\0split"  # a column that no table has
DELIMITERS = (",", ";", "\t", "|")
CLASSES_UP_TO = 20  # whole numbers of more values are quantities


@checks_keywords
def table(
    *,
    path: str,
    target: str,
    task: Kind = "auto",
    ignore: Sequence[str] = (),
    val_fraction: BetweenZeroAndOne = 0.1,
    test_fraction: BetweenZeroAndOne = 0.2,
    split_seed: Seed = 0,
    group: str | None = None,
    time: str | None = None,
    folds: Annotated[int, Range(ge=2)] | None = None,
    fold: CountOrZero = 0,
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
        group: a column whose rows with the same value (a patient's, a customer's) all go to one split; it is no input.
        time: a column by which rows are ordered: the model learns from the earliest and is judged on the latest. It is
            no input.
        folds, fold: of a cross-validation, see `trivium.data.splitting.split_rows`.

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
    for keyword, column in (("group", group), ("time", time)):
        if column is not None and (column not in frame or column == target):
            valid = ", ".join(str(name) for name in frame if name != target)
            raise ValueError(f"{keyword}={column}: must be a column of {path} beside the target: {valid}")
    frame = frame.drop(columns=list(ignore)).dropna(subset=[target]).reset_index(drop=True)
    return from_frame(
        frame, target=target, task=task, val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed,
        group=group, time=time, folds=folds, fold=fold,
    )  # fmt: skip


def from_frame(
    frame: pd.DataFrame,
    *,
    target: str,
    task: Kind = "auto",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    group: str | None = None,
    time: str | None = None,
    folds: int | None = None,
    fold: int = 0,
) -> Splits:
    """As `table`, from a pandas frame without missing targets."""
    if time is not None:
        frame = frame.sort_values(time, kind="stable").reset_index(drop=True)
    y = frame[target]
    whole = pd.api.types.is_integer_dtype(y) and y.nunique() <= CLASSES_UP_TO
    classes = task == "classification" or (task == "auto" and (whole or not pd.api.types.is_numeric_dtype(y)))
    if task == "auto" and pd.api.types.is_bool_dtype(y):
        classes = True
    if copies := [str(name) for name in frame if name != target and frame[name].equals(y)]:
        raise ValueError(f"target={target}: the same as {', '.join(copies)}; leave that out with ignore=[{copies[0]}]")
    train, val, test = split_rows(
        len(frame), val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed,
        strata=list(y.astype(str)) if classes and time is None else None,
        groups=None if group is None else list(frame[group].astype(str)),
        ordered=time is not None, folds=folds, fold=fold, names=f"target={target}: ",
    )  # fmt: skip

    earlier = pd.concat([frame.iloc[part].assign(**{COPY: k}) for k, part in enumerate((train, val, test))])
    again = earlier.duplicated(list(frame)) & ~earlier.duplicated([*frame, COPY])
    if count := int(again.sum()):
        log.warning(
            "target=%s: %d rows of val or test occur in an earlier split too: they measure memory", target, count
        )
    features = frame.drop(columns=[name for name in (target, group, time) if name is not None])
    preparation = _fitted(features, train)
    inputs = of_table(features, preparation)
    offers: dict[str, Any] = {"input_shape": (inputs["x"].shape[1],)}
    if "categories" in inputs:
        offers["cardinalities"] = tuple(len(names) + 1 for names in preparation["categories"].values())
    if classes:
        names = sorted(y.astype(str).unique(), key=lambda name: (not whole, int(name) if whole else 0, name))
        numbers = {name: i for i, name in enumerate(names)}
        inputs["y"] = torch.tensor([numbers[value] for value in y.astype(str)])
        counts = torch.bincount(inputs["y"][torch.from_numpy(train)], minlength=len(names))
        offers |= {"num_outputs": len(names), "class_names": tuple(names), "class_counts": tuple(counts.tolist())}
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
    """How input columns are prepared, see `trivium.data.inputs.prepared`; from the training split alone."""
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
