"""A small learner of each kind, for tests: as objects, and as what one types."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from trivium.data.source import Splits
from trivium.data.two_domains.halves import transformed_halves
from trivium.generative.autoencoders.autoencoder import Autoencoder
from trivium.generative.autoencoders.vae import VAE
from trivium.generative.autoencoders.vq_vae import VQVAE
from trivium.generative.diffusion.diffusion import Diffusion
from trivium.generative.gans.cyclegan import CycleGAN
from trivium.generative.gans.gan import GAN
from trivium.generative.gans.srgan import SRGAN
from trivium.generative.gans.stylegan2 import StyleGAN2
from trivium.generative.networks.code_map import CodeMapCoder
from trivium.generative.networks.coders import ConvCoder, MLPCoder
from trivium.generative.networks.cyclegan import CycleGANNetworks
from trivium.generative.networks.dcgan import DCGAN
from trivium.generative.networks.srresnet import SRResNet
from trivium.generative.networks.stylegan2 import StyleGAN2Networks
from trivium.generative.networks.unet import UNet
from trivium.learner import Run

ADAMW = functools.partial(torch.optim.AdamW, weight_decay=0.0, fused=True)
SMALL_GAN = functools.partial(DCGAN, width=4, discriminator_width=6)
SMALL_SRRESNET = functools.partial(SRResNet, width=8, blocks=1, discriminator_width=6)
SMALL_CYCLEGAN = functools.partial(CycleGANNetworks, width=4, blocks=1, discriminator_width=4, discriminator_layers=1)
SMALL_STYLEGAN2 = functools.partial(StyleGAN2Networks, channels=(8, 4))
SMALL_UNET = functools.partial(UNet, width=8, heads=2)
CODER = functools.partial(MLPCoder, hidden=(32,))

LEARNERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "autoencoder": (Autoencoder, {"model": CODER, "latent_dim": 8}),
    "convolutional autoencoder": (Autoencoder, {"model": functools.partial(ConvCoder, channels=(4, 8), hidden=())}),
    "denoising autoencoder": (Autoencoder, {"model": CODER, "noise_std": 0.3}),
    "sparse autoencoder": (Autoencoder, {"model": CODER, "l1": 0.01, "sparsity": 0.1}),
    "contractive autoencoder": (Autoencoder, {"model": CODER, "contraction": 0.01}),
    "conditional vae": (VAE, {"model": CODER, "latent_dim": 4, "conditional": True, "importance_samples": 2}),
    "gan": (GAN, {"model": SMALL_GAN}),
    "conditional gan": (GAN, {"model": SMALL_GAN, "conditional": True, "decay_epochs": 1}),
    "gan with r1": (GAN, {"model": SMALL_GAN, "r1": 1.0, "loss": "hinge"}),
    "wgan-gp": (
        GAN,
        {
            "model": functools.partial(SMALL_GAN, spectral_norm=False),
            "loss": "wasserstein",
            "gradient_penalty": 10.0,
            "critic_steps": 2,
        },
    ),
    "srresnet": (SRGAN, {"model": SMALL_SRRESNET}),
    "srgan": (SRGAN, {"model": SMALL_SRRESNET, "scale": 4, "pixel_epochs": 0.05, "max_grad_norm": 1.0}),
    "stylegan2": (StyleGAN2, {"model": SMALL_STYLEGAN2, "latent_dim": 8, "r1_every": 2}),
    "stylegan2 with everything": (
        StyleGAN2,
        {
            "model": SMALL_STYLEGAN2,
            "latent_dim": 8,
            "conditional": True,
            "r1_every": 2,
            "path_length": 2.0,
            "path_length_every": 2,
            "mixing": 0.5,
            "truncation": 0.7,
            "ada_target": 0.1,
            "ada_images": 200,
        },
    ),
    "gan with adaptive augmentation": (GAN, {"model": SMALL_GAN, "r1": 1.0, "ada_target": 0.1, "ada_images": 200}),
    "cyclegan": (CycleGAN, {"model": SMALL_CYCLEGAN, "decay_epochs": 0.5, "pool_size": 40, "batch_size": 16}),
    "ddpm": (Diffusion, {"model": SMALL_UNET, "steps": 3}),
    "vq-vae": (
        VQVAE,
        {
            "model": functools.partial(CodeMapCoder, channels=(4, 8)),
            "num_codes": 8,
            "code_dim": 4,
            "prior_width": 8,
            "prior_layers": 1,
        },
    ),
    "flow": (
        Diffusion,
        {"model": SMALL_UNET, "steps": 3, "schedule": "straight", "target": "velocity", "times": "logit_normal"},
    ),
    "conditional ddpm": (Diffusion, {"model": SMALL_UNET, "conditional": True, "steps": 3, "target": "eps"}),
}

_CODES = "learner=vq_vae model=code_map_coder model.channels=[4,8] learner.num_codes=8 learner.code_dim=4"
_STYLES = "learner=stylegan2 model=stylegan2 model.channels=[8,4] learner.latent_dim=8 learner.r1_every=2"
TYPED = {
    "autoencoder": "learner=autoencoder model=mlp_coder learner.noise_std=0.3 learner.l1=0.01",
    "gan": "learner=gan model=dcgan model.width=4 model.discriminator_width=6 learner.conditional=true learner.r1=1",
    "vq-vae": f"{_CODES} learner.prior_width=8 learner.prior_layers=1",
    "ddpm": "learner=diffusion model=unet model.width=8 model.heads=2 learner.steps=3 learner.conditional=true",
    "stylegan2": f"{_STYLES} learner.path_length=2 learner.path_length_every=2 learner.mixing=0.5 "
    "learner.ada_target=0.1 learner.ada_images=200",
    "cyclegan": "learner=cyclegan model=cyclegan data=transformed_halves model.width=4 model.blocks=1 "
    "model.discriminator_width=4 model.discriminator_layers=1 learner.pool_size=40 learner.decay_epochs=2",
    "srgan": "learner=srgan model=srresnet model.width=8 model.blocks=1 model.discriminator_width=6 "
    "learner.pixel_epochs=0.05",
}
"""Overrides of a command, by name; `data=digits` is to be added where there is none."""


def typed(name: str) -> list[str]:
    """The overrides of one."""
    data = [] if "data=" in TYPED[name] else ["data=digits"]
    return [*TYPED[name].split(), *data, "learner.batch_size=16", f"name={name}"]


def build(name: str, data: Splits, *, run: Run | None = None, **keywords: Any) -> Any:
    run = run or Run()
    torch.manual_seed(run.seed)
    make, settings = LEARNERS[name]
    data = transformed_halves(source=data) if make is CycleGAN else data
    return make(run=run, data=data, **{"optimizer": ADAMW, "batch_size": 32, "lr": 1e-3, **settings, **keywords})
