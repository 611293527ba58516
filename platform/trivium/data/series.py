"""Time series: what was seen, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from trivium.boundary.places import find_data
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count
from trivium.data.source import Batch, Signature, Splits
from trivium.data.table import read_frame


class SeriesWindows:
    """Windows of a series: row i begins at step `start + i`.

    Args:
        values: float32 [n, K].
        history: P, steps seen.
        horizon: H, steps ahead.
        start, end: the windows lie between these steps.
    """

    def __init__(self, values: Tensor, *, history: int, horizon: int, start: int, end: int) -> None:
        self.values, self.history, self.horizon, self.start, self.end = values, history, horizon, start, end
        self._offsets = torch.arange(history + horizon, device=values.device)

    def __len__(self) -> int:
        return max(0, self.end - self.start - self.history - self.horizon + 1)

    def batch(self, index_B: Tensor) -> Batch:
        """`x`, float32 [B, P, K], and `y`, float32 [B, H, K]."""
        window = self.values[(self.start + index_B)[:, None] + self._offsets]
        return {"x": window[:, : self.history], "y": window[:, self.history :]}

    def to(self, device: torch.device) -> SeriesWindows:
        values = self.values.to(device)
        return SeriesWindows(values, history=self.history, horizon=self.horizon, start=self.start, end=self.end)


@checks_keywords
def series(
    *,
    path: str | None = None,
    columns: Sequence[str] | None = None,
    time: str | None = None,
    history: Count = 48,
    horizon: Count = 12,
    val_fraction: BetweenZeroAndOne = 0.15,
    test_fraction: BetweenZeroAndOne = 0.15,
) -> Splits:
    """Series that are predicted from their own past, split by time: what is judged on comes last, and none of its
    values ahead is seen by an earlier split.

    Values are standardised by the training split's mean and standard deviation.

    Args:
        path: a .csv or .parquet file with a row for each step, see `find_data`; None: two made-up daily series with a
            trend, a week, a year and noise that persists.
        columns: the series; None: all columns of numbers but `time`.
        time: a column to sort the rows by; None: they are in order.
        history: P, steps seen.
        horizon: H, steps ahead.
        val_fraction, test_fraction: of the steps.

    Returns:
        Columns `x`, float32 [n, P, K], and `y`, float32 [n, H, K], standardised.

    Raises:
        ValueError: the file or a column can't be used, a value is missing, or a split is shorter than a window; names
            the file, the column and the row.
    """
    if val_fraction + test_fraction >= 1:
        raise ValueError(f"val_fraction={val_fraction} and test_fraction={test_fraction} must sum to less than 1")
    frame = _made_up() if path is None else _read(path, columns, time)
    values = frame.to_numpy(np.float64)
    ends = [round(len(values) * share) for share in (1 - val_fraction - test_fraction, 1 - test_fraction)]
    begins = (0, ends[0] - history, ends[1] - history)  # the past of a split's first values may be another's
    mean_K, std_K = values[: ends[0]].mean(0), values[: ends[0]].std(0)
    std_K = np.where(std_K > 0, std_K, 1.0)
    standardised = torch.from_numpy(((values - mean_K) / std_K).astype(np.float32))
    parts = [
        SeriesWindows(standardised, history=history, horizon=horizon, start=max(0, start), end=end)
        for start, end in zip(begins, (*ends, len(values)), strict=True)
    ]
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part) < 1:
            what = f"history={history} and horizon={horizon}"
            raise ValueError(f"{what} do not fit into the {name} split of {part.end - part.start} steps")
    names = tuple(map(str, frame))
    signature = Signature(
        task="forecasting",
        offers={
            "input_shape": (history, len(names)), "num_outputs": horizon * len(names), "target_names": names,
            "target_mean": tuple(mean_K.tolist()), "target_std": tuple(std_K.tolist()),
        },
        preparation={"kind": "series", "columns": list(names), "mean": mean_K.tolist(), "std": std_K.tolist()},
    )  # fmt: skip
    return Splits(parts[0], parts[1], parts[2], signature)


def _read(path: str, columns: Sequence[str] | None, time: str | None) -> pd.DataFrame:
    frame = read_frame(find_data(path))
    unknown = [name for name in (*(columns or ()), *([time] if time else ())) if name not in frame]
    if unknown:
        raise ValueError(f"{path} has no column {', '.join(unknown)}; it has {', '.join(map(str, frame))}")
    if time:
        frame = frame.sort_values(time, kind="stable").reset_index(drop=True).drop(columns=time)
    frame = frame[list(columns)] if columns else frame.select_dtypes("number")
    if frame.empty:
        raise ValueError(f"path={path} has no column of numbers")
    for name in frame:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ValueError(f"columns: {name} of {path} does not hold numbers")
        wrong = np.flatnonzero(~np.isfinite(frame[name].to_numpy(np.float64, na_value=np.nan)))
        if len(wrong):
            raise ValueError(f"{path}, row {wrong[0] + 1}, column {name}: the value is missing or not finite")
    return frame


def _made_up() -> pd.DataFrame:
    """Four years of days; the second series follows the first by three days."""
    random, day = np.random.default_rng(0), np.arange(4 * 365)
    noise = np.zeros(len(day))
    for t in range(1, len(day)):
        noise[t] = 0.8 * noise[t - 1] + random.normal(0, 2)
    demand = 100 + 0.02 * day + 15 * np.sin(2 * np.pi * day / 365) + 10 * np.sin(2 * np.pi * day / 7) + noise
    return pd.DataFrame({"demand": demand, "stock": 50 - 0.3 * np.roll(demand, 3) + random.normal(0, 1, len(day))})[3:]
