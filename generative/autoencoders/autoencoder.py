"""Autoencoders: plain, denoising (Vincent et al. 2008), sparse (L1, or KL as in Ng 2011), contractive (Rifai et al.
2011).

Shapes: B batch, D numbers of the code, X... the shape of one input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import BetweenZeroAndOne, Count, LearningRate, NotNegative, Positive
from trivium.data.batches import Batches
from trivium.data.source import Source, Splits
from trivium.generative.image_data import rows_above, unit_images
from trivium.generative.networks.coders import Coder
from trivium.learner import Picture, Run, construct
from trivium.schedules import set_lr
from trivium.untouched import evaluating

EVALUATION_BATCH = 1024
COLUMNS, PAIRS_OF_ROWS = 8, 4  # of the figure


class Autoencoder:
    """Trains a code from which inputs can be restored; a `Learner`.

    The loss is the squared error, summed over the pixels of an input, plus the penalties that are asked for. Logs
    `loss`, `error` (mean squared error of a pixel) and penalties that are used. Evaluates to `error` of clean inputs,
    at the end also to `noisy_error` (of restored noisy inputs, where `noise_std` is set) and `active_share`, the share
    of the code's numbers above 1 % of the largest one. The figure is `reconstructions`, each below what the network was
    given.

    Args:
        run: where it runs.
        data: its column `x` is float32 [n, C, H, W] in [0, 1]; others are not used.
        model: makes the coder, see `networks.coders`; is offered `input_shape`, `latent_dim` and `encoded_dim`.
        optimizer: makes the optimizer from the parameters and `lr`.
        batch_size: samples per update, over all workers.
        lr: the peak learning rate.
        warmup_epochs: it rises over these; None: no warm-up.
        decay_epochs: it falls to 2 % of its peak along half a cosine until then; None: no fall.
        latent_dim: D.
        noise_std: of the Gaussian noise that inputs are given and that is not to be restored; 0: none.
        l1: weight of the code's L1 norm, mean over the batch; 0: none.
        sparsity: the mean activation in (0, 1) that the sigmoid of each number of the code is pulled to by
            KL(sparsity || mean over the batch); None: no pull.
        sparsity_weight: weight of that KL, summed over the code.
        contraction: weight of the squared Frobenius norm of d code / d input, estimated without bias by one random
            direction for each input; 0: none.

    Raises:
        ValueError: the batch does not divide among the workers or is larger than the training set, a number is out of
            range, or the data or the model is not what it must be.
    """

    evaluates: ClassVar = {"error": "min"}
    state: ClassVar = ("network", "optimizer", "scaler", "batches", "noise")
    shared: ClassVar = ("batch_size",)

    @checks_keywords
    def __init__(
        self,
        *,
        run: Run,
        data: Splits,
        model: Callable[..., Coder],
        optimizer: Callable[..., torch.optim.Optimizer],
        batch_size: Count,
        lr: LearningRate,
        warmup_epochs: Positive | None = None,
        decay_epochs: Positive | None = None,
        latent_dim: Count = 32,
        noise_std: NotNegative = 0.0,
        l1: NotNegative = 0.0,
        sparsity: BetweenZeroAndOne | None = None,
        sparsity_weight: NotNegative = 1.0,
        contraction: NotNegative = 0.0,
    ) -> None:
        self.run = run
        self.data, self.input_shape = unit_images(data, run)
        offers = {"input_shape": self.input_shape, "latent_dim": latent_dim, "encoded_dim": latent_dim}
        self.network = Coded(construct(model, **offers), sigmoid=sparsity is not None).to(run.device)
        self.optimizer = optimizer(self.network.parameters(), lr=lr)
        self.scaler = run.grad_scaler()
        self.batches = Batches(len(data.train), batch_size, run=run)
        # The same on every worker, each of which draws for the whole batch and uses its slice: the update does not
        # depend on their number.
        self.noise = run.generator("autoencoder noise", device=run.device)
        self._forward = run.wrap(self.network)

        self._lr_at = self.batches.schedule(
            lr, warmup_epochs=warmup_epochs, decay_epochs=decay_epochs, final_ratio=0.02
        )
        self.noise_std = noise_std
        self.l1 = l1
        self.sparsity, self.sparsity_weight = sparsity, sparsity_weight
        self.contraction = contraction
        self._figures_of: Source = self.data.val

    def step(self) -> dict[str, Tensor]:
        x_BX = self.data.train.batch(self.batches.next())["x"]
        given_BX = x_BX + self.noise_std * self._draw(self.input_shape) if self.noise_std else x_BX
        if self.contraction:
            given_BX.requires_grad_()
        set_lr(self.optimizer, self._lr_at(self.batches.samples))

        self.optimizer.zero_grad()
        with self.run.autocast():
            logits_BX, code_BD = self._forward(given_BX)
        error_B = squared_error(logits_BX, x_BX)
        loss = error_B.mean()
        logs = {"error": error_B.detach().mean() / x_BX[0].numel()}
        if self.l1:
            logs["l1"] = penalty = code_BD.float().abs().sum(1).mean()
            loss = loss + self.l1 * penalty
        if self.sparsity is not None:
            logs["sparsity"] = penalty = kl_sparsity(
                self.run.mean(code_BD.detach().float().mean(0)), code_BD, self.sparsity
            )
            loss = loss + self.sparsity_weight * penalty
        if self.contraction:
            direction_BD = self._draw(code_BD.shape[1:])
            logs["contraction"] = penalty = jacobian_norm(code_BD, given_BX, direction_BD)
            loss = loss + self.contraction * penalty
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {"loss": loss.detach(), **{name: value.detach() for name, value in logs.items()}}

    def _draw(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of one shape for each input of this worker's batch."""
        whole = torch.randn(self.batches.batch_size, *shape, generator=self.noise, device=self.run.device)
        return self.run.own(whole)

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        with evaluating(self.network), torch.no_grad():
            return self._measure(final=final)

    def _measure(self, *, final: bool) -> dict[str, float]:
        self._figures_of = source = self.data.test if final else self.data.val
        generator = self.run.generator("autoencoder evaluation")  # the same noise every time
        size, pixels = len(source), torch.Size(self.input_shape).numel()
        error = noisy = active = torch.zeros((), device=self.run.device)
        for i in range(0, size, EVALUATION_BATCH):
            index_B = torch.arange(i, min(i + EVALUATION_BATCH, size), device=self.run.device)
            noise_BX = torch.randn(len(index_B), *self.input_shape, generator=generator) if final else None
            if i // EVALUATION_BATCH % self.run.world_size != self.run.rank:
                continue
            x_BX = source.batch(index_B)["x"]
            with self.run.autocast():
                logits_BX, code_BD = self.network(x_BX)
            error = error + squared_error(logits_BX, x_BX).sum()
            size_BD = code_BD.float().abs()
            active = active + (size_BD > 0.01 * size_BD.max()).float().mean(1).sum()
            if noise_BX is not None and self.noise_std:
                with self.run.autocast():
                    logits_BX, _ = self.network(x_BX + self.noise_std * noise_BX.to(x_BX.device))
                noisy = noisy + squared_error(logits_BX, x_BX).sum()
        scores = {"error": float(self.run.sum(error)) / size / pixels}
        if final:
            scores["active_share"] = float(self.run.sum(active)) / size
            if self.noise_std:
                scores["noisy_error"] = float(self.run.sum(noisy)) / size / pixels
        return scores

    @torch.no_grad()
    def encode(self, x_BX: Tensor) -> Tensor:
        """The codes, float32 [B, D]; see `trivium.learner.Encodes`."""
        with evaluating(self.network), self.run.autocast():
            return self.network(x_BX.to(self.run.device))[1].float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def reconstruct(self, x_BX: Tensor) -> Tensor:
        """See `trivium.learner.Reconstructs`."""
        with evaluating(self.network), self.run.autocast():
            logits_BX: Tensor = self.network(x_BX.to(self.run.device))[0]
        return logits_BX.float().sigmoid()

    def figures(self) -> dict[str, Picture]:
        """`reconstructions` of the split evaluated last (val before that): a row of what the network was given, noise
        included, below it what it made of that, and so on."""
        with evaluating(self.network), torch.no_grad():
            return self._drawn()

    def _drawn(self) -> dict[str, Picture]:
        shown = min(COLUMNS * PAIRS_OF_ROWS, len(self._figures_of))
        x_BX = self._figures_of.batch(torch.arange(shown, device=self.run.device))["x"]
        noise_BX = torch.randn(x_BX.shape, generator=self.run.generator("autoencoder figures")).to(x_BX.device)
        given_BX = x_BX + self.noise_std * noise_BX
        with self.run.autocast():
            again_BX = self.network(given_BX)[0].sigmoid()
        return {"reconstructions": rows_above([given_BX, again_BX], columns=COLUMNS)}

    def counters(self) -> dict[str, float]:
        return self.batches.counters()


