"""Any number of labels for each sample.

Shapes: B batch, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.data.source import Batch
from trivium.learner import Picture
from trivium.supervised.metrics import average_precision, roc_auc
from trivium.supervised.tasks.task import Rows, Totals, unlike


class MultiLabel:
    """Binary cross-entropy of logits, float [B, K], with labels, float32 [B, K] of 0 and 1.

    Scores: `loss` (nats per label), `accuracy` (the share of labels that are right at a probability of 1/2),
    `exact_match` (of samples whose labels are all right), `f1` (macro, over the labels); at the end also `roc_auc` and
    `average_precision`, means over the labels.

    Args:
        num_outputs: K.
        class_names: K names.
    """

    evaluates: ClassVar = {"loss": "min", "accuracy": "max", "exact_match": "max", "f1": "max"}

    @checks_keywords
    def __init__(self, *, num_outputs: int, class_names: Sequence[str]) -> None:
        self.num_outputs, self.class_names = num_outputs, class_names

    def wrong_target(self, rows: Batch) -> str | None:
        y, what = rows.get("y"), "the labels of each row"
        if y is None:
            return f"columns are {', '.join(rows)}; there must be y, {what}"
        shape = [len(y), self.num_outputs]
        if y.dtype != torch.float32 or list(y.shape) != shape:
            return f"y is {str(y.dtype).removeprefix('torch.')} {list(y.shape)}; must be float32 {shape}, {what}"
        wrong = ((y != 0) & (y != 1)).nonzero()
        if len(wrong):
            return f"y holds {float(y[tuple(wrong[0])]):g} in row {int(wrong[0, 0])}; must be 0 or 1"
        return None

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        return unlike(output, list(batch["y"].shape), f"a logit for each of {self.num_outputs} labels")

    def count(self, batch: Batch) -> int:
        return batch["y"].numel()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.float(), batch["y"], reduction="sum")

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`labels`, bool [B, K], those whose probability is above 1/2, and `scores`, the probabilities, float32
        [B, K]."""
        return {"labels": output > 0, "scores": output.float().sigmoid()}

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        target_BK, chosen_BK = batch["y"] > 0, output > 0
        right_BK = target_BK == chosen_BK
        return {
            "loss": self.loss(output, batch),
            "count": torch.tensor(right_BK.numel(), device=output.device),
            "right": right_BK.sum(),
            "samples": torch.tensor(len(right_BK), device=output.device),
            "exact": right_BK.all(1).sum(),
            "hits_K": (target_BK & chosen_BK).sum(0),
            "labels_K": target_BK.sum(0),
            "chosen_K": chosen_BK.sum(0),
        }

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        size_K = totals["labels_K"] + totals["chosen_K"]
        return {
            "loss": totals["loss"] / totals["count"],
            "accuracy": totals["right"] / totals["count"],
            "exact_match": totals["exact"] / totals["samples"],
            "f1": (2 * totals["hits_K"] / size_K)[size_K > 0].mean(),
        }

    def rows(self, output: Tensor, batch: Batch) -> Rows:
        return {"probability": output.float().sigmoid(), "target": batch["y"]}

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        columns = list(zip(rows["probability"].unbind(1), (rows["target"] > 0).unbind(1), strict=True))
        return {
            "roc_auc": torch.stack([roc_auc(*column) for column in columns]).nanmean(),
            "average_precision": torch.stack([average_precision(*column) for column in columns]).nanmean(),
        }

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        return {}
