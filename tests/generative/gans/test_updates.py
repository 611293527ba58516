"""What an update of one network must leave alone in the other, and other mistakes that GANs are known for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_learners import build
from torch import Tensor, nn

from trivium.data.digits import digits
from trivium.data.source import Splits
from trivium.generative.gans import gan
from trivium.generative.gans.adversarial import discriminator_loss, generator_loss
from trivium.generative.networks.augmentation import augmented
from trivium.generative.networks.dcgan import DCGAN

NAMES = ("conditional gan", "wgan-gp", "gan with adaptive augmentation", "stylegan2 with everything")


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits()


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def gradients(module: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_each_network_learns_from_its_own_loss_only(data: Splits, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(name, data)
    kept: dict[str, list[Tensor]] = {}
    teach_discriminator, teach_generator = learner.discriminator_scaler.step, learner.generator_scaler.step

    def discriminator_step(optimizer: Any) -> None:
        assert all(not gradient.any() for gradient in gradients(learner.generator))
        kept["generator"] = weights(learner.generator)
        teach_discriminator(optimizer)
        kept["discriminator"] = weights(learner.discriminator)
        kept["gradient"] = gradients(learner.discriminator)

    def generator_step(optimizer: Any) -> None:
        teach_generator(optimizer)
        assert all(map(torch.equal, weights(learner.discriminator), kept["discriminator"]))
        assert all(map(torch.equal, gradients(learner.discriminator), kept["gradient"]))
        learner.generator_optimizer.zero_grad()  # so that the next update can be checked, too

    monkeypatch.setattr(learner.discriminator_scaler, "step", discriminator_step)
    monkeypatch.setattr(learner.generator_scaler, "step", generator_step)
    before = weights(learner.generator)
    for _ in range(2):
        learner.step()
        assert all(p.requires_grad for p in learner.discriminator.parameters())
    assert not all(map(torch.equal, weights(learner.generator), before))


def test_losses_are_finite_for_extreme_logits() -> None:
    extreme = torch.tensor([-1e4, 1e4], requires_grad=True)
    for kind in ("logistic", "hinge", "least_squares", "wasserstein"):
        loss = discriminator_loss(extreme, extreme, kind) + generator_loss(extreme, kind)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss, extreme)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_r1_is_of_the_images_before_they_are_augmented(data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build("gan with adaptive augmentation", data)
    learner.augmentation.p.fill_(1.0)
    seen: dict[str, Tensor] = {}

    def shown(self: Any, image_BX: Tensor) -> Tensor:
        seen.setdefault("given", image_BX)
        uniform_BU = torch.rand(len(image_BX), gan.DRAWS, generator=torch.Generator().manual_seed(0))
        seen.setdefault("augmented", augmented(image_BX, uniform_BU, torch.ones(())))
        return seen["augmented"] if image_BX is seen["given"] else image_BX

    def r1(image_BX: Tensor, logit_B: Tensor) -> Tensor:
        seen["penalised"] = image_BX
        (gradient,) = torch.autograd.grad(logit_B.sum(), image_BX, create_graph=True)
        assert gradient.requires_grad  # it can be learnt from
        return gradient.square().sum()

    monkeypatch.setattr(gan.GAN, "_shown", shown)
    monkeypatch.setattr(gan, "r1_penalty", r1)
    learner.step()
    assert seen["penalised"] is seen["given"]
    assert not torch.equal(seen["augmented"], seen["given"])


def test_samples_do_not_depend_on_what_is_sampled_with_them(data: Splits) -> None:
    """Batch normalisation uses its running statistics, and sampling does not change them."""
    learner = build("gan", data)
    for _ in range(3):
        learner.step()
    buffers = {name: value.clone() for name, value in learner.networks.named_buffers()}
    latent = torch.randn(6, 64)
    whole = learner.decode(latent)
    for i in range(6):
        torch.testing.assert_close(learner.decode(latent[i : i + 1])[0], whole[i], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, buffers[name]) for name, value in learner.networks.named_buffers())
    assert learner.generator.training


def test_batch_normalisation_has_its_usual_epsilon() -> None:
    networks = DCGAN(input_shape=(1, 8, 8), latent_dim=4, num_classes=0)
    assert {m.eps for m in networks.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
