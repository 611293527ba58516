"""SRGAN (arXiv:1609.04802): images become two or four times as large.

The small images are made from the data's by the mean over squares of pixels. A first stage learns by the pixels alone,
which gives SRResNet; a second one adds an adversarial loss, after which images are sharper and, pixel by pixel,
further from the truth:

    |G(small) - large|_1 + adversarial * softplus(-D(G(small)))

Unlike the paper, the first term is the absolute error of pixels in both stages, since the features that the paper
compares are those of a network trained on ImageNet.

Shapes: B batch, X... the shape of one large image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, LearningRate, Positive, PositiveOrInfinite
from trivium.data.batches import Batches
from trivium.data.source import Source, Splits
from trivium.generative.gans.adversarial import discriminator_loss, generator_loss
from trivium.generative.image_data import rows_above, unit_images
from trivium.generative.metrics.restored import psnr, ssim, steepness
from trivium.generative.networks.srresnet import enlarged, shrunk
from trivium.learner import Picture, Run, construct
from trivium.schedules import set_lr
from trivium.untouched import evaluating

EVALUATION_BATCH = 250  # images per forward pass without gradients
EVALUATION_IMAGES = 1000  # at most, while training
SHOWN = 10  # of the figure


class SRGAN:
    """Trains a generator that enlarges images; a `Learner`.

    Logs `loss` (the generator's) and `pixel`; with an adversarial stage also `adversarial`, `discriminator`,
    `real_logit` and `fake_logit`, which begin with it. Evaluates to `psnr` (dB) and `ssim`, means over images,
    `psnr_gain` and `ssim_gain`, how much better they are than bicubic enlargement's, and `sharpness` and
    `bicubic_sharpness`, the steepness of the images as a share of the true ones' (`metrics.restored`). The figure is
    `enlarged`: rows of the small images, their bicubic enlargements, the network's, and the true ones.

    Args:
        run: where it runs.
        data: its column `x`, the large images, is float32 [n, C, H, W] in [0, 1]; others are not used.
        model: makes a module with `generator` and `discriminator`, see `networks.srresnet`; is offered `input_shape`
            and `scale`.
        optimizer: makes an optimizer from parameters and `lr`; there are two.
        batch_size: images per update, over all workers.
        lr: the generator's peak learning rate.
        discriminator_lr: the discriminator's; None: `lr`. It does not change.
        warmup_epochs: the generator's rate rises over these; None: no warm-up.
        decay_epochs: it falls to 2 % of its peak along half a cosine until then; None: no fall.
        scale: how many times larger images become: 2 or 4.
        pixel_epochs: epochs of the first stage; None: there is no second one.
        adversarial: weight of the adversarial loss in the second stage.
        max_grad_norm: the generator's gradients of a larger L2 norm are scaled down to it; None: left as they are.

    Raises:
        ValueError: the batch does not divide among the workers or is larger than the training set, a number is out of
            range, or the data or the model is not what it must be.
    """

    evaluates: ClassVar = {
        "psnr": "max",
        "psnr_gain": "max",
        "ssim": "max",
        "ssim_gain": "max",
        "sharpness": None,
        "bicubic_sharpness": None,
    }
    state: ClassVar = (
        "networks",
        "generator_optimizer",
        "discriminator_optimizer",
        "generator_scaler",
        "discriminator_scaler",
        "batches",
    )

    shared: ClassVar = ("batch_size",)

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
        discriminator_lr: LearningRate | None = None,
        warmup_epochs: Positive | None = None,
        decay_epochs: Positive | None = None,
        scale: Literal[2, 4] = 2,
        pixel_epochs: float | None = None,
        adversarial: float = 1e-3,
        max_grad_norm: PositiveOrInfinite | None = None,
    ) -> None:
        if scale not in (2, 4) or adversarial < 0 or (pixel_epochs is not None and pixel_epochs < 0):
            raise ValueError(
                f"scale={scale} must be 2 or 4, adversarial={adversarial} and pixel_epochs={pixel_epochs} not negative"
            )
        self.run = run
        self.data, input_shape = unit_images(data, run)
        self.networks = construct(model, input_shape=input_shape, scale=scale).to(run.device)
        self.generator = cast(nn.Module, self.networks.generator)
        self.discriminator = cast(nn.Module, self.networks.discriminator)
        self.discriminator_lr = discriminator_lr or lr
        self.generator_optimizer = optimizer(self.generator.parameters(), lr=lr)
        self.discriminator_optimizer = optimizer(self.discriminator.parameters(), lr=self.discriminator_lr)
        self.generator_scaler, self.discriminator_scaler = run.grad_scaler(), run.grad_scaler()
        self.batches = Batches(len(data.train), batch_size, run=run)
        self._enlarge = run.wrap(self.generator)
        self._discriminate = run.wrap(self.discriminator)

        self._lr_at = self.batches.schedule(
            lr, warmup_epochs=warmup_epochs, decay_epochs=decay_epochs, final_ratio=0.02
        )
        self.scale = int(scale)
        self.pixel_samples = self.batches.samples_in(pixel_epochs)
        self.adversarial = adversarial
        self.max_grad_norm = max_grad_norm
        self._figures_of: Source = self.data.val

    # ------------------------------------------------------------------------------------------- learning

    def step(self) -> dict[str, Tensor]:
        true_BX = self.data.train.batch(self.batches.next())["x"]
        second_stage = self.pixel_samples is not None and self.batches.samples > self.pixel_samples
        set_lr(self.generator_optimizer, self._lr_at(self.batches.samples))

        with self.run.autocast():
            image_BX = self._enlarge(shrunk(true_BX, self.scale))
        loss = pixel = F.l1_loss(image_BX, true_BX)
        logs = {"pixel": pixel.detach()}
        if second_stage:
            logs |= self._teach_discriminator(true_BX, image_BX.detach())
            self.discriminator.requires_grad_(False)
            with self.run.autocast():
                fake_B = self.discriminator(2 * image_BX - 1)
            deceiving = generator_loss(fake_B, "logistic")
            loss = loss + self.adversarial * deceiving
            logs["adversarial"] = deceiving.detach()
        elif self.pixel_samples is not None:
            nothing = torch.full_like(logs["pixel"], torch.nan)
            logs |= dict.fromkeys(("real_logit", "fake_logit", "discriminator", "adversarial"), nothing)

        self.generator_optimizer.zero_grad()
        self.generator_scaler.scale(loss).backward()
        self.discriminator.requires_grad_(True)
        if self.max_grad_norm is not None:
            self.generator_scaler.unscale_(self.generator_optimizer)
            nn.utils.clip_grad_norm_(self.generator.parameters(), self.max_grad_norm)
        self.generator_scaler.step(self.generator_optimizer)
        self.generator_scaler.update()
        return {"loss": loss.detach(), **logs}

    def _teach_discriminator(self, true_BX: Tensor, image_BX: Tensor) -> dict[str, Tensor]:
        self.discriminator_optimizer.zero_grad()
        with self.run.autocast():
            real_B = self._discriminate(2 * true_BX - 1)
            fake_B = self._discriminate(2 * image_BX - 1)
        loss = discriminator_loss(real_B, fake_B, "logistic")
        self.discriminator_scaler.scale(loss).backward()
        self.discriminator_scaler.step(self.discriminator_optimizer)
        self.discriminator_scaler.update()
        return {
            "real_logit": real_B.detach().float().mean(),
            "fake_logit": fake_B.detach().float().mean(),
            "discriminator": loss.detach(),
        }

    # ------------------------------------------------------------------------------------------- using

    @torch.no_grad()
    def upscale(self, x_BX: Tensor) -> Tensor:
        """Images `scale` times as large; see `trivium.learner.Upscales`."""
        with evaluating(self.generator), self.run.autocast():
            image_BX: Tensor = self.generator(x_BX.to(self.run.device))
        return image_BX.float().clamp(0, 1)

    @torch.no_grad()
    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        self._figures_of = source = self.data.test if final else self.data.val
        size = len(source) if final else min(len(source), EVALUATION_IMAGES)
        total = torch.zeros(6, device=self.run.device)
        for i in range(0, size, EVALUATION_BATCH):
            if i // EVALUATION_BATCH % self.run.world_size != self.run.rank:
                continue
            true_BX = source.batch(torch.arange(i, min(i + EVALUATION_BATCH, size), device=self.run.device))["x"]
            small_BX = shrunk(true_BX, self.scale)
            image_BX, bicubic_BX = self.upscale(small_BX), enlarged(small_BX, self.scale).clamp(0, 1)
            parts = [psnr(image_BX, true_BX), psnr(bicubic_BX, true_BX), ssim(image_BX, true_BX)]
            parts += [ssim(bicubic_BX, true_BX), steepness(image_BX) / steepness(true_BX).clamp(min=1e-6)]
            parts += [steepness(bicubic_BX) / steepness(true_BX).clamp(min=1e-6)]
            total += torch.stack(parts).sum(1)
        ours, bicubic, ssim_ours, ssim_bicubic, sharp, sharp_bicubic = (self.run.sum(total) / size).tolist()
        return {
            "psnr": ours,
            "psnr_gain": ours - bicubic,
            "ssim": ssim_ours,
            "ssim_gain": ssim_ours - ssim_bicubic,
            "sharpness": sharp,
            "bicubic_sharpness": sharp_bicubic,
        }

    def figures(self) -> dict[str, Picture]:
        index_B = torch.arange(min(SHOWN, len(self._figures_of)), device=self.run.device)
        true_BX = self._figures_of.batch(index_B)["x"]
        small_BX = shrunk(true_BX, self.scale)
        squares_BX = F.interpolate(small_BX, scale_factor=self.scale, mode="nearest")
        parts = [squares_BX, enlarged(small_BX, self.scale), self.upscale(small_BX), true_BX]
        return {"enlarged": rows_above(parts, columns=SHOWN)}

    def counters(self) -> dict[str, float]:
        return self.batches.counters()
