"""The concept of a task: what the output of a supervised model means.

The learner (`trivium.supervised.learner`) knows how to make an update and nothing of what it is for; a task knows the
loss, the scores and the pictures and nothing of the training. A task holds nothing but its settings: its methods are
pure functions of tensors, and its constructor is offered what the data set's signature offers (`num_outputs`,
`class_names`, ...) and takes what it knows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from trivium.data.source import Batch
from trivium.learner import Picture

Direction = Literal["min", "max"]
Totals = dict[str, Tensor]
"""Sums over samples, float32 or int64 of any shape: what adds up over batches and workers."""
Rows = dict[str, Tensor]
"""Values of single samples, [B, ...] each: what is kept of a final evaluation, for pictures and exact curves."""

TASKS = {
    "classification": "trivium.supervised.tasks.classification.Classification",
    "regression": "trivium.supervised.tasks.regression.Regression",
    "language_modelling": "trivium.supervised.tasks.language_modelling.LanguageModelling",
    "sequence_to_sequence": "trivium.supervised.tasks.sequence_to_sequence.SequenceToSequence",
    "multi_label": "trivium.supervised.tasks.multi_label.MultiLabel",
    "tagging": "trivium.supervised.tasks.tagging.Tagging",
    "masked_language_modelling": "trivium.supervised.tasks.masked_language_modelling.MaskedLanguageModelling",
    "forecasting": "trivium.supervised.tasks.forecasting.Forecasting",
    "ctc": "trivium.supervised.tasks.ctc.CTC",
}
"""The tasks that a data set's signature may name, with their default settings."""


class Task(Protocol):
    """What the output of a model means.

    `worst(rows)` is optional: how wrong each sample of a final evaluation is, see `trivium.supervised.worst.Worst`, of
    which the learner draws the worst ones.

    `answers(output)` is optional too: what a prediction is, tensors [B, ...] by name, from what the model returns, or,
    where the task `generates`, from what it writes.

    Two more methods are optional; they are asked once, before the first step, and spare the others all checks:
    `wrong_target(rows)` returns what is wrong with targets, beginning with the column's name, `wrong_output(output,
    batch)` what is wrong with a model's output, beginning with what it is instead, see `unlike`; or None.

    Attributes:
        evaluates: see `trivium.learner.Learner`.
        generates: optional; True for a task that judges what the model writes by itself: `totals` and `rows` then find
            it in the batch as `generated`, what `model.generate(batch)` returned.
        auxiliary: optional; True for a task whose `loss` also takes what a model with auxiliary heads returns in
            training: a tuple of outputs that are alike, the main one first. No other method is given a tuple.
    """

    evaluates: Mapping[str, Direction]

    def count(self, batch: Batch) -> int | Tensor:
        """How many targets of a batch are valid: an int where all are, so that nothing need be summed over workers,
        else an int64 0-d tensor."""
        ...

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """The loss that training minimises, summed over the valid targets: float32 0-d."""
        ...

    def totals(self, output: Any, batch: Batch) -> Totals:
        """What the scores are computed from. It holds `loss`, the sum of the loss without what only training adds
        (label smoothing, class weights), and `count`, the number of valid targets."""
        ...

    def scores(self, totals: Totals) -> dict[str, Tensor]:
        """The scores, float 0-d each, from the totals of a whole split; `loss` among them."""
        ...

    def rows(self, output: Any, batch: Batch) -> Rows:
        """Values of each sample that the final evaluation keeps; empty if nothing is."""
        ...

    def final_scores(self, totals: Totals, rows: Rows) -> dict[str, Tensor]:
        """Scores of the final evaluation beside `scores`, from all samples of the split."""
        ...

    def figures(self, totals: Totals, rows: Rows, split: str) -> dict[str, Picture]:
        """Pictures of an evaluation; `rows` is empty while training."""
        ...


def unlike(output: Any, shape: Sequence[int], meaning: str) -> str | None:
    """What an output is instead of a floating tensor of a shape, for `Task.wrong_output`; None if it is one.

    Args:
        meaning: of the shape, in words.
    """
    if not isinstance(output, Tensor):
        got = "None" if output is None else f"a {type(output).__name__}"
    elif list(output.shape) != list(shape):
        got = f"the shape {list(output.shape)}"
    elif not output.is_floating_point():
        got = str(output.dtype).removeprefix("torch.")
    else:
        return None
    return f"{got}; must be float {list(shape)}, {meaning}"


def unlike_classes(rows: Batch, num_dims: int, num_classes: int, meaning: str) -> str | None:
    """What the column `y` is instead of int64 of some dimensions in [0, num_classes), for `Task.wrong_target`; None if
    it is that.

    Args:
        meaning: of its numbers, in words.
    """
    y = rows.get("y")
    if y is None:
        return f"columns are {', '.join(rows)}; there must be y, {meaning}"
    if y.dtype != torch.int64 or y.ndim != num_dims:
        kind = str(y.dtype).removeprefix("torch.")
        shape = ", ".join([str(len(y)), *["T"] * (num_dims - 1)])
        return f"y is {kind} {list(y.shape)}; must be int64 [{shape}], {meaning}"
    wrong = ((y < 0) | (y >= num_classes)).nonzero()
    if len(wrong):
        return f"y holds {int(y[tuple(wrong[0])])} in row {int(wrong[0, 0])}; must be in [0, {num_classes})"
    return None


def named_task(name: str) -> Callable[..., Task]:
    """The constructor of one of `TASKS`.

    Raises:
        ValueError: there is no task of this name.
    """
    if name not in TASKS:
        what = f"the data names the task {name!r}" if name else "the data has no target"
        raise ValueError(f"task=null: {what}; choose task=<{', '.join(TASKS)}>")
    module, _, attribute = TASKS[name].rpartition(".")
    make: Callable[..., Task] = getattr(importlib.import_module(module), attribute)
    return make
