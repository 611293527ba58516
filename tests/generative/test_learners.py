"""What each learner on pictures promises; what is special to one is tested in a file of its own."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from states import same_bits, through_a_file
from tiny_learners import ADAMW, LEARNERS, build

from trivium.data.digits import digits
from trivium.data.source import Splits
from trivium.declared import load_state_dict, state_dict, undeclared
from trivium.generative.autoencoders.autoencoder import Autoencoder, jacobian_norm, kl_sparsity, squared_error
from trivium.generative.autoencoders.vae import VAE
from trivium.generative.networks.coders import ConvCoder, MLPCoder
from trivium.generative.networks.dcgan import DCGAN
from trivium.generative.networks.unet import UNet
from trivium.learner import Decodes, Learner, Run


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_resumed_run_ends_with_the_same_bits(data: Splits, name: str) -> None:
    uninterrupted = build(name, data)
    assert isinstance(uninterrupted, Learner)
    for _ in range(3):
        uninterrupted.step()
    state, random_state = through_a_file(state_dict(uninterrupted)), torch.get_rng_state()
    logs = [uninterrupted.step() for _ in range(3)]
    assert all(value.ndim == 0 and not value.requires_grad and not value.isinf() for value in logs[-1].values())
    assert not any(value.isnan() for name, value in logs[-1].items() if "loss" in name)  # elsewhere: nothing to say

    resumed = build(name, data)
    resumed.step()  # whatever it did before is forgotten
    load_state_dict(resumed, state)
    torch.set_rng_state(random_state)
    again = [resumed.step() for _ in range(3)]
    assert same_bits(*([{k: v.nan_to_num(7.0) for k, v in log.items()} for log in each] for each in (again, logs)))
    assert same_bits(state_dict(resumed), state_dict(uninterrupted))
    assert resumed.evaluate(final=True) == uninterrupted.evaluate(final=True)


@pytest.mark.parametrize("name", LEARNERS)
def test_its_state_is_declared_whole(data: Splits, name: str) -> None:
    assert undeclared(build(name, data)) == []


@pytest.mark.parametrize("name", LEARNERS)
def test_evaluation_and_figures_touch_no_training_state_and_no_rng(data: Splits, name: str) -> None:
    learner = build(name, data)
    learner.step()
    before, torch_state = through_a_file(state_dict(learner)), torch.get_rng_state()
    scores, pictures = (learner.evaluate(), learner.evaluate(final=True)), learner.figures()
    assert set(scores[0]) == set(learner.evaluates)
    assert same_bits(state_dict(learner), before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert scores == (learner.evaluate(), learner.evaluate(final=True))
    assert all(np.array_equal(picture, learner.figures()[key]) for key, picture in pictures.items())
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in pictures.values())


class Unwrapped(Run):
    """One of several workers, without the others."""

    def wrap(self, module: Any) -> Any:
        return module

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return value


@pytest.mark.parametrize("name", ["denoising autoencoder", "conditional vae", "ddpm", "conditional ddpm"])
def test_two_workers_average_to_the_gradient_of_one(data: Splits, name: str) -> None:
    def gradient(run: Run) -> torch.Tensor:
        learner = build(name, data, run=run, lr=1e-9, **({"max_grad_norm": None} if "ddpm" in name else {}))
        learner.step()
        return torch.cat([p.grad.flatten() for p in learner.network.parameters() if p.grad is not None])

    halves = [gradient(Unwrapped(rank=rank, world_size=2)) for rank in range(2)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, gradient(Run()), rtol=1e-3, atol=1e-4)


def test_an_autoencoder_learns_to_restore(data: Splits) -> None:
    learner = build("autoencoder", data, lr=3e-3)
    before = learner.evaluate()["error"]
    for _ in range(300):
        learner.step()
    assert learner.evaluate()["error"] < 0.4 * before


def test_a_denoising_autoencoder_restores_better_than_the_noise_is_large(data: Splits) -> None:
    learner = build("denoising autoencoder", data, lr=3e-3)
    for _ in range(400):
        learner.step()
    assert learner.evaluate(final=True)["noisy_error"] < 0.6 * 0.3**2


@pytest.mark.parametrize("name", ["gan", "ddpm"])
def test_the_same_seed_gives_the_same_pictures_whatever_their_number(data: Splits, name: str) -> None:
    learner = build(name, data)
    learner.step()
    few, more = (learner.sample(n, generator=torch.Generator().manual_seed(3)) for n in (4, 4))
    assert torch.equal(few, more)
    assert few.shape == (4, 1, 8, 8)
    assert few.min() >= 0
    assert few.max() <= 1


@pytest.mark.parametrize(
    "name", ["conditional vae", "conditional gan", "stylegan2", "stylegan2 with everything", "conditional ddpm", "flow"]
)
def test_samples_are_decoded_latents(data: Splits, name: str) -> None:
    learner = build(name, data)
    learner.step()
    assert isinstance(learner, Decodes)
    latent = torch.randn(5, *learner.latent_shape, generator=torch.Generator().manual_seed(3))
    image, first = learner.decode(latent), learner.decode(latent[:2])
    assert image.shape == (5, 1, 8, 8)
    assert image.min() >= 0
    assert image.max() <= 1
    torch.testing.assert_close(first, image[:2], rtol=1e-4, atol=1e-5)
    if "stylegan2" not in name:  # whose samples have noise of their own
        assert torch.equal(learner.sample(5, generator=torch.Generator().manual_seed(3)), image)


def test_a_gan_learns_the_coarse_look_of_digits(data: Splits) -> None:
    learner = build("gan", data, lr=2e-3, ema=0.9, model=functools.partial(DCGAN, width=8, discriminator_width=12))
    before = learner.evaluate()["coarse_frechet"]
    for _ in range(200):
        learner.step()
    assert learner.evaluate()["coarse_frechet"] < 0.7 * before


@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_a_diffusion_model_learns(data: Splits, name: str) -> None:
    learner = build(name, data, lr=3e-3, ema=0.9)
    before = learner.evaluate()["loss"]
    for _ in range(200):
        learner.step()
    assert learner.evaluate()["loss"] < 0.7 * before


def test_guidance_and_classes_change_samples(data: Splits) -> None:
    learner = build("conditional ddpm", data, lr=3e-3, ema=0.0)
    for _ in range(30):
        learner.step()

    def sample(**keywords: Any) -> torch.Tensor:
        return learner.sample(3, generator=torch.Generator().manual_seed(0), **keywords)

    three = torch.full((3,), 3)
    assert not torch.equal(sample(label_N=three), sample(label_N=three + 1))
    assert not torch.equal(sample(label_N=three, guidance=1.0), sample(label_N=three, guidance=3.0))


def test_penalties_by_hand() -> None:
    logits, x = torch.zeros(2, 1, 1, 2), torch.tensor([0.0, 1.0, 0.5, 0.5]).view(2, 1, 1, 2)
    assert squared_error(logits, x).tolist() == [0.5, 0.0]
    with pytest.raises(ValueError, match=r"returns \[2, 2\] for inputs \[2, 1, 1, 2\]"):
        squared_error(torch.zeros(2, 2), x)
    code = torch.tensor([[0.2, 0.5], [0.2, 0.7]])
    expected = 0.1 * np.log(0.1 / 0.2) + 0.9 * np.log(0.9 / 0.8) + 0.1 * np.log(0.1 / 0.6) + 0.9 * np.log(0.9 / 0.4)
    assert kl_sparsity(code.mean(0), code, 0.1).item() == pytest.approx(expected, rel=1e-5)
    weight, given = torch.randn(3, 4), torch.randn(20_000, 4, requires_grad=True)
    direction = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    estimate = jacobian_norm(given @ weight.T, given, direction).item()
    assert estimate == pytest.approx(weight.square().sum().item(), rel=0.05)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("gan", {"loss": "hing"}, "loss=hing"),
        ("gan", {"r1": -1.0}, r"r1=-1\.0"),
        ("gan", {"critic_steps": 0}, "critic_steps=0"),
        ("ddpm", {"target": "noise"}, "target=noise"),
        ("ddpm", {"schedule": "cosin"}, "schedule=cosin"),
        ("ddpm", {"times": "even"}, "times=even"),
        ("ddpm", {"steps": 0}, "steps=0"),
        ("ddpm", {"model": functools.partial(UNet, width=12)}, "width=12 must be a multiple of 8"),
        ("autoencoder", {"sparsity": 1.0}, r"sparsity=1\.0"),
        ("autoencoder", {"latent_dim": 0}, "latent_dim=0"),
        (
            "autoencoder",
            {"model": functools.partial(ConvCoder, channels=(4, 4, 4, 4))},
            "8 x 8 pixels: the network needs multiples of 16, such as 16",
        ),
    ],
)
def test_wrong_values_are_named(data: Splits, name: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, data, **keywords)


class Noisy(MLPCoder):
    """A coder with dropout: it answers otherwise in training than in evaluation."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.encoder = torch.nn.Sequential(self.encoder, torch.nn.Dropout(0.5))


@pytest.mark.parametrize("make", [Autoencoder, VAE])
def test_networks_are_judged_in_evaluation_mode_and_get_their_own_back(data: Splits, make: Any) -> None:
    learner = make(run=Run(), data=data, model=Noisy, optimizer=ADAMW, batch_size=32, lr=1e-3)
    assert learner.evaluate() == learner.evaluate()
    first, again = learner.figures(), learner.figures()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert all(part.training for part in learner.network.modules())
