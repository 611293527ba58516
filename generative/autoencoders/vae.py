"""The variational autoencoder (Kingma & Welling, arXiv:1312.6114) with a Bernoulli likelihood.

An encoder gives q(z|x) = N(mean, exp(log_var)), a decoder p(x|z), the prior is p(z) = N(0, I); trained is

    ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z))   <=   log p(x),

a sum over pixels and a mean over the batch, in nats. Unlike the paper: pixels in [0, 1] rather than {0, 1} are taken
as probabilities (the likelihood is then not normalised, as in nearly all published figures on grey images), the KL
term can be weighted (beta-VAE) and warmed up (arXiv:1602.02282).

With classes y it is the conditional VAE (Sohn et al. 2015): q(z|x, y) and p(x|z, y), and a bound on log p(x|y).

Shapes: B batch, K codes for each input or classes, D latents, X... the shape of one input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, CountOrZero, LearningRate, NotNegative, Positive
from trivium.data.batches import Batches
from trivium.data.pictures import image_grid
from trivium.data.source import Batch, Source, Splits
from trivium.generative.autoencoders.elbo import (
    bernoulli_log_likelihood,
    elbo,
    importance_log_weight,
    importance_weighted_bound,
    kl_to_standard_normal,
    kl_weight,
)
from trivium.generative.image_data import classes_of, labels_for, rows_above, unit_images
from trivium.generative.metrics import collapse
from trivium.generative.networks.coders import Coder
from trivium.learner import Picture, Run, construct
from trivium.schedules import set_lr
from trivium.untouched import evaluating

EVALUATION_BATCH = 1024  # samples per forward pass without gradients, on each worker
LOG_VAR_LIMIT = 10.0  # keeps exp(log_var) within (4.5e-5, 2.2e4): finite in fp16 too
ACTIVE_VARIANCE = 0.01  # of a latent's mean over the data, arXiv:1509.00519
COLUMNS, PAIRS_OF_ROWS = 8, 4  # of the figures
SAMPLES = 60


class Network(nn.Module):
    """A coder whose code is a distribution.

    With classes, the encoder is given the image plus a learned image of its class, which for a first linear layer is
    the same as a one-hot class joined to the input, and the decoder the code joined to the one-hot class.

    Args:
        coder: see `networks.coders`; encodes to 2 D numbers, decodes from D + K.
        latent_dim: D.
        num_classes: K; 0 for a VAE without classes.
        input_shape: of one input; needed with classes.
    """

    def __init__(self, coder: Coder, *, latent_dim: int, num_classes: int = 0, input_shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self.encoder, self.decoder = coder.encoder, coder.decoder
        self.class_image = nn.Parameter(torch.zeros(num_classes, *input_shape)) if num_classes else None

    def encode(self, x_BX: Tensor, label_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """float [B, X...], int64 [B] -> mean and log variance of q(z|x, y), float32 [B, D] each."""
        if self.class_image is not None:
            assert label_B is not None
            x_BX = x_BX + self.class_image[label_B]
        mean_BD, log_var_BD = self.encoder(x_BX).float().chunk(2, dim=1)
        return mean_BD, log_var_BD.clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)

    def decode(self, z_BD: Tensor, label_B: Tensor | None = None) -> Tensor:
        """float [B, D], int64 [B] -> logits of the pixels, float [B, X...]."""
        if self.num_classes:
            assert label_B is not None
            z_BD = torch.cat([z_BD, F.one_hot(label_B, self.num_classes).to(z_BD.dtype)], dim=1)
        logits_BX: Tensor = self.decoder(z_BD)
        return logits_BX

    def forward(self, x_BX: Tensor, noise_BD: Tensor, label_B: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the pixels, mean and log variance, for z = mean + exp(log_var / 2) noise."""
        mean_BD, log_var_BD = self.encode(x_BX, label_B)
        z_BD = mean_BD + (0.5 * log_var_BD).exp() * noise_BD
        return self.decode(z_BD, label_B), mean_BD, log_var_BD