class Coded(nn.Module):
    """A coder whose forward pass gives the logits of the pixels and the code, in (0, 1) if `sigmoid`."""

    def __init__(self, coder: Coder, *, sigmoid: bool) -> None:
        super().__init__()
        self.encoder, self.decoder, self.sigmoid = coder.encoder, coder.decoder, sigmoid

    def forward(self, x_BX: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, X...] -> logits float [B, X...], code float [B, D]."""
        code_BD = self.encoder(x_BX)
        code_BD = code_BD.sigmoid() if self.sigmoid else code_BD
        return self.decoder(code_BD), code_BD


def squared_error(logits_BX: Tensor, x_BX: Tensor) -> Tensor:
    """(sigmoid(logits) - x)^2, summed over each input: float32 [B].

    Raises:
        ValueError: the shapes differ.
    """
    if logits_BX.shape != x_BX.shape:
        raise ValueError(f"the decoder returns {list(logits_BX.shape)} for inputs {list(x_BX.shape)}")
    return F.mse_loss(logits_BX.float().sigmoid(), x_BX, reduction="none").flatten(1).sum(1)


def kl_sparsity(mean_D: Tensor, code_BD: Tensor, sparsity: float) -> Tensor:
    """KL(sparsity || mean activation) of Bernoulli variables, summed over the code: float32, 0-d.

    Args:
        mean_D: the mean over all workers' batches, without gradient: where the KL's slope is taken.
        code_BD: this worker's activations in (0, 1), through which the gradient flows.
        sparsity: the activation that is wanted, in (0, 1).
    """
    own_D = code_BD.float().mean(0)
    mean_D = (mean_D + own_D - own_D.detach()).clamp(1e-6, 1 - 1e-6)
    return (sparsity * (sparsity / mean_D).log() + (1 - sparsity) * ((1 - sparsity) / (1 - mean_D)).log()).sum()


def jacobian_norm(code_BD: Tensor, x_BX: Tensor, direction_BD: Tensor) -> Tensor:
    """An estimate of the mean of |d code / d x|_F^2 over the batch: E |J^T v|^2 = |J|_F^2 for v ~ N(0, I).

    Args:
        code_BD: computed from x_BX, which requires its gradient.
        direction_BD: v, standard normal.
    """
    (gradient_BX,) = torch.autograd.grad(code_BD, x_BX, direction_BD.to(code_BD.dtype), create_graph=True)
    return gradient_BX.float().square().flatten(1).sum(1).mean()
