"""The supervised learner: one update for every task and every model.

Shapes: B samples of a batch, b samples of a micro-batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import (
    Count,
    Fraction,
    FractionBelowOne,
    LearningRate,
    NotNegative,
    Positive,
    PositiveOrInfinite,
)
from trivium.config.rules.sizes import require_divisible
from trivium.data.batches import Batches
from trivium.data.checks import checked
from trivium.data.source import Batch, OfLengths, ReadsAhead, Splits
from trivium.ema import Average
from trivium.learner import Picture, Run, UserCodeError
from trivium.schedules import Plateau, Shape, set_lr
from trivium.supervised.attention import IMAGES, attention_figure
from trivium.supervised.augmentation import ImageAugmentation
from trivium.supervised.finetuning import begin_from as load_beginning
from trivium.supervised.finetuning import freeze as freeze_parameters
from trivium.supervised.finetuning import parameter_groups
from trivium.supervised.fitting import balancing_weights, fitting_model, fitting_task
from trivium.supervised.models.sequences.continuing import continued
from trivium.supervised.tasks.language_modelling import LanguageModelling
from trivium.supervised.tasks.task import Direction, Rows, Task, Totals, named_task
from trivium.supervised.worst import worst_figure
from trivium.untouched import evaluating

EVALUATION_BATCH = 1024  # samples per forward pass without gradients, on each worker


class Supervised:
    """Trains a model on pairs of inputs and targets; a `Learner`.

    The loss is summed over the valid targets of the whole update and divided by their number, over all micro-batches
    and workers: padding, accumulation and the number of workers change nothing.

    Logs `loss`, with clipping `grad_norm` (before clipping), with a schedule `lr`. Evaluates to what the task scores.

    Args:
        run: where it runs.
        data: its train split is learned from, val watched, test judged on.
        model: makes the module, which is called with the data's inputs. Is offered what the data's signature offers
            (`input_shape`, `num_outputs`, ...).
        task: makes the task, which is offered the same; None: the one that the data names.
        optimizer: makes the optimizer from the parameters and `lr`.
        batch_size: samples per update, over all workers and micro-batches.
        lr: the learning rate, or its peak where there is a schedule.
        schedule: how the rate falls, see `trivium.schedules.scheduled`.
        warmup_epochs: the rate rises over these; None: no warm-up.
        decay_epochs: the fall ends after this many epochs, usually the budget; None: the rate does not fall.
        final_lr_ratio: of `lr`, what is left when the fall ends, in [0, 1].
        accumulate: micro-batches per update, one after the other, for batches that do not fit in memory.
            Batch normalisation sees the micro-batches.
        max_grad_norm: gradients of a larger L2 norm are scaled down to it; None: they are left as they are.
        ema: decay per update of an exponential moving average of the weights, which is what is evaluated, in [0, 1);
            0 for none. It follows faster at the start, see `trivium.ema.Average`.
        decay_norms: whether weight decay applies to biases, norms and other parameters of one dimension.
        channels_last: whether images [B, C, H, W] and the kernels of convolutions lie in memory with the channels
            last: the same numbers, up to rounding; on a CPU small convolutional networks train 1.3 to 1.9 times as
            fast.
        augment: changes the images that are learned from, see `ImageAugmentation`; None: they are left as they are.
        begin_from: a run folder or a file of weights to begin with, see `trivium.supervised.finetuning.begin_from`;
            None: the model's own. Where it is missing, the first step raises, unless the run has been resumed: its
            checkpoint holds all weights.
        freeze: patterns of names of parameters that stay as they are, see `trivium.supervised.finetuning.freeze`.
        lr_scales: factors of the learning rate by patterns of names of parameters, such as {features.*: 0.1}.
        unfreeze: epochs after which parameters begin to be trained, by patterns of their names; before, the rate
            is 0.
        plateau_patience: with `schedule=plateau`: evaluations without a smaller loss after which the rate is divided by
            10, down to `final_lr_ratio`; >= 1.
        balance: whether every class is drawn equally often; an epoch is then as many draws with replacement as there
            are samples. For one class a sample, in memory.
        bucketing: whether the samples of a batch are of similar length and padding that all of them have is cut off:
            the same loss, in less time. For data of sequences, see `trivium.data.source.OfLengths`.
        l1: times the sum of the absolute weights, biases and norms left out, is added to the loss of an update; >= 0.

    Raises:
        ValueError: a size does not divide among the workers or micro-batches, the batch is larger than the training
            set, a number is out of range, or data, task and model do not fit each other, see `trivium.data.checks` and
            `trivium.supervised.fitting`.
    """

    state: ClassVar = ("model", "average", "optimizer", "scaler", "batches", "plateau")
    derived: ClassVar = ("_shares", "_evaluated", "_missing")
    shared: ClassVar = ("batch_size",)
    divides: ClassVar = {"accumulate": "batch_size / workers"}

    @checks_keywords
    def __init__(
        self,
        *,
        run: Run,
        data: Splits,
        model: Callable[..., nn.Module],
        optimizer: Callable[..., torch.optim.Optimizer],
        batch_size: Count,
        lr: LearningRate,
        task: Callable[..., Task] | None = None,
        schedule: Shape = "cosine",
        warmup_epochs: Positive | None = None,
        decay_epochs: Positive | None = None,
        final_lr_ratio: Fraction = 0.0,
        accumulate: Count = 1,
        max_grad_norm: PositiveOrInfinite | None = None,
        ema: FractionBelowOne = 0.0,
        decay_norms: bool = True,
        channels_last: bool = False,
        augment: ImageAugmentation | None = None,
        begin_from: str | None = None,
        freeze: Sequence[str] = (),
        lr_scales: Mapping[str, NotNegative] | None = None,
        unfreeze: Mapping[str, float] | None = None,
        plateau_patience: Count = 5,
        balance: bool = False,
        bucketing: bool = False,
        l1: NotNegative = 0.0,
    ) -> None:
        run.share(batch_size, "learner.batch_size")
        sizes = {"learner.accumulate": accumulate, "learner.batch_size": batch_size}
        require_divisible(self.divides, sizes, group="learner", workers=run.world_size)

        self.run = run
        self.data = checked(data, run.device)
        self.task: Task = fitting_task(task or named_task(data.signature.task), self.data, run)
        rows = min(2, batch_size // run.world_size // accumulate)
        self.model = fitting_model(model, self.task, self.data, run, rows=rows)
        self._missing: ValueError | None = None  # the weights to begin with
        if begin_from is not None:
            try:
                load_beginning(self.model, begin_from)
            except ValueError as error:
                self._missing = error
        freeze_parameters(self.model, freeze)
        self.channels_last = channels_last
        if channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = parameter_groups(
            self.model, decay_norms=decay_norms, lr_scales=lr_scales or {}, unfreeze=unfreeze or {}
        )
        self.optimizer = optimizer(groups, lr=lr)
        self.scaler = run.grad_scaler()
        weights = balancing_weights(self.data) if balance else None
        lengths = self._lengths() if bucketing else None
        self.batches = Batches(len(data.train), batch_size, run=run, weights=weights, lengths=lengths)
        self.plateau = Plateau(patience=plateau_patience, final_ratio=final_lr_ratio) if schedule == "plateau" else None
        self.average = Average(self.model, decay=ema) if ema else None
        self._forward = run.wrap(self.model)

        self._lr_at = self.batches.schedule(
            lr, warmup_epochs=warmup_epochs, decay_epochs=decay_epochs, final_ratio=final_lr_ratio, shape=schedule
        )
        self._lr_at(0)  # raises now, not later
        falls = schedule == "plateau" or (decay_epochs is not None and schedule != "constant")
        self._scheduled = warmup_epochs is not None or falls
        self.accumulate = accumulate
        self.max_grad_norm = max_grad_norm
        self.l1 = l1
        self.bucketing = bucketing
        self.augment = augment
        self._shares: dict[int, Tensor] = {}  # by number of targets, see `_share`
        self._evaluated: tuple[str, Totals, Rows] | None = None  # for `figures`

    @property
    def evaluates(self) -> Mapping[str, Direction]:
        return self.task.evaluates

    # ------------------------------------------------------------------------------------------- learning

    def step(self) -> dict[str, Tensor]:
        if self._missing and not self.batches.samples:
            raise UserCodeError(f"learner.{self._missing}") from self._missing
        index_B = self.batches.next()
        batch_of = self.data.train.shortened if self.bucketing else self.data.train.batch  # type: ignore[attr-defined]
        micro_batches = [batch_of(index_b) for index_b in index_B.chunk(self.accumulate)]
        if isinstance(self.data.train, ReadsAhead):
            self.data.train.prefetch(self.batches.peek().chunk(self.accumulate))
        if self.augment is not None:
            micro_batches = self._augmented(micro_batches, self.augment)
        share = self._share(micro_batches)
        logs: dict[str, Tensor] = {}
        lr = self._lr_at(self.batches.samples) * (self.plateau.ratio if self.plateau else 1.0)
        set_lr(self.optimizer, lr)
        for group in self.optimizer.param_groups:
            asleep = self.batches.epochs <= group.get("from_epoch", 0.0)
            group["lr"] *= 0.0 if asleep else group.get("lr_scale", 1.0)
        if self._scheduled:
            logs["lr"] = torch.full((), lr, device=self.run.device)  # a fill; torch.tensor would wait for the device

        self.optimizer.zero_grad()
        losses: list[Tensor] = []
        for batch_b in micro_batches:
            with self.run.no_sync(self._forward, len(losses) + 1 < self.accumulate):
                with self.run.autocast():
                    loss = self.task.loss(self._forward(*self._inputs(batch_b)), batch_b)
                # The share is the gradient of the update's loss by this sum: dividing the loss would cost two kernels.
                self.scaler.scale(loss).backward(share)
            losses.append(loss.detach())
        if self.l1 or self.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
        if self.l1:
            logs["l1"] = self._add_l1()
        if self.max_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
            if self.scaler.is_enabled():  # which skips an update that overflowed: it has no norm
                norm = torch.where(norm.isfinite(), norm, torch.nan)
            logs["grad_norm"] = norm
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update()

        logs["loss"] = (losses[0] if self.accumulate == 1 else torch.stack(losses).sum()) * share
        return logs

    def adapt(self, scores: Mapping[str, float]) -> None:
        """See `trivium.learner.Adapts`."""
        if self.plateau is not None:
            self.plateau.judge(scores["loss"])

    def _lengths(self) -> Tensor:
        if not isinstance(self.data.train, OfLengths):
            raise ValueError("learner.bucketing=true: is for data of sequences that are padded; this data set has none")
        return self.data.train.lengths

    @torch.no_grad()
    def _add_l1(self) -> Tensor:
        """Add the gradient of the L1 penalty, which every worker computes of the same weights; returns the penalty."""
        weights = [p for p in self.model.parameters() if p.grad is not None and p.ndim > 1]
        for weight in weights:
            weight.grad.add_(weight.sign(), alpha=self.l1)  # type: ignore[union-attr]
        return self.l1 * torch.stack([weight.abs().sum() for weight in weights]).sum()

    def _augmented(self, micro_batches: list[Batch], augment: ImageAugmentation) -> list[Batch]:
        """As drawn for the position in the data, for the batch of all workers, of which each takes its part."""
        seed, source = self.run.seed_for("augmentation", self.batches.samples), self.data.train
        drawn = augment.draw(seed, self.batches.batch_size, len(source))
        own = {name: self.run.own(values).to(self.run.device) for name, values in drawn.items()}
        parts = zip(*(values.chunk(self.accumulate) for values in own.values()), strict=True)
        draws = [dict(zip(own, part, strict=True)) for part in parts] or [{}] * len(micro_batches)
        return [augment(batch, part, source) for batch, part in zip(micro_batches, draws, strict=True)]

    def _inputs(self, batch: Batch) -> list[Tensor]:
        inputs = [batch[name] for name in self.data.signature.inputs]
        if self.channels_last:
            inputs = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
        return inputs

    def _share(self, micro_batches: list[Batch]) -> Tensor:
        """What one target counts in the update's loss: 1 / their number over all micro-batches and workers, times the
        number of workers, whose gradients and logs are averaged."""
        counts = [self.task.count(batch) for batch in micro_batches]
        if any(isinstance(count, Tensor) for count in counts):
            count = self.run.sum(torch.stack([torch.as_tensor(c, device=self.run.device) for c in counts]).sum())
            return self.run.world_size / count.clamp(min=1).float()
        number = int(sum(counts))
        if number not in self._shares:
            self._shares[number] = torch.tensor(1 / number, device=self.run.device)
        return self._shares[number]

    # ------------------------------------------------------------------------------------------- evaluating

    @torch.no_grad()
    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        split, source = ("test", self.data.test) if final else ("val", self.data.val)
        own = torch.arange(self.run.rank, len(source), self.run.world_size, device=self.run.device)
        totals: Totals = {}
        parts: list[Rows] = []
        with self._evaluated_model() as model:
            for index_B in own.split(EVALUATION_BATCH):
                batch = source.batch(index_B)
                with self.run.autocast():
                    output = model(*self._inputs(batch))
                    if getattr(self.task, "generates", False):
                        batch = {**batch, "generated": model.generate(batch)}  # type: ignore[operator]
                for name, value in self.task.totals(output, batch).items():
                    totals[name] = totals[name] + value if name in totals else value
                if final:
                    parts.append({**self.task.rows(output, batch), "index": index_B})
        totals = {name: self.run.sum(value) for name, value in totals.items()}
        # Scores of whole rankings are computed in float64 on the CPU: not every device has it.
        rows = {name: column.cpu() for name, column in self._in_order(parts).items()}
        scores = self.task.scores(totals)
        if final:
            scores |= self.task.final_scores(totals, rows)
        self._evaluated = (split, totals, rows)
        return {name: value.item() for name, value in scores.items()}

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `trivium.learner.Predicts`; the answer is `Task.answers`, or `output` where the task has none."""
        given = {name: column.to(self.run.device) for name, column in inputs.items()}
        with self._evaluated_model() as model, self.run.autocast():
            writes = getattr(self.task, "generates", False)
            output = model.generate(given) if writes else model(*self._inputs(given))  # type: ignore[operator]
        answers = getattr(self.task, "answers", lambda output: {"output": output})(output)
        return {name: value.cpu() for name, value in answers.items()}

    @torch.no_grad()
    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the model's last linear layer is given, float32 [B, D]; see `trivium.learner.Features`.

        Raises:
            ValueError: the model has no linear layer.
        """
        layers = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError(f"{type(self.model).__name__} has no linear layer, whose input its features are")
        given = {name: column.to(self.run.device) for name, column in inputs.items()}
        seen: list[Tensor] = []
        hook = layers[-1].register_forward_pre_hook(lambda layer, args: seen.append(args[0].detach().float().cpu()))
        try:
            with self._evaluated_model() as model, self.run.autocast():
                model(*self._inputs(given))
        finally:
            hook.remove()
        return seen[-1].flatten(1)

    @torch.no_grad()
    def continued(
        self, prompt_BT: Tensor, *, num: int, generator: torch.Generator, temperature: float, top_k: int | None
    ) -> Tensor:
        """See `trivium.learner.Continues`.

        Raises:
            ValueError: the model does not predict the token after each token.
        """
        if not isinstance(self.task, LanguageModelling):
            raise ValueError(f"the model's task is {type(self.task).__name__}; only LanguageModelling continues texts")
        context: int = self.data.signature.offers["context"]
        with self._evaluated_model() as model, self.run.autocast():
            return continued(
                model, prompt_BT.to(self.run.device), num=num, context=context, generator=generator,
                temperature=temperature, top_k=top_k,
            ).cpu()  # fmt: skip

    def _in_order(self, parts: list[Rows]) -> Rows:
        """The rows of all workers, in the order of the split."""
        if not parts:
            return {}
        rows = {name: self.run.gather(torch.cat([part[name] for part in parts])) for name in parts[0]}
        order = rows.pop("index").argsort()
        return {name: row[order] for name, row in rows.items()}

    @contextlib.contextmanager
    def _evaluated_model(self) -> Iterator[nn.Module]:
        """The model in evaluation mode, with the averaged weights where there are any."""
        with evaluating(self.model), self.average.applied() if self.average else contextlib.nullcontext():
            yield self.model

    def figures(self) -> dict[str, Picture]:
        """What the task draws of the split evaluated last; nothing before the first evaluation."""
        if self._evaluated is None:
            return {}
        split, totals, rows = self._evaluated
        figures = self.task.figures(totals, rows, split)
        if split != "test":
            return figures
        source = self.data.test
        batch = source.batch(torch.arange(min(len(source), IMAGES), device=self.run.device))
        with self._evaluated_model() as model:
            title = "test: what the last attention looks at"
            if (drawn := attention_figure(model, batch, self.data.signature, title=title)) is not None:
                figures["attention"] = drawn
        if rows and hasattr(self.task, "worst"):
            title = f"{split}: where the model is most wrong"
            figures["worst"] = worst_figure(
                self.task.worst(rows), source, self.data.signature, self.run.device, title=title
            )
        return figures

    def counters(self) -> dict[str, float]:
        return self.batches.counters()
