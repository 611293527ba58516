"""Generative models killed by SIGKILL: both optimizers, averages, codebooks, pools and the strength of the augmentation
are what they would have been."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from killing import KillAt, assert_same_bits, finish
from tiny_learners import TYPED, typed

pytestmark = pytest.mark.kill

CADENCE = [
    "threads=1",
    "tracking.wandb=false",
    "log.every_updates=2",
    "checkpoint.every_updates=5",
    "budget.updates=10",
]
PLACES = {
    "autoencoder": ("trivium.generative.autoencoders.autoencoder", "Autoencoder"),
    "gan": ("trivium.generative.gans.gan", "GAN"),
    "vq-vae": ("trivium.generative.autoencoders.vq_vae", "VQVAE"),
    "ddpm": ("trivium.generative.diffusion.diffusion", "Diffusion"),
    "stylegan2": ("trivium.generative.gans.stylegan2", "StyleGAN2"),
    "cyclegan": ("trivium.generative.gans.cyclegan", "CycleGAN"),
    "srgan": ("trivium.generative.gans.srgan", "SRGAN"),
}
QUICK = ("vq-vae", "stylegan2")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in TYPED])
def test_killed_in_an_update_it_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    overrides, (module, kind) = [*typed(name), *CADENCE], PLACES[name]
    assert finish(overrides, tmp_path / "whole") == 0
    in_an_update: KillAt = (module, f"{kind}.step", 8)  # after the checkpoint of the fifth, before that of the tenth
    assert finish(overrides, tmp_path / "killed", kill_at=in_an_update) == -signal.SIGKILL
    assert finish(overrides, tmp_path / "killed") == 0
    assert_same_bits(tmp_path / "killed", tmp_path / "whole")
