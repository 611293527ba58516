"""The next token of a text.

Shapes: B batch, T time, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.data.source import Batch
from trivium.learner import Picture
from trivium.supervised.tasks.task import Rows, Totals, unlike, unlike_classes


class LanguageModelling:
    """Cross-entropy of logits, float [B, T, V], with the tokens that follow, int64 [B, T].

    Scores: `loss` (nats per token), `perplexity` (its exponential), `accuracy`.

    Args:
        vocab_size: V.
    """

    evaluates: ClassVar = {"loss": "min", "perplexity": "min", "accuracy": "max"}

    @checks_keywords
    def __init__(self, *, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def wrong_target(self, rows: Batch) -> str | None:
        return unlike_classes(rows, 2, self.vocab_size, "the token after each token")

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        shape = [*batch["y"].shape, self.vocab_size]
        return unlike(output, shape, f"a logit for each of {self.vocab_size} tokens at each step")

    def count(self, batch: Batch) -> int:
        return batch["y"].numel()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), batch["y"].flatten(), reduction="sum")

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`next`, the probability of each token after the last one, float32 [B, V]."""
        return {"next": output[:, -1].float().softmax(1)}

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        y_BT = batch["y"]
        return {
            "loss": F.cross_entropy(output.flatten(0, 1).float(), y_BT.flatten(), reduction="sum"),
            "count": torch.tensor(y_BT.numel(), device=y_BT.device),
            "right": (output.argmax(-1) == y_BT).sum(),
        }

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        loss = totals["loss"] / totals["count"]
        return {"loss": loss, "perplexity": loss.exp(), "accuracy": totals["right"] / totals["count"]}

    def rows(self, output: Tensor, batch: Batch) -> Rows:
        return {}

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        return {}

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        return {}
