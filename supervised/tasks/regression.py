"""One or several real numbers for each sample.

Shapes: B batch, K targets.
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
from trivium.supervised.figures import residual_figure
from trivium.supervised.tasks.task import Rows, Totals, unlike
from trivium.supervised.worst import Worst

Loss = Literal["mse", "mae", "rmse", "huber"]


class Regression:
    """Predicts float [B, K] for targets float [B, K].

    The network learns standardised targets, `(y - target_mean) / target_std`; losses and scores are in the targets' own
    units, except that `loss` is of the standardised ones, so that targets of different units weigh the same. Scores,
    means over the targets: `loss`, `rmse`, `mae`, `r2` (1 - squared error / variance of the split's targets).

    Args:
        num_outputs: K.
        target_names: K names.
        target_mean, target_std: of each target over the training split, K numbers each; by default 0 and 1.
        loss: `mse`, `mae`, `huber` (delta 1), or `rmse`, the square root of an update's `mse`.

    Raises:
        ValueError: `loss` is none of these.
    """

    evaluates: ClassVar = {"loss": "min", "rmse": "min", "mae": "min", "r2": "max"}

    @checks_keywords
    def __init__(
        self,
        *,
        num_outputs: int,
        target_names: Sequence[str] | None = None,
        target_mean: Sequence[float] | None = None,
        target_std: Sequence[float] | None = None,
        loss: Loss = "mse",
    ) -> None:
        self.num_outputs = num_outputs
        self.target_names = tuple(target_names or (f"target {k}" for k in range(num_outputs)))
        self.mean_K = torch.tensor(target_mean or [0.0] * num_outputs)
        self.std_K = torch.tensor(target_std or [1.0] * num_outputs)
        self.kind = loss

    def wrong_target(self, rows: Batch) -> str | None:
        y = rows.get("y")
        if y is None:
            return f"columns are {', '.join(rows)}; regression needs y, the quantities of each row"
        shape = [len(y), self.num_outputs]
        if y.dtype != torch.float32 or list(y.shape) != shape:
            kind = str(y.dtype).removeprefix("torch.")
            return f"y is {kind} {list(y.shape)}; must be float32 {shape}, the quantities of each row"
        return None

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        return unlike(output, list(batch["y"].shape), f"a number for each of {self.num_outputs} targets")

    def _standardised(self, batch: Batch) -> Tensor:
        y_BK = batch["y"]
        return (y_BK - self.mean_K.to(y_BK.device)) / self.std_K.to(y_BK.device)

    def _loss(self, output_BK: Tensor, target_BK: Tensor) -> Tensor:
        require_same_shape(output_BK, target_BK)
        output_BK = output_BK.float()
        if self.kind == "mae":
            return F.l1_loss(output_BK, target_BK, reduction="sum")
        if self.kind == "huber":
            return F.huber_loss(output_BK, target_BK, reduction="sum")
        squared = F.mse_loss(output_BK, target_BK, reduction="sum")
        return squared if self.kind == "mse" else (squared * target_BK.numel()).clamp(min=1e-12).sqrt()

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`values`, float32 [B, K], in the targets' own units."""
        return {"values": output.float() * self.std_K.to(output.device) + self.mean_K.to(output.device)}

    def count(self, batch: Batch) -> int:
        return batch["y"].numel()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return self._loss(output, self._standardised(batch))

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        y_BK = batch["y"]
        target_BK = self._standardised(batch)
        error_BK = (output.float() - target_BK) * self.std_K.to(y_BK.device)
        return {
            "loss": self._loss(output, target_BK),
            "count": torch.tensor(len(y_BK), device=y_BK.device),
            "squared_K": error_BK.square().sum(0),
            "absolute_K": error_BK.abs().sum(0),
            # About the training mean, which is near the split's own: sums of raw squares would cancel.
            "deviation_K": (y_BK - self.mean_K.to(y_BK.device)).sum(0),
            "deviation_squared_K": (y_BK - self.mean_K.to(y_BK.device)).square().sum(0),
        }

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        n = totals["count"]
        variance_K = totals["deviation_squared_K"] - totals["deviation_K"].square() / n
        return {
            "loss": totals["loss"] / (n * self.num_outputs),
            "rmse": (totals["squared_K"] / n).sqrt().mean(),
            "mae": (totals["absolute_K"] / n).mean(),
            "r2": (1 - totals["squared_K"] / variance_K).mean(),
        }

    def rows(self, output: Tensor, batch: Batch) -> Rows:
        device = output.device
        prediction = output.float() * self.std_K.to(device) + self.mean_K.to(device)
        return {"prediction": prediction, "target": batch["y"]}

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        return {}

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        if not rows:
            return {}
        return {"residuals": residual_figure(rows["target"], rows["prediction"], self.target_names, title=split)}

    def worst(self, rows: Rows) -> Worst:
        """By the error in standard deviations of its target."""
        target_NK, prediction_NK = rows["target"].cpu(), rows["prediction"].cpu()
        error_NK = ((prediction_NK - target_NK) / self.std_K).abs()

        def caption(i: int) -> str:
            k = int(error_NK[i].argmax())
            return f"{self.target_names[k]} {target_NK[i, k]:.4g}, said {prediction_NK[i, k]:.4g}"

        return Worst(error_NK.amax(1), caption)


def require_same_shape(output: Tensor, target: Tensor) -> None:
    """A model's output of shape [B] against a target [B, 1] would be broadcast to [B, B] without a word.

    Raises:
        ValueError: the shapes differ.
    """
    if output.shape != target.shape:
        raise ValueError(f"the model's output has the shape {list(output.shape)}, the target {list(target.shape)}")
