"""A shorter sequence for a longer one, without an alignment: speech, handwriting (Graves et al. 2006, "Connectionist
temporal classification").

Shapes: B batch, T steps that are read, L tokens of a target, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.data.source import Batch
from trivium.data.texts.vocabulary import PAD
from trivium.learner import Picture
from trivium.supervised.sequence_metrics import edit_distance
from trivium.supervised.tasks.task import Rows, Totals, unlike, unlike_classes

BLANK = 0  # the logit of "no token here"; the same number pads the targets


class CTC:
    """The negative log-likelihood of the targets, int64 [B, L] padded with 0 at their ends, under logits, float
    [B, T, V] of which number 0 is the blank.

    A target that needs more steps than were read (T < its length + its repeated neighbours) has no likelihood; its loss
    counts as zero.

    Scores: `loss` (nats per token of the targets), `error_rate` (edit distance / tokens of the targets), `exact_match`;
    both of the most probable path, with repeats and blanks removed.

    Args:
        num_outputs: V, the blank included.
        class_names: V names, the blank's first.
    """

    evaluates: ClassVar = {"loss": "min", "error_rate": "min", "exact_match": "max"}

    @checks_keywords
    def __init__(self, *, num_outputs: int, class_names: Sequence[str]) -> None:
        self.num_outputs, self.class_names = num_outputs, class_names

    def wrong_target(self, rows: Batch) -> str | None:
        return unlike_classes(rows, 2, self.num_outputs, "the tokens of each row, padded with 0")

    def wrong_output(self, output: Any, batch: Batch) -> str | None:
        steps = output.shape[1] if isinstance(output, Tensor) and output.ndim == 3 else batch["y"].shape[1]
        shape = [len(batch["y"]), steps, self.num_outputs]
        return unlike(output, shape, f"a logit for each of {self.num_outputs} tokens at each step")

    def count(self, batch: Batch) -> Tensor:
        return (batch["y"] != PAD).sum()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        log_p_TBV = output.float().log_softmax(2).transpose(0, 1)
        steps_B = batch["length"] if "length" in batch else torch.full((len(output),), output.shape[1])
        tokens_B = (batch["y"] != PAD).sum(1)
        return F.ctc_loss(log_p_TBV, batch["y"], steps_B, tokens_B, blank=BLANK, reduction="sum", zero_infinity=True)

    def answers(self, output: Tensor) -> dict[str, Tensor]:
        """`tokens`, what is read, int64 [B, T], padded with 0 at the end."""
        return {"tokens": collapsed(output.argmax(2))}

    def totals(self, output: Tensor, batch: Batch) -> Totals:
        y_BL = batch["y"]
        read_BT = collapsed(output.argmax(2), batch.get("length"))
        distance_B = edit_distance(read_BT, y_BL)
        return {
            "loss": self.loss(output, batch),
            "count": self.count(batch),
            "distance": distance_B.sum(),
            "sequences": torch.tensor(len(y_BL), device=y_BL.device),
            "exact": (distance_B == 0).sum(),
        }

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        return {
            "loss": totals["loss"] / totals["count"],
            "error_rate": totals["distance"] / totals["count"],
            "exact_match": totals["exact"] / totals["sequences"],
        }

    def rows(self, output: Tensor, batch: Batch) -> Rows:
        return {}

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        return {}

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        return {}


def collapsed(path_BT: Tensor, length_B: Tensor | None = None) -> Tensor:
    """What a path of CTC reads: repeats become one, then blanks are left out.

    Args:
        path_BT: int64 [B, T], `BLANK` among the tokens.
        length_B: int64 [B], how many steps of each path are no padding; None: all.

    Returns:
        int64 [B, T], padded with `PAD` at the end.

    Example:
        a a _ a b b -> a a b
    """
    before_BT = F.pad(path_BT[:, :-1], (1, 0), value=BLANK)
    kept_BT = (path_BT != before_BT) & (path_BT != BLANK)
    if length_B is not None:
        kept_BT &= torch.arange(path_BT.shape[1], device=path_BT.device) < length_B[:, None]
    order_BT = (~kept_BT).int().argsort(dim=1, stable=True)
    return path_BT.masked_fill(~kept_BT, PAD).gather(1, order_BT)
