"""A sequence for a sequence: translation, reversal, transcription.

Shapes: B batch, S length of the sources, T of the targets, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.data.source import Batch
from trivium.data.texts.vocabulary import BEGIN, END, PAD
from trivium.learner import Picture
from trivium.supervised.sequence_metrics import LONGEST, bleu, edit_distance, ngram_counts
from trivium.supervised.tasks.task import Rows, Totals, unlike, unlike_classes


class SequenceToSequence:
    """Cross-entropy of logits, float [B, T, V], with the target's tokens, int64 [B, T], where padding does not
    count.

    Scores: `loss` (nats per token), `token_accuracy` (given the target's tokens so far), and of what the model writes
    when it reads its own tokens: `exact_match` (the share of targets without a mistake), `bleu` (see
    `trivium.supervised.sequence_metrics.bleu`) and `edit_distance` (tokens to insert, delete or replace to reach the
    target, per token of the targets).

    Args:
        vocab_size: V.
    """

    evaluates: ClassVar = {
        "loss": "min",
        "token_accuracy": "max",
        "exact_match": "max",
        "bleu": "max",
        "edit_distance": "min",
    }
    generates = True

    @checks_keywords
    def __init__(self, *, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def wrong_target(self, rows: Batch) -> str | None:
        return unlike_classes(rows, 2, self.vocab_size, "the tokens of each target")

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        shape = [*batch["y"].shape, self.vocab_size]
        return unlike(output, shape, f"a logit for each of {self.vocab_size} tokens at each step")

    def count(self, batch: Batch) -> Tensor:
        return (batch["y"] != PAD).sum()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), batch["y"].flatten(), ignore_index=PAD, reduction="sum")

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`written`, what the model writes by itself, int64 [B, T], `PAD` after `END`."""
        return {"written": output}

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        y_BT = batch["y"]
        valid_BT = y_BT != PAD
        written_BT, true_BT = _before_end(batch["generated"]), _before_end(y_BT)
        edits_B = edit_distance(written_BT, true_BT)
        return {
            "loss": F.cross_entropy(output.flatten(0, 1).float(), y_BT.flatten(), ignore_index=PAD, reduction="sum"),
            "count": valid_BT.sum(),
            "right": ((output.argmax(-1) == y_BT) & valid_BT).sum(),
            "sequences": torch.tensor(len(y_BT), device=y_BT.device),
            "exact": (edits_B == 0).sum(),
            "edits": edits_B.sum(),
            "ngrams": ngram_counts(written_BT, true_BT).to(y_BT.device),
        }

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        return {
            "loss": totals["loss"] / totals["count"],
            "token_accuracy": totals["right"] / totals["count"],
            "exact_match": totals["exact"] / totals["sequences"],
            "bleu": bleu(totals["ngrams"]),
            "edit_distance": totals["edits"] / totals["ngrams"][0, LONGEST],
        }

    def rows(self, output: Tensor, batch: Batch) -> Rows:
        return {}

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        return {}

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        return {}


def _before_end(tokens_BT: Tensor) -> Tensor:
    """Without the first `END` and what follows it; padding before it is a mistake like any other token."""
    ended_BT = (tokens_BT == END).cumsum(1) > 0
    return tokens_BT.masked_fill(tokens_BT == PAD, BEGIN).masked_fill(ended_BT, PAD)
