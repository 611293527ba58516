"""Classification by cross-entropy: one learner for every model that maps inputs to logits.

Shapes: B batch, K classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium import valid
from trivium.data.batches import Batches
from trivium.data.datasets import Dataset
from trivium.learner import Picture, Run, construct
from trivium.supervised.figures import confusion_figure
from trivium.supervised.metrics import accuracy, confusion_matrix, macro_f1
from trivium.supervised.schedules import warmup_cosine

EVALUATION_BATCH = 1024  # samples per forward pass without gradients, on each worker


class Classifier:
    """Trains a model on labelled data; a `Learner`.

    Logs `loss`, with clipping `grad_norm` (before clipping), with a schedule `lr`. Evaluates to `loss` (without
    label smoothing), `accuracy` and, at the end, `f1` (macro).

    Args:
        run: where it runs.
        data: its train split is learned from, val watched, test judged on.
        model: makes the module: float [B, *input_shape] -> logits [B, K]. Is offered `input_shape` and `num_outputs`.
        optimizer: makes the optimizer from the parameters and `lr`.
        batch_size: samples per update, over all workers and micro-batches.
        lr: the learning rate, or its peak where there is a schedule.
        warmup_samples: see `schedules.warmup_cosine`.
        decay_epochs: the epochs after which its `decay_samples` have been read, usually the budget; None: no decay.
        accumulate: micro-batches per update, one after the other, for batches that do not fit in memory.
            Batch normalisation sees the micro-batches.
        max_grad_norm: gradients of a larger L2 norm are scaled down to it; None to leave them.
        label_smoothing: this much of the target is spread over all classes (arXiv:1512.00567), in [0, 1).

    Raises:
        ValueError: a size does not divide among the workers or micro-batches, the batch is larger than the training
            set, or a number is out of range.
    """

    evaluates: ClassVar = {"loss": "min", "accuracy": "max"}

    def __init__(
        self,
        *,
        run: Run,
        data: Dataset,
        model: Callable[..., nn.Module],
        optimizer: Callable[..., torch.optim.Optimizer],
        batch_size: int,
        lr: float,
        warmup_samples: int = 0,
        decay_epochs: float | None = None,
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        if accumulate < 1:
            raise ValueError(f"accumulate={accumulate} must be at least 1")
        run.share(batch_size, "learner.batch_size")
        sizes = {"learner.accumulate": accumulate, "learner.batch_size": batch_size}
        valid.require_divisible(sizes, run.world_size)
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm={max_grad_norm} must be positive, or null for no clipping")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must be at least 0 and below 1")
        decay_samples = None if decay_epochs is None else round(decay_epochs * len(data.train.x))
        warmup_cosine(0, peak=lr, warmup_samples=warmup_samples, decay_samples=decay_samples)  # raises now, not later

        self.run = run
        self.data = data.to(run.device)
        self.num_classes = len(data.class_names)
        input_shape = tuple(data.train.x.shape[1:])
        self.model = construct(model, input_shape=input_shape, num_outputs=self.num_classes).to(run.device)
        self.optimizer = optimizer(self.model.parameters(), lr=lr)
        self.scaler = run.grad_scaler()
        self.batches = Batches(len(data.train.x), batch_size, run=run)
        self._forward = run.wrap(self.model)

        self.lr = lr
        self.warmup_samples = warmup_samples
        self.decay_samples = decay_samples
        self._scheduled = warmup_samples > 0 or decay_samples is not None
        self.accumulate = accumulate
        self.max_grad_norm = max_grad_norm
        self.label_smoothing = label_smoothing
        self._part = torch.tensor(1 / accumulate, device=run.device)  # of a micro-batch in the update's loss
        self._evaluated: tuple[str, Tensor] | None = None  # split and confusion matrix, for `figures`

    def step(self) -> dict[str, Tensor]:
        index_B = self.batches.next()
        micro_batches = (index_B,) if self.accumulate == 1 else index_B.chunk(self.accumulate)
        logs: dict[str, Tensor] = {}
        if self._scheduled:
            logs["lr"] = self._set_lr()

        self.optimizer.zero_grad()
        losses: list[Tensor] = []
        for index_b in micro_batches:
            not_last = len(losses) + 1 < self.accumulate
            with self.run.no_sync(self._forward, not_last):
                with self.run.autocast():
                    # index_select, because x[index] costs 4 µs more each on a CPU: 3 % of a small network's step.
                    logits_bK = self._forward(self.data.train.x.index_select(0, index_b))
                    target_b = self.data.train.y.index_select(0, index_b)
                    loss = F.cross_entropy(logits_bK, target_b, label_smoothing=self.label_smoothing)
                # The part is the gradient of the update's loss by this one: dividing would cost two kernels.
                self.scaler.scale(loss).backward(self._part)
            losses.append(loss.detach())
        if self.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
            if self.scaler.is_enabled():  # which skips an update that overflowed: it has no norm
                norm = torch.where(norm.isfinite(), norm, torch.nan)
            logs["grad_norm"] = norm
        self.scaler.step(self.optimizer)
        self.scaler.update()

        logs["loss"] = losses[0] if self.accumulate == 1 else torch.stack(losses).mean()
        return logs

    def _set_lr(self) -> Tensor:
        lr = warmup_cosine(
            self.batches.samples,
            peak=self.lr,
            warmup_samples=self.warmup_samples,
            decay_samples=self.decay_samples,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return torch.full((), lr, device=self.run.device)  # a fill; torch.tensor would wait for the device

    @torch.no_grad()
    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        split = self.data.test if final else self.data.val
        shard = split.shard(self.run.rank, self.run.world_size)
        confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64, device=self.run.device)
        loss_sum = torch.zeros((), device=self.run.device)
        with _evaluating(self.model):
            for x_B, y_B in zip(shard.x.split(EVALUATION_BATCH), shard.y.split(EVALUATION_BATCH), strict=True):
                with self.run.autocast():
                    logits_BK = self.model(x_B)
                    loss_sum += F.cross_entropy(logits_BK, y_B, reduction="sum")
                confusion += confusion_matrix(logits_BK.argmax(1), y_B, self.num_classes)
        confusion = self.run.sum(confusion)
        loss = self.run.sum(loss_sum) / len(split.y)

        self._evaluated = ("test" if final else "val", confusion)
        scores = {"loss": loss.item(), "accuracy": accuracy(confusion).item()}
        if final:
            scores["f1"] = macro_f1(confusion).item()
        return scores

    def figures(self) -> dict[str, Picture]:
        """`confusion`: the confusion matrix of the split evaluated last; nothing before the first evaluation."""
        if self._evaluated is None:
            return {}
        split, confusion = self._evaluated
        return {"confusion": confusion_figure(confusion, self.data.class_names, title=split)}

    def counters(self) -> dict[str, float]:
        return {"samples": self.batches.samples, "epochs": self.batches.epochs}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.state_dict(),
        }

    def load_weights(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.batches.load_state_dict(state["batches"])
        self._set_lr()  # the optimizer's is that of a schedule which may have been another


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part has its own mode back (`train()` would wake a frozen BatchNorm)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
