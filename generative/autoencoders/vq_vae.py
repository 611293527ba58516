"""VQ-VAE (arXiv:1711.00937): an autoencoder whose code is a map of discrete codes, and a prior over such maps.

An encoder gives a vector at each position, a codebook replaces it by its nearest code, a decoder restores the picture:
    loss = |decode(code) - x|^2 / variance + beta * |encode(x) - code|^2
The codes follow by moving averages (`codebook`). The prior learns the maps that are found, which are not changed by it.

Shapes: B batch, C H W a picture, P positions of the code map, D numbers of a code, K codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne, LearningRate, NotNegative, Positive
from trivium.data.batches import Batches
from trivium.data.pictures import image_grid
from trivium.data.source import Source, Splits
from trivium.generative.autoencoders.codebook import Codebook, perplexity
from trivium.generative.image_data import rows_above, unit_images
from trivium.generative.metrics import collapse
from trivium.generative.metrics.coarse import coarse_features
from trivium.generative.networks.code_map import CodePrior
from trivium.learner import Picture, Run, construct
from trivium.quality.distances import frechet_distance
from trivium.schedules import set_lr
from trivium.untouched import evaluating

EVALUATION_BATCH = 500
FINAL_IMAGES = 500
COLUMNS, SHOWN = 10, 40


class VQVAE:
    """Learns a codebook, an encoder and decoder, and a prior to sample from; a `Learner`.

    Logs `loss`, `error` (mean squared error per pixel), `commitment`, `prior` (nats per code), `perplexity` and
    `restarted` codes. Evaluates to `error`, `prior`, `perplexity`, `codes_used` and `collapse_signs`
    (`metrics.collapse`) on held-out pictures, and at the end
    to `coarse_frechet` between samples of the prior and real pictures. The figures are `samples` and `reconstructions`.

    Args:
        run: where it runs.
        data: its column `x` is float32 [n, C, H, W] in [0, 1].
        model: makes encoder and decoder, see `networks.code_map`; is offered `input_shape` and `code_dim`.
        optimizer: makes the optimizer from the parameters and `lr`.
        batch_size: pictures per update, over all workers.
        lr: the peak learning rate.
        warmup_epochs: lr rises linearly over these; None: no warm-up.
        decay_epochs: lr falls to 2 % of its peak along half a cosine until then; None: it stays.
        num_codes: K.
        code_dim: D.
        code_decay: of the codes' moving averages per update, in [0, 1).
        beta: weight of the commitment of the encoder to its codes, >= 0.
        variance: of the pixels around their reconstruction, > 0, by which the squared error is divided.
        prior_width, prior_layers: of the prior's network, see `CodePrior`.

    Raises:
        ValueError: the batch does not divide among the workers or is larger than the training set, a number is out of
            range, or the data or the network is not what it must be.
    """

    evaluates: ClassVar = {
        "error": "min",
        "prior": "min",
        "perplexity": "max",
        "codes_used": "max",
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
        model: Callable[..., nn.Module],
        optimizer: Callable[..., torch.optim.Optimizer],
        batch_size: Count,
        lr: LearningRate,
        warmup_epochs: Positive | None = None,
        decay_epochs: Positive | None = None,
        num_codes: Count = 128,
        code_dim: Count = 32,
        code_decay: FractionBelowOne = 0.99,
        beta: NotNegative = 0.25,
        variance: Positive = 0.06,
        prior_width: Count = 64,
        prior_layers: Count = 4,
    ) -> None:
        self.run = run
        self.data, self.input_shape = unit_images(data, run)
        coder = construct(model, input_shape=self.input_shape, code_dim=code_dim)
        codebook = Codebook(num_codes=num_codes, dim=code_dim, decay=code_decay)
        prior = CodePrior(num_codes=num_codes, width=prior_width, layers=prior_layers)
        self.network = Quantised(coder, codebook, prior).to(run.device)
        self.optimizer = optimizer(self.network.parameters(), lr=lr)
        self.scaler = run.grad_scaler()
        self.batches = Batches(len(data.train), batch_size, run=run)
        self.noise = run.generator("codes that are restarted", device=run.device)  # the same on every worker
        self._forward = run.wrap(self.network)

        self._lr_at = self.batches.schedule(
            lr, warmup_epochs=warmup_epochs, decay_epochs=decay_epochs, final_ratio=0.02
        )
        self.beta = beta
        self.variance = variance
        self._figures_of: Source = self.data.val

    # ------------------------------------------------------------------------------------------- learning

    def step(self) -> dict[str, Tensor]:
        begins = self.batches.samples == 0
        x_BX = self.data.train.batch(self.batches.next())["x"]
        codebook = self.network.codebook
        pick_K = torch.rand(len(codebook.code_KD), generator=self.noise, device=self.run.device)
        if begins:
            self._start_codes(x_BX, pick_K)
        set_lr(self.optimizer, self._lr_at(self.batches.samples))

        self.optimizer.zero_grad()
        with self.run.autocast():
            again_BX, encoded_BPD, index_BHW, logits_BKHW = self._forward(x_BX)
        error = F.mse_loss(again_BX.float(), x_BX)
        commitment = F.mse_loss(encoded_BPD.float(), codebook.code_KD[index_BHW.flatten(1)])
        prior = F.cross_entropy(logits_BKHW.float(), index_BHW)
        loss = error / self.variance + self.beta * commitment + prior
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

        vector_ND = encoded_BPD.detach().float().flatten(0, 1)
        count_K, restarted = codebook.update(
            vector_ND, index_BHW.flatten(), pick_K, total=self.run.sum, first=self._first
        )
        logs = {"loss": loss, "error": error, "commitment": commitment, "prior": prior}
        logs |= {"perplexity": perplexity(count_K), "restarted": restarted}
        return {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def _start_codes(self, x_BX: Tensor, pick_K: Tensor) -> None:
        vector_ND = self.network.encode(x_BX).float().flatten(0, 1)
        self.network.codebook.start(self._first(vector_ND), pick_K)

    def _first(self, value: Tensor) -> Tensor:
        """The first worker's value, on every worker."""
        return self.run.sum(value if self.run.rank == 0 else torch.zeros_like(value))

    # ------------------------------------------------------------------------------------------- using

    @torch.no_grad()
    def sample(self, num: int, *, generator: torch.Generator) -> Tensor:
        """Pictures decoded from code maps of the prior, float32 [num, C, H, W] in [0, 1].

        Args:
            num: how many.
            generator: of what is drawn, on the CPU; the same one gives the same pictures.
        """
        height, width = self.network.map_shape
        uniform_NP = torch.rand(num, height * width, generator=generator).to(self.run.device)
        parts = []
        with evaluating(self.network), self.run.autocast():
            for uniform_BP in uniform_NP.split(EVALUATION_BATCH):
                index_BHW = self.network.prior.sample(len(uniform_BP), (height, width), uniform_BP)
                parts.append(self.network.decode(index_BHW).float())
        return torch.cat(parts).clamp(0, 1)

    @torch.no_grad()
    def encode(self, x_BX: Tensor) -> Tensor:
        """The maps of codes, int64 [B, h, w]; see `trivium.learner.Encodes`."""
        with evaluating(self.network), self.run.autocast():
            return self.network(x_BX.to(self.run.device))[2]  # type: ignore[no-any-return]

    @torch.no_grad()
    def reconstruct(self, x_BX: Tensor) -> Tensor:
        """The decoded codes of pictures, float32 [B, C, H, W] in [0, 1]; see `trivium.learner.Reconstructs`."""
        with evaluating(self.network), self.run.autocast():
            return self.network(x_BX.to(self.run.device))[0].float().clamp(0, 1)  # type: ignore[no-any-return]

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        with evaluating(self.network), torch.no_grad():
            return self._measure(final=final)

    def _measure(self, *, final: bool) -> dict[str, float]:
        self._figures_of = source = self.data.test if final else self.data.val
        size, device = len(source), self.run.device
        error = prior = torch.zeros((), device=device)
        count_K = torch.zeros(len(self.network.codebook.code_KD), device=device)
        for i in range(0, size, EVALUATION_BATCH):
            if i // EVALUATION_BATCH % self.run.world_size != self.run.rank:
                continue
            x_BX = source.batch(torch.arange(i, min(i + EVALUATION_BATCH, size), device=device))["x"]
            with self.run.autocast():
                again_BX, _, index_BHW, logits_BKHW = self.network(x_BX)
            error = error + F.mse_loss(again_BX.float(), x_BX, reduction="sum")
            prior = prior + F.cross_entropy(logits_BKHW.float(), index_BHW, reduction="sum")
            count_K += torch.bincount(index_BHW.flatten(), minlength=len(count_K))
        count_K = self.run.sum(count_K)
        scores = {
            "error": float(self.run.sum(error)) / size / torch.Size(self.input_shape).numel(),
            "prior": float(self.run.sum(prior) / count_K.sum()),
            "perplexity": float(perplexity(count_K)),
            "codes_used": float((count_K > 0).sum()),
        }
        scores["collapse_signs"] = collapse.warn(self.batches, self.run, used_share=scores["codes_used"] / len(count_K))
        if final:
            count = min(FINAL_IMAGES, size)
            sampled = self.sample(count, generator=self.run.generator("codes test"))
            real = source.batch(torch.arange(count, device=device))["x"]
            scores["coarse_frechet"] = frechet_distance(coarse_features(sampled), coarse_features(real))
        return scores

    def figures(self) -> dict[str, Picture]:
        """`samples` of the prior, the same draws each time, and `reconstructions` of the split evaluated last (val
        before that): a row of originals, below it what was restored, and so on."""
        sampled = self.sample(SHOWN, generator=self.run.generator("codes samples"))
        shown = min(SHOWN // 2, len(self._figures_of))
        x_BX = self._figures_of.batch(torch.arange(shown, device=self.run.device))["x"]
        return {
            "samples": image_grid(sampled, columns=COLUMNS),
            "reconstructions": rows_above([x_BX, self.reconstruct(x_BX)], columns=COLUMNS),
        }

    def counters(self) -> dict[str, float]:
        return self.batches.counters()


class Quantised(nn.Module):
    """Encoder, codebook, decoder and prior.

    Raises:
        ValueError: the encoder returns no map [B, code_dim, h, w].
    """

    def __init__(self, coder: Any, codebook: Codebook, prior: CodePrior) -> None:
        super().__init__()
        self.encoder, self.decoder = coder.encoder, coder.decoder
        self.map_shape: tuple[int, int] = coder.map_shape
        self.codebook, self.prior = codebook, prior

    def encode(self, x_BX: Tensor) -> Tensor:
        """float [B, C, H, W] -> float [B, P, D]."""
        map_BDHW = self.encoder(x_BX)
        if map_BDHW.shape[1:] != (self.codebook.code_KD.shape[1], *self.map_shape):
            expected = [len(x_BX), self.codebook.code_KD.shape[1], *self.map_shape]
            raise ValueError(f"the encoder returns {list(map_BDHW.shape)}; must be {expected}")
        return map_BDHW.flatten(2).transpose(1, 2)  # type: ignore[no-any-return]

    def decode(self, index_BHW: Tensor) -> Tensor:
        """int64 [B, h, w] -> pictures, float [B, C, H, W]."""
        return self.decoder(self.codebook.code_KD[index_BHW].permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    def forward(self, x_BX: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures -> restored ones [B, C, H, W], encoded vectors [B, P, D], codes int64 [B, h, w], and the prior's
        logits [B, K, h, w]."""
        encoded_BPD = self.encode(x_BX)
        code_BPD, index_BP = self.codebook(encoded_BPD)
        index_BHW = index_BP.view(-1, *self.map_shape)
        map_BDHW = code_BPD.transpose(1, 2).unflatten(2, self.map_shape)
        return self.decoder(map_BDHW), encoded_BPD, index_BHW, self.prior(index_BHW)
