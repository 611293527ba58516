"""Collapse on purpose is warned of, with its sign and a setting to try; healthy runs are silent."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import trivium
from trivium.data.batches import Batches
from trivium.data.digits import digits
from trivium.data.source import Splits
from trivium.generative.autoencoders.vae import VAE
from trivium.generative.autoencoders.vq_vae import VQVAE
from trivium.generative.gans.gan import GAN
from trivium.generative.gans.stylegan2 import StyleGAN2
from trivium.generative.metrics import collapse
from trivium.generative.metrics.collapse import LEAST_IMAGES, accuracy_of, signs
from trivium.generative.networks.code_map import CodeMapCoder
from trivium.generative.networks.coders import MLPCoder
from trivium.generative.networks.dcgan import DCGAN
from trivium.generative.networks.stylegan2 import StyleGAN2Networks
from trivium.learner import Run

ADAMW = functools.partial(torch.optim.AdamW, fused=True)
DEFAULTS: dict[Any, dict[str, Any]] = {
    GAN: {"model": functools.partial(DCGAN, width=8, discriminator_width=12), "lr": 2e-3, "ema": 0.9},
    StyleGAN2: {"model": functools.partial(StyleGAN2Networks, channels=(16, 8)), "lr": 2.5e-3, "latent_dim": 8,
                "ema": 0.9, "batch_size": 16,
                "optimizer": functools.partial(torch.optim.AdamW, betas=(0.0, 0.99), fused=True)},
    VAE: {"model": MLPCoder, "lr": 2e-3, "latent_dim": 8},
    VQVAE: {"model": functools.partial(CodeMapCoder, channels=(16,)), "lr": 2e-3, "num_codes": 32, "code_dim": 8,
            "prior_width": 8, "prior_layers": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits()


def trained(kind: Any, data: Splits, updates: int = 30, **keywords: Any) -> Any:
    """A learner after some updates, which believes that it has seen as many images as a detector waits for."""
    torch.manual_seed(0)
    given = {"optimizer": ADAMW, "batch_size": 64, **DEFAULTS[kind], **keywords}
    learner = kind(run=Run(), data=data, **given)
    for _ in range(updates):
        learner.step()
    learner.batches.samples = LEAST_IMAGES
    return learner


def warnings_of(learner: Any, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.WARNING, logger="trivium"):
        caplog.clear()
        learner.evaluate()
    return caplog.text


def test_signs_by_what_is_measured() -> None:
    begun, late = Batches(1000, 10, run=Run()), Batches(1000, 10, run=Run())
    begun.samples, late.samples = LEAST_IMAGES - 1, LEAST_IMAGES
    assert signs(late, diversity=0.14) == ["mode collapse"]
    assert signs(late, diversity=0.16, certain=0.8) == []
    assert signs(late, diversity=0.1, certain=1.0) == ["mode collapse", "overpowering discriminator"]
    assert signs(late, active_share=0.05) == ["posterior collapse"]
    assert signs(late, used_share=0.2) == ["dead codes"]
    assert signs(begun, diversity=0.0, active_share=0.0, used_share=0.0) == []


def test_accuracy_by_hand() -> None:
    real, fake = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, -2.0])
    assert accuracy_of(real, fake, 0.0) == pytest.approx(0.75)
    assert accuracy_of(real, fake, 0.0, margin=1.5) == pytest.approx(0.25)


@pytest.mark.parametrize("kind", [GAN, StyleGAN2, VAE, VQVAE])
def test_healthy_runs_are_silent(data: Splits, kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    learner = trained(kind, data, updates=120, **({"r1": 0.5} if kind is GAN else {}))
    assert warnings_of(learner, caplog) == ""


def test_a_generator_that_learns_much_faster_than_its_discriminator(
    data: Splits, caplog: pytest.LogCaptureFixture
) -> None:
    """It draws one image that the discriminator takes for real."""
    learner = trained(GAN, data, updates=100, lr=1e-2, discriminator_lr=1e-4)
    assert learner.evaluate()["diversity"] < 0.12
    text = warnings_of(learner, caplog)
    assert "mode collapse" in text
    assert "learner.r1" in text


def test_a_discriminator_that_always_wins(data: Splits, caplog: pytest.LogCaptureFixture) -> None:
    learner = trained(GAN, data, updates=100, lr=1e-7, discriminator_lr=2e-3)
    text = warnings_of(learner, caplog)
    assert "overpowering discriminator" in text
    assert "discriminator_lr" in text


def test_a_vae_whose_kl_term_weighs_too_much(data: Splits, caplog: pytest.LogCaptureFixture) -> None:
    text = warnings_of(trained(VAE, data, updates=120, beta=1000.0), caplog)
    assert "posterior collapse" in text
    assert "learner.beta" in text


def test_a_codebook_of_which_one_code_is_used(data: Splits, caplog: pytest.LogCaptureFixture) -> None:
    learner = trained(VQVAE, data)
    learner.network.codebook.code_KD[1:] += 1e3
    assert "dead codes" in warnings_of(learner, caplog)


def test_signs_are_counted_and_stand_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "LEAST_IMAGES", 64)
    monkeypatch.setattr(collapse, "LEAST_EPOCHS", 0.0)
    typed = ["experiment=vae_digits", "budget.updates=2", "threads=1", "tracking.wandb=false", "learner.beta=1e6"]
    result = trivium.train(*typed, dir=tmp_path / "run", quiet=True)
    assert result.metrics["test/active_units"] == 0
    assert result.metrics["test/collapse_signs"] == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Warnings</h2>" in page
    assert "there is a sign of posterior collapse (active_share 0): try a smaller learner.beta" in page
