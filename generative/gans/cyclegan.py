"""CycleGAN (arXiv:1703.10593): translates between two domains of images of which no pairs are known.

Two generators, F: A -> B and G: B -> A, deceive a discriminator in each domain (least squares), and must be inverse to
each other:

    (D_B(F(a)) - 1)^2 / 2 + (D_A(G(b)) - 1)^2 / 2
    + cycle (|G(F(a)) - a|_1 + |F(G(b)) - b|_1) + cycle identity (|F(b) - b|_1 + |G(a) - a|_1)

The discriminators learn from a pool of earlier images beside the new ones.

Shapes: B batch, P patches, X... the shape of one image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, CountOrZero, LearningRate, NotNegative, Positive
from trivium.data.batches import Batches
from trivium.data.checks import rows_of
from trivium.data.source import Source, Splits
from trivium.generative.gans.adversarial import ImagePool, discriminator_loss, fading, generator_loss
from trivium.generative.image_data import rows_above, unit_images
from trivium.learner import Picture, Run, construct
from trivium.schedules import set_lr
from trivium.untouched import evaluating

EVALUATION_BATCH = 250  # images per forward pass without gradients
EVALUATION_IMAGES = 1000  # at most, while training
SHOWN = 10  # of the figure


class CycleGAN:
    """Trains a translator between two domains of images, both ways; a `Learner`.

    Images are taken from [0, 1] to [-1, 1]. Logs `loss` (the generators'), `cycle`, `identity`, `deceiving` and
    `discriminator_loss`. Evaluates to `cycle_error`, the mean absolute error of a pixel in [0, 1] after a translation
    forth and back, over both ways. Where the data say that the validation and test rows are pairs (`paired` among what
    the signature offers), also to `paired_error`, the mean squared error of A's translations against the truth, which
    no training image shows, `unchanged_error`, the same of images left as they are, and `paired_error_back`. The figure
    is `translations`: rows of A's images, their translations, the truth where it is known, and the way back.

    Args:
        run: where it runs.
        data: its columns `x`, domain A, and `other`, domain B, are float32 [n, C, H, W] in [0, 1].
        model: makes a module with `forth`, `back`, `discriminator_a` and `discriminator_b`, see `networks.cyclegan`; is
            offered `input_shape` and `other_shape`.
        optimizer: makes an optimizer from parameters and `lr`; there are two.
        batch_size: images of each domain per update, over all workers.
        lr: the generators' learning rate.
        discriminator_lr: the discriminators'; None: `lr`.
        decay_epochs: both rates fall linearly to 5 % from half of this many epochs to all of them; None: no fall.
        cycle: weight of the cycle's error.
        identity: weight, as a share of `cycle`, of what a generator changes in images that are of its target domain
            already; not used where the domains have different numbers of channels.
        pool_size: images of each domain that are kept for its discriminator, see `ImagePool`.

    Raises:
        ValueError: the batch does not divide among the workers or is larger than the training set, a number is out of
            range, or the data or the model is not what it must be.
    """

    evaluates: ClassVar = {
        "cycle_error": "min",
        "paired_error": "min",
        "unchanged_error": None,
        "paired_error_back": "min",
    }
    state: ClassVar = (
        "generators",
        "discriminators",
        "generator_optimizer",
        "discriminator_optimizer",
        "generator_scaler",
        "discriminator_scaler",
        "batches",
        "pool_a",
        "pool_b",
        "swaps",
    )

    shared: ClassVar = ("batch_size",)

    @checks_keywords
    def __init__(
        self,
        *,
        run: Run,
        data: Splits,
        model: Callable[..., Any],
        optimizer: Callable[..., torch.optim.Optimizer],
        batch_size: Count,
        lr: LearningRate,
        discriminator_lr: LearningRate | None = None,
        decay_epochs: Positive | None = None,
        cycle: NotNegative = 10.0,
        identity: NotNegative = 0.5,
        pool_size: CountOrZero = 50,
    ) -> None:
        self.run = run
        self.data, input_shape = unit_images(data, run, "x", "other")
        other_shape = tuple(rows_of(self.data.train, run.device)["other"].shape[1:])
        networks = construct(model, input_shape=input_shape, other_shape=other_shape)
        self.generators = Generators(networks.forth, networks.back).to(run.device)
        self.discriminators = Discriminators(networks.discriminator_a, networks.discriminator_b).to(run.device)
        self.lr, self.discriminator_lr = lr, discriminator_lr or lr
        self.generator_optimizer = optimizer(self.generators.parameters(), lr=lr)
        self.discriminator_optimizer = optimizer(self.discriminators.parameters(), lr=self.discriminator_lr)
        self.generator_scaler, self.discriminator_scaler = run.grad_scaler(), run.grad_scaler()
        self.batches = Batches(len(data.train), batch_size, run=run)
        self.pool_a = ImagePool(pool_size, input_shape, run.device)
        self.pool_b = ImagePool(pool_size, other_shape, run.device)
        self.swaps = run.generator("cyclegan pool")  # the same on every worker, as the pools are
        self._generate = run.wrap(self.generators)
        self._discriminate = run.wrap(self.discriminators)

        self.cycle = cycle
        self.identity = identity if input_shape[0] == other_shape[0] else 0.0
        self.paired = bool(data.signature.offers.get("paired", False))
        self.decay_samples = self.batches.samples_in(decay_epochs)
        self._figures_of: Source = self.data.val

    # ------------------------------------------------------------------------------------------- learning

    def step(self) -> dict[str, Tensor]:
        batch = self.data.train.batch(self.batches.next())
        a_BX, b_BX = 2 * batch["x"] - 1, 2 * batch["other"] - 1
        factor = fading(self.batches.samples, self.decay_samples)
        set_lr(self.generator_optimizer, self.lr * factor)
        set_lr(self.discriminator_optimizer, self.discriminator_lr * factor)

        self.generator_optimizer.zero_grad()
        self.discriminators.requires_grad_(False)
        with self.run.autocast():
            fake_b_BX, again_a_BX, fake_a_BX, again_b_BX, *same = self._generate(a_BX, b_BX, bool(self.identity))
            deceived_a, deceived_b = self.discriminators.of_generated(fake_a_BX, fake_b_BX)
        deceiving = generator_loss(deceived_a, "least_squares") + generator_loss(deceived_b, "least_squares")
        cycle = F.l1_loss(again_a_BX.float(), a_BX) + F.l1_loss(again_b_BX.float(), b_BX)
        loss = deceiving + self.cycle * cycle
        logs = {"deceiving": deceiving.detach(), "cycle": cycle.detach()}
        if self.identity:
            same_b_BX, same_a_BX = same
            identity = F.l1_loss(same_b_BX.float(), b_BX) + F.l1_loss(same_a_BX.float(), a_BX)
            loss = loss + self.cycle * self.identity * identity
            logs["identity"] = identity.detach()
        self.generator_scaler.scale(loss).backward()
        self.discriminators.requires_grad_(True)
        self.generator_scaler.step(self.generator_optimizer)
        self.generator_scaler.update()
        logs["loss"] = loss.detach()

        self.discriminator_optimizer.zero_grad()
        shown_a_BX = self._from_pool(self.pool_a, fake_a_BX)
        shown_b_BX = self._from_pool(self.pool_b, fake_b_BX)
        with self.run.autocast():
            real_a, shown_a, real_b, shown_b = self._discriminate(a_BX, shown_a_BX, b_BX, shown_b_BX)
        loss = discriminator_loss(real_a, shown_a, "least_squares")
        loss = loss + discriminator_loss(real_b, shown_b, "least_squares")
        self.discriminator_scaler.scale(loss).backward()
        self.discriminator_scaler.step(self.discriminator_optimizer)
        self.discriminator_scaler.update()
        return {**logs, "discriminator_loss": loss.detach()}

    def _from_pool(self, pool: ImagePool, fake_BX: Tensor) -> Tensor:
        """What this worker's discriminator is shown. Each worker's pool gets the images of all."""
        whole_BX = self.run.gather(fake_BX.detach().float())
        return self.run.own(pool.query(whole_BX, self.swaps))

    # ------------------------------------------------------------------------------------------- using

    @torch.no_grad()
    def translate(self, x_BX: Tensor, *, back: bool = False) -> Tensor:
        """Images of the other domain, float32 [B, X...] in [0, 1]; see `trivium.learner.Translates`.

        Args:
            back: from B to A rather than from A to B.
        """
        generator = self.generators.back if back else self.generators.forth
        with evaluating(self.generators), self.run.autocast():
            image_BX = generator(2 * x_BX.to(self.run.device) - 1)
        return (image_BX.float() + 1) / 2  # type: ignore[no-any-return]

    @torch.no_grad()
    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        self._figures_of = source = self.data.test if final else self.data.val
        size = len(source) if final else min(len(source), EVALUATION_IMAGES)
        total = torch.zeros(4, device=self.run.device)
        for i in range(0, size, EVALUATION_BATCH):
            if i // EVALUATION_BATCH % self.run.world_size != self.run.rank:
                continue
            batch = source.batch(torch.arange(i, min(i + EVALUATION_BATCH, size), device=self.run.device))
            a_BX, b_BX = batch["x"], batch["other"]
            fake_b_BX, fake_a_BX = self.translate(a_BX), self.translate(b_BX, back=True)
            cycle_a = (self.translate(fake_b_BX, back=True) - a_BX).abs().flatten(1).mean(1)
            cycle_b = (self.translate(fake_a_BX) - b_BX).abs().flatten(1).mean(1)
            parts = [(cycle_a + cycle_b) / 2]
            if self.paired:
                pairs = [(fake_b_BX, b_BX), (a_BX, b_BX), (fake_a_BX, a_BX)]
                parts += [(one - two).square().flatten(1).mean(1) for one, two in pairs]
            total[: len(parts)] += torch.stack(parts).sum(1)
        names = tuple(self.evaluates) if self.paired else ("cycle_error",)
        return dict(zip(names, (self.run.sum(total) / size).tolist(), strict=False))

    def figures(self) -> dict[str, Picture]:
        index_B = torch.arange(min(SHOWN, len(self._figures_of)), device=self.run.device)
        batch = self._figures_of.batch(index_B)
        a_BX, b_BX = batch["x"], batch["other"]
        fake_b_BX = self.translate(a_BX)
        parts = [a_BX, fake_b_BX, *([b_BX] if self.paired else []), self.translate(fake_b_BX, back=True)]
        others = [b_BX, self.translate(b_BX, back=True)]
        channels = max(part.shape[1] for part in (a_BX, b_BX))
        coloured = [[part.expand(-1, channels, -1, -1) for part in group] for group in (parts, others)]
        forth, back = (rows_above(group, columns=SHOWN) for group in coloured)
        return {"translations": forth, "translations_back": back}

    def counters(self) -> dict[str, float]:
        return self.batches.counters()


class Generators(nn.Module):
    """Both generators, and all that an update makes with them."""

    def __init__(self, forth: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.forth, self.back = forth, back

    def forward(self, a_BX: Tensor, b_BX: Tensor, identity: bool) -> tuple[Tensor, ...]:
        """F(a), G(F(a)), G(b), F(G(b)), and with `identity` F(b) and G(a)."""
        fake_b_BX, fake_a_BX = self.forth(a_BX), self.back(b_BX)
        made = (fake_b_BX, self.back(fake_b_BX), fake_a_BX, self.forth(fake_a_BX))
        return (*made, self.forth(b_BX), self.back(a_BX)) if identity else made


class Discriminators(nn.Module):
    """The discriminators of both domains."""

    def __init__(self, of_a: nn.Module, of_b: nn.Module) -> None:
        super().__init__()
        self.of_a, self.of_b = of_a, of_b

    def forward(self, a_BX: Tensor, shown_a_BX: Tensor, b_BX: Tensor, shown_b_BX: Tensor) -> tuple[Tensor, ...]:
        """The logits of real and of generated images, float [B, P] each: A's, then B's."""
        return self.of_a(a_BX), self.of_a(shown_a_BX), self.of_b(b_BX), self.of_b(shown_b_BX)

    def of_generated(self, fake_a_BX: Tensor, fake_b_BX: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of generated images only."""
        return self.of_a(fake_a_BX), self.of_b(fake_b_BX)
