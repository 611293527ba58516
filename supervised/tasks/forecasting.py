"""The next values of a time series.

Shapes: B batch, P steps that are seen, H steps ahead, K series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.data.source import Batch
from trivium.learner import Picture
from trivium.supervised.tasks.task import Rows, Totals, unlike

Loss = Literal["mse", "mae", "huber"]


class Forecasting:
    """Predicts `y`, float32 [B, H, K], the standardised values after those seen, `x`, float32 [B, P, K], by an output
    float [B, H K].

    Scores: `loss` (of standardised values), `mae` and `rmse` (in each series' own units, then the mean over the
    series), `skill` (1 - absolute error / that of repeating the last value seen, over all steps and series of
    standardised values: 1 is perfect, 0 is no better than repeating, below is worse).

    Args:
        num_outputs: H K.
        target_names: K names.
        target_mean, target_std: of each series over the training split, K numbers each.
        loss: `mse`, `mae`, `huber` (delta 1).

    Raises:
        ValueError: `loss` is none of these.
    """

    evaluates: ClassVar = {"loss": "min", "mae": "min", "rmse": "min", "skill": "max"}

    @checks_keywords
    def __init__(
        self,
        *,
        num_outputs: int,
        target_names: Sequence[str],
        target_mean: Sequence[float],
        target_std: Sequence[float],
        loss: Loss = "mse",
    ) -> None:
        self.num_outputs, self.target_names, self.kind = num_outputs, tuple(target_names), loss
        self.mean_K, self.std_K = torch.tensor(list(target_mean)), torch.tensor(list(target_std))

    def wrong_target(self, rows: Batch) -> str | None:
        y, what = rows.get("y"), "the values ahead"
        if y is None:
            return f"columns are {', '.join(rows)}; forecasting needs y, {what}"
        if y.dtype != torch.float32 or y.ndim != 3 or y[0].numel() != self.num_outputs:
            kind = str(y.dtype).removeprefix("torch.")
            return f"y is {kind} {list(y.shape)}; must be float32 [{len(y)}, H, K] with H K = {self.num_outputs}"
        return None

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        shape = [len(batch["y"]), self.num_outputs]
        return unlike(output, shape, f"a number for each of {self.num_outputs} values ahead")

    def count(self, batch: Batch) -> int:
        return batch["y"].numel()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        output, y = output.float(), batch["y"].flatten(1)
        if self.kind == "mae":
            return F.l1_loss(output, y, reduction="sum")
        return (
            F.huber_loss(output, y, reduction="sum") if self.kind == "huber" else F.mse_loss(output, y, reduction="sum")
        )

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`values`, those ahead in the series' own units, float32 [B, H, K]."""
        mean_K, std_K = self.mean_K.to(output.device), self.std_K.to(output.device)
        return {"values": output.float().unflatten(1, (-1, len(std_K))) * std_K + mean_K}

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        y_BHK = batch["y"]
        error_BHK = output.float().view_as(y_BHK) - y_BHK
        repeated_BHK = batch["x"][:, -1:] - y_BHK
        return {
            "loss": self.loss(output, batch),
            "count": torch.tensor(y_BHK.numel(), device=y_BHK.device),
            "absolute_K": error_BHK.abs().sum((0, 1)),
            "squared_K": error_BHK.square().sum((0, 1)),
            "repeating_K": repeated_BHK.abs().sum((0, 1)),
        }

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        std_K = self.std_K.to(totals["loss"].device)
        n = totals["count"] / len(std_K)
        return {
            "loss": totals["loss"] / totals["count"],
            "mae": (totals["absolute_K"] / n * std_K).mean(),
            "rmse": ((totals["squared_K"] / n).sqrt() * std_K).mean(),
            "skill": 1 - totals["absolute_K"].sum() / totals["repeating_K"].sum(),
        }

    def rows(self, output: Tensor, batch: Batch) -> Rows:
        return {}

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        return {}

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        return {}
