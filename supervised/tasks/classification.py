"""One class for each sample, of two or more.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import FractionBelowOne, NotNegative
from trivium.data.source import Batch
from trivium.learner import Picture
from trivium.supervised.figures import confusion_figure, curves_figure
from trivium.supervised.metrics import (
    accuracy,
    average_precision,
    balanced_accuracy,
    calibration_error,
    confusion_matrix,
    macro_f1,
    roc_auc,
)
from trivium.supervised.tasks.task import Rows, Totals, unlike, unlike_classes
from trivium.supervised.worst import Worst


class Classification:
    """Cross-entropy of logits, float [B, K], with classes, int64 [B] in [0, K).

    Scores: `loss` (nats), `accuracy`; at the end also `f1` (macro), `balanced_accuracy` (mean recall of the classes),
    `roc_auc` and `average_precision` (of two classes: of the second; of more: means over each class against the rest)
    and `calibration_error` (expected, in 15 bins of confidence).

    Args:
        num_outputs: K.
        class_names: K names.
        label_smoothing: the share of each target that is spread over all classes while training (arXiv:1512.00567),
            in [0, 1).
        class_weights: what a sample of each class counts in the training's loss, K numbers >= 0, not all 0;
            `balanced`: in inverse proportion to how many there are, so that all classes count the same. Scores are not
            weighted.
        class_counts: K numbers, how many samples of each class the training split has.
        aux_weight: weight of the loss of each auxiliary output, for a model that returns (logits, *auxiliary logits) in
            training, such as GoogLeNet; >= 0.

    Raises:
        ValueError: `label_smoothing`, `aux_weight` or a weight is out of range, there are not K names or weights, or
            the data do not offer the counts that are needed to balance them.
    """

    evaluates: ClassVar = {"loss": "min", "accuracy": "max"}
    auxiliary: ClassVar = True

    @checks_keywords
    def __init__(
        self,
        *,
        num_outputs: int,
        class_names: Sequence[str],
        label_smoothing: FractionBelowOne = 0.0,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        class_counts: Sequence[int] | None = None,
        aux_weight: NotNegative = 0.3,
    ) -> None:
        if len(class_names) != num_outputs:
            raise ValueError(f"data: the signature offers {len(class_names)} class_names for num_outputs={num_outputs}")
        self.num_outputs, self.class_names, self.label_smoothing = num_outputs, class_names, label_smoothing
        self.aux_weight = aux_weight
        self.weight_K = self._weights(class_weights, class_counts)

    def _weights(
        self, given: Literal["balanced"] | Sequence[float] | None, counts: Sequence[int] | None
    ) -> Tensor | None:
        if given is None:
            return None
        if given == "balanced":
            if counts is None:
                raise ValueError("class_weights=balanced needs data that offer class_counts")
            number_K = torch.tensor(list(counts), dtype=torch.float64)
            return (number_K.sum() / self.num_outputs / number_K.clamp(min=1)).float()
        weights = torch.tensor([float(weight) for weight in given])
        if len(weights) != self.num_outputs or not (
            weights.isfinite().all() and (weights >= 0).all() and weights.any()
        ):
            raise ValueError(f"class_weights={list(given)} must be {self.num_outputs} numbers >= 0, one for each class")
        return weights

    def _weight_K(self, device: torch.device) -> Tensor | None:
        if self.weight_K is not None and self.weight_K.device != device:
            self.weight_K = self.weight_K.to(device)
        return self.weight_K

    def wrong_target(self, rows: Batch) -> str | None:
        return unlike_classes(rows, 1, self.num_outputs, "the class of each row")

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        shape = [len(batch["y"]), self.num_outputs]
        return unlike(output, shape, f"a logit for each of {self.num_outputs} classes")

    def count(self, batch: Batch) -> int | Tensor:
        """With weights their sum, so that the loss is a weighted mean."""
        weight_K = self._weight_K(batch["y"].device)
        if weight_K is None:
            return len(batch["y"])
        if "mixed_y" in batch:
            first, second = weight_K[batch["y"]], weight_K[batch["mixed_y"]]
            return (batch["mixed_weight"] * first + (1 - batch["mixed_weight"]) * second).sum()
        return weight_K[batch["y"]].sum()

    def loss(self, output: Tensor | tuple[Tensor, ...], batch: Batch) -> Tensor:
        if isinstance(output, tuple):
            main, *auxiliary = (self.loss(logits, batch) for logits in output)
            return main + self.aux_weight * torch.stack(auxiliary).sum() if auxiliary else main
        weight_K = self._weight_K(output.device)
        how: dict[str, Any] = {"weight": weight_K, "label_smoothing": self.label_smoothing}
        if "mixed_y" in batch:  # see `ImageAugmentation`
            first, second = (F.cross_entropy(output, batch[name], reduction="none", **how) for name in ("y", "mixed_y"))
            return (batch["mixed_weight"] * first + (1 - batch["mixed_weight"]) * second).sum()
        return F.cross_entropy(output, batch["y"], reduction="sum", **how)

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`classes`, int64 [B], and `scores`, their probabilities, float32 [B, K]."""
        return {"classes": output.argmax(1), "scores": output.float().softmax(1)}

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        target_B = batch["y"]
        return {
            "loss": F.cross_entropy(output.float(), target_B, reduction="sum"),
            "count": torch.tensor(len(target_B), device=output.device),
            "confusion": confusion_matrix(output.argmax(1), target_B, self.num_outputs),
        }

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        return {"loss": totals["loss"] / totals["count"], "accuracy": accuracy(totals["confusion"])}

    def rows(self, output: Tensor, batch: Batch) -> Rows:
        return {"probability": output.float().softmax(1), "target": batch["y"]}

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        probability_NK, target_N = rows["probability"], rows["target"]
        of = (1,) if self.num_outputs == 2 else range(self.num_outputs)
        areas = torch.stack([roc_auc(probability_NK[:, k], target_N == k) for k in of])
        precisions = torch.stack([average_precision(probability_NK[:, k], target_N == k) for k in of])
        return {
            "f1": macro_f1(totals["confusion"]),
            "balanced_accuracy": balanced_accuracy(totals["confusion"]),
            "roc_auc": areas.nanmean(),
            "average_precision": precisions.nanmean(),
            "calibration_error": calibration_error(probability_NK, target_N),
        }

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        figures = {"confusion": confusion_figure(totals["confusion"], self.class_names, title=split)}
        if rows:
            figures["curves"] = curves_figure(rows["probability"], rows["target"], self.class_names, title=split)
        return figures

    def worst(self, rows: Rows) -> Worst:
        """By the probability of the true class."""
        probability_NK, target_N = rows["probability"].cpu(), rows["target"].cpu()
        own_N = probability_NK.gather(1, target_N[:, None])[:, 0]

        def caption(i: int) -> str:
            best = int(probability_NK[i].argmax())
            truth = f"{self.class_names[int(target_N[i])]} ({own_N[i]:.0%})"
            return f"{truth}, said {self.class_names[best]} ({probability_NK[i, best]:.0%})"

        return Worst(1 - own_N, caption)