class VAE:
    """Trains a variational autoencoder on images; a `Learner`.

    Logs `loss` (the negative ELBO with the KL term as weighted now), `reconstruction` (-log p(x|z)) and `kl`.
    Evaluates to `elbo` (never weighted), `reconstruction`, `kl`, `active_units` (latents whose mean varies over the
    data; few of them: posterior collapse), `collapse_signs` (`metrics.collapse`) and, at the end, `log_likelihood`, the
    importance-weighted bound. All in
    nats per input. The figures are `samples` from the prior and `reconstructions`, each below its original.

    Args:
        run: where it runs.
        data: its column `x` is float32 [n, C, H, W] in [0, 1]; `y` the classes, if `conditional`.
        model: makes the coder, see `networks.coders`; is offered `input_shape`, `latent_dim` and `encoded_dim`.
        optimizer: makes the optimizer from the parameters and `lr`.
        batch_size: samples per update, over all workers.
        lr: the peak learning rate.
        warmup_epochs: it rises over these; None: no warm-up.
        decay_epochs: it falls to 2 % of its peak along half a cosine until then; None: no fall.
        latent_dim: D, dimensions of the code z.
        conditional: whether images are encoded and generated by class.
        beta: weight of the KL term, >= 0; 1 is the paper's (others: beta-VAE).
        kl_warmup_samples: see `kl_weight`.
        importance_samples: K of the final `log_likelihood`.

    Raises:
        ValueError: the batch does not divide among the workers or is larger than the training set, a number is out of
            range, or the data is not what it must be, see `trivium.data.checks`.
    """

    evaluates: ClassVar = {
        "elbo": "max",
        "reconstruction": "min",
        "kl": None,
        "active_units": "max",
        "collapse_signs": "min",
    }
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
        latent_dim: Count = 16,
        conditional: bool = False,
        beta: NotNegative = 1.0,
        kl_warmup_samples: CountOrZero = 0,
        importance_samples: Count = 64,
    ) -> None:
        self.run = run
        self.data, input_shape = unit_images(data, run)
        self.num_classes = classes_of(self.data, conditional)
        read = latent_dim + self.num_classes
        coder = construct(model, input_shape=input_shape, latent_dim=read, encoded_dim=2 * latent_dim)
        self.network = Network(coder, latent_dim=latent_dim, num_classes=self.num_classes, input_shape=input_shape).to(
            run.device
        )
        self.optimizer = optimizer(self.network.parameters(), lr=lr)
        self.scaler = run.grad_scaler()
        self.batches = Batches(len(data.train), batch_size, run=run)
        # The same on every worker, each of which draws the noise of the whole batch and uses its slice: the update
        # does not depend on their number.
        self.noise = run.generator("vae noise", device=run.device)
        self._forward = run.wrap(self.network)

        self._lr_at = self.batches.schedule(
            lr, warmup_epochs=warmup_epochs, decay_epochs=decay_epochs, final_ratio=0.02
        )
        self.latent_dim = latent_dim
        self.beta = beta
        self.kl_warmup_samples = kl_warmup_samples
        self.importance_samples = importance_samples
        self._figures_of: Source = self.data.val

    def step(self) -> dict[str, Tensor]:
        batch = self.data.train.batch(self.batches.next())
        x_BX, label_B = batch["x"], self._labels(batch)
        weight = kl_weight(self.batches.samples, beta=self.beta, warmup_samples=self.kl_warmup_samples)
        noise_BD = self.run.own(self._noise_for(self.batches.batch_size, self.noise))
        set_lr(self.optimizer, self._lr_at(self.batches.samples))

        self.optimizer.zero_grad()
        with self.run.autocast():
            logits_BX, mean_BD, log_var_BD = self._forward(x_BX, noise_BD, label_B)
        log_likelihood_B = bernoulli_log_likelihood(logits_BX, x_BX)
        kl_B = kl_to_standard_normal(mean_BD, log_var_BD)
        loss = -elbo(log_likelihood_B, kl_B, beta=weight)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {
            "loss": loss.detach(),
            "reconstruction": -log_likelihood_B.detach().mean(),
            "kl": kl_B.detach().mean(),
        }

    def _labels(self, batch: Batch) -> Tensor | None:
        return batch["y"] if self.num_classes else None

    def _noise_for(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num_samples, self.latent_dim, generator=generator, device=self.run.device)

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        with evaluating(self.network), torch.no_grad():
            return self._measure(final=final)

    def _measure(self, *, final: bool) -> dict[str, float]:
        self._figures_of = split = self.data.test if final else self.data.val
        num_samples = len(split)
        own = torch.arange(self.run.rank, num_samples, self.run.world_size, device=self.run.device)
        batch = split.batch(own)
        x_BX, label_B = batch["x"], self._labels(batch)
        generator = self.run.generator("vae evaluation", device=self.run.device)  # the same noise every time
        with self.run.autocast():
            parts = [self.network.encode(x, y) for x, y in _split(x_BX, label_B)]
        mean_BD, log_var_BD = (torch.cat(part) for part in zip(*parts, strict=True))

        def draw() -> tuple[Tensor, Tensor]:
            noise_BD = self._noise_for(num_samples, generator)[self.run.rank :: self.run.world_size]
            z_BD = mean_BD + (0.5 * log_var_BD).exp() * noise_BD
            log_likelihood_B = self._log_likelihood(z_BD, x_BX, label_B)
            return log_likelihood_B, importance_log_weight(log_likelihood_B, z_BD, noise_BD, log_var_BD)

        def average(value_B: Tensor) -> float:
            return float(self.run.sum(value_B.sum())) / num_samples

        log_likelihood_B, log_weight_B = draw()
        reconstruction = -average(log_likelihood_B)
        kl = average(kl_to_standard_normal(mean_BD, log_var_BD))
        scores = {"elbo": -reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        centre_D = self.run.sum(mean_BD.sum(0)) / num_samples
        variance_D = self.run.sum((mean_BD - centre_D).square().sum(0)) / num_samples
        scores["active_units"] = float((variance_D > ACTIVE_VARIANCE).sum())
        scores["collapse_signs"] = collapse.warn(
            self.batches, self.run, active_share=scores["active_units"] / self.latent_dim
        )
        if final:
            log_weight_KB = torch.stack([log_weight_B, *(draw()[1] for _ in range(self.importance_samples - 1))])
            scores["log_likelihood"] = average(importance_weighted_bound(log_weight_KB))
        return scores

    def _log_likelihood(self, z_BD: Tensor, x_BX: Tensor, label_B: Tensor | None) -> Tensor:
        parts = []
        for (z, y), x in zip(_split(z_BD, label_B), x_BX.split(EVALUATION_BATCH), strict=True):
            with self.run.autocast():
                logits = self.network.decode(z, y)
            parts.append(bernoulli_log_likelihood(logits, x))
        return torch.cat(parts)

    @torch.no_grad()
    def sample(self, num: int, *, generator: torch.Generator, label_N: Tensor | None = None) -> Tensor:
        """Samples of the prior: the pixels' probabilities, float32 [num, X...]; see `trivium.learner.Samples`.

        Args:
            label_N: int64 [num], of a conditional VAE; None: the classes in turn.
        """
        return self.decode(torch.randn(num, *self.latent_shape, generator=generator), label_N=label_N)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    @torch.no_grad()
    def decode(self, z_ND: Tensor, *, label_N: Tensor | None = None) -> Tensor:
        """The pixels' probabilities, float32 [N, X...]; see `trivium.learner.Decodes`."""
        z_ND = z_ND.to(self.run.device)
        label_N = labels_for(len(z_ND), self.num_classes, label_N, self.run.device)
        with evaluating(self.network), self.run.autocast():
            logits_NX = torch.cat([self.network.decode(z, y) for z, y in _split(z_ND, label_N)])
        return logits_NX.float().sigmoid()

    @torch.no_grad()
    def encode(self, x_BX: Tensor) -> Tensor:
        """The means of the codes, float32 [B, D]; see `trivium.learner.Encodes`. Classes as for `reconstruct`."""
        x_BX = x_BX.to(self.run.device)
        with evaluating(self.network), self.run.autocast():
            label_B = self.explained_by(x_BX).argmax(1) if self.num_classes else None
            return self.network.encode(x_BX, label_B)[0]

    @torch.no_grad()
    def reconstruct(self, x_BX: Tensor) -> Tensor:
        """The decoded mean of the code; see `trivium.learner.Reconstructs`. A conditional VAE takes for each input the
        class that explains it best, see `explained_by`."""
        x_BX = x_BX.to(self.run.device)
        with evaluating(self.network), self.run.autocast():
            label_B = self.explained_by(x_BX).argmax(1) if self.num_classes else None
            logits_BX = self.network.decode(self.network.encode(x_BX, label_B)[0], label_B)
        return logits_BX.float().sigmoid()

    @torch.no_grad()
    def explained_by(self, x_BX: Tensor) -> Tensor:
        """How well each class explains inputs: the ELBO of log p(x|y) at the mean code, float32 [B, K], nats."""
        columns = []
        for label in range(self.num_classes):
            label_B = torch.full((len(x_BX),), label, device=x_BX.device)
            mean_BD, log_var_BD = self.network.encode(x_BX, label_B)
            log_likelihood_B = bernoulli_log_likelihood(self.network.decode(mean_BD, label_B), x_BX)
            columns.append(log_likelihood_B - kl_to_standard_normal(mean_BD, log_var_BD))
        return torch.stack(columns, dim=1)

    def figures(self) -> dict[str, Picture]:
        """`samples` of the prior, the same codes each time, and `reconstructions` of the split evaluated last (val
        before that): a row of originals, below it the decoded means of their codes, and so on."""
        with evaluating(self.network), torch.no_grad():
            return self._drawn()

    def _drawn(self) -> dict[str, Picture]:
        z_BD = self._noise_for(SAMPLES, self.run.generator("vae samples", device=self.run.device))
        shown = min(COLUMNS * PAIRS_OF_ROWS, len(self._figures_of))
        batch = self._figures_of.batch(torch.arange(shown, device=self.run.device))
        x_BX, label_B = batch["x"], self._labels(batch)
        classes = labels_for(SAMPLES, self.num_classes, None, self.run.device)
        with self.run.autocast():
            sample_BX = self.network.decode(z_BD, classes).sigmoid()
            again_BX = self.network.decode(self.network.encode(x_BX, label_B)[0], label_B).sigmoid()
        return {
            "samples": image_grid(sample_BX, columns=min(self.num_classes, 10) or COLUMNS),
            "reconstructions": rows_above([x_BX, again_BX], columns=COLUMNS),
        }

    def counters(self) -> dict[str, float]:
        return self.batches.counters()


def _split(value_BX: Tensor, label_B: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows and their classes, `EVALUATION_BATCH` at a time."""
    for i in range(0, len(value_BX), EVALUATION_BATCH):
        yield value_BX[i : i + EVALUATION_BATCH], None if label_B is None else label_B[i : i + EVALUATION_BATCH]
