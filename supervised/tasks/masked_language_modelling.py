"""The tokens of a text that were hidden from the model (BERT, arXiv:1810.04805).

Shapes: B batch, T time, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.data.source import UNSCORED, Batch
from trivium.learner import Picture
from trivium.supervised.tasks.task import Rows, Totals, unlike, unlike_classes


class MaskedLanguageModelling:
    """Cross-entropy of logits, float [B, T, V], with the hidden tokens, int64 [B, T], `UNSCORED` where nothing was
    hidden.

    Scores: `loss` (nats per hidden token), `perplexity` (its exponential), `accuracy`.

    Args:
        vocab_size: V.
    """

    evaluates: ClassVar = {"loss": "min", "perplexity": "min", "accuracy": "max"}

    @checks_keywords
    def __init__(self, *, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def wrong_target(self, rows: Batch) -> str | None:
        if "y" in rows and rows["y"].dtype == torch.int64:
            rows = {**rows, "y": rows["y"].masked_fill(rows["y"] == UNSCORED, 0)}
        return unlike_classes(rows, 2, self.vocab_size, f"each hidden token, or {UNSCORED} where none was hidden")

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        shape = [*batch["y"].shape, self.vocab_size]
        return unlike(output, shape, f"a logit for each of {self.vocab_size} tokens at each step")

    def count(self, batch: Batch) -> Tensor:
        return (batch["y"] != UNSCORED).sum()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        logits_NV, y_N = output.float().flatten(0, 1), batch["y"].flatten()
        return F.cross_entropy(logits_NV, y_N, ignore_index=UNSCORED, reduction="sum")

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`tokens`, the most probable one at each step, int64 [B, T]."""
        return {"tokens": output.argmax(2)}

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        return {
            "loss": self.loss(output, batch),
            "count": self.count(batch),
            "right": (output.argmax(2) == batch["y"]).sum(),
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
