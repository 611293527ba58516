"""A class for each step of a sequence: parts of speech, names, the kinds of characters in a program.

Shapes: B batch, T time, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.data.source import UNSCORED, Batch
from trivium.learner import Picture
from trivium.supervised.figures import confusion_figure
from trivium.supervised.metrics import accuracy, confusion_matrix, macro_f1
from trivium.supervised.tasks.task import Rows, Totals, unlike, unlike_classes


class Tagging:
    """Cross-entropy of logits, float [B, T, K], with classes, int64 [B, T] in [0, K); steps whose class is `UNSCORED`,
    such as padding, do not count.

    Scores: `loss` (nats per step), `accuracy` (of steps), `f1` (macro), `exact_match` (the share of sequences all of
    whose steps are right).

    Args:
        num_outputs: K.
        class_names: K names.
    """

    evaluates: ClassVar = {"loss": "min", "accuracy": "max", "f1": "max", "exact_match": "max"}

    @checks_keywords
    def __init__(self, *, num_outputs: int, class_names: Sequence[str]) -> None:
        self.num_outputs, self.class_names = num_outputs, class_names

    def wrong_target(self, rows: Batch) -> str | None:
        if "y" in rows and rows["y"].dtype == torch.int64:
            rows = {**rows, "y": rows["y"].masked_fill(rows["y"] == UNSCORED, 0)}
        return unlike_classes(rows, 2, self.num_outputs, f"the class of each step, or {UNSCORED} where there is none")

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        shape = [*batch["y"].shape, self.num_outputs]
        return unlike(output, shape, f"a logit for each of {self.num_outputs} classes at each step")

    def count(self, batch: Batch) -> Tensor:
        return (batch["y"] != UNSCORED).sum()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        logits_NK, y_N = output.float().flatten(0, 1), batch["y"].flatten()
        return F.cross_entropy(logits_NK, y_N, ignore_index=UNSCORED, reduction="sum")

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`tags`, the class of each step, int64 [B, T], and `scores`, its probability, float32 [B, T]."""
        best = output.float().softmax(2).max(2)
        return {"tags": best.indices, "scores": best.values}

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        y_BT = batch["y"]
        scored_BT, predicted_BT = y_BT != UNSCORED, output.argmax(2)
        return {
            "loss": self.loss(output, batch),
            "count": scored_BT.sum(),
            "confusion": confusion_matrix(predicted_BT[scored_BT], y_BT[scored_BT], self.num_outputs),
            "sequences": torch.tensor(len(y_BT), device=y_BT.device),
            "exact": ((predicted_BT == y_BT) | ~scored_BT).all(1).sum(),
        }

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        return {
            "loss": totals["loss"] / totals["count"],
            "accuracy": accuracy(totals["confusion"]),
            "f1": macro_f1(totals["confusion"]),
            "exact_match": totals["exact"] / totals["sequences"],
        }

    def rows(self, output: Tensor, batch: Batch) -> Rows:
        return {}

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        return {}

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        return {"confusion": confusion_figure(totals["confusion"], self.class_names, title=split)}
