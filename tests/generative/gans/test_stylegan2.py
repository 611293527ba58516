"""StyleGAN2: its parts by hand, what regularises it, what its settings mean, and adaptive augmentation."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trivium.data.digits import digits
from trivium.data.source import Splits
from trivium.generative.gans.adversarial import r1_penalty
from trivium.generative.gans.stylegan2 import StyleGAN2
from trivium.generative.networks.augmentation import DRAWS, AdaptiveAugmentation, augmented
from trivium.generative.networks.stylegan2 import (
    Linear,
    StyleGAN2Networks,
    doubled,
    halved,
    minibatch_deviation,
    modulated_convolution,
    path_lengths,
)
from trivium.learner import Run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits()


def build(data: Splits, *, run: Run | None = None, **keywords: Any) -> StyleGAN2:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "model": functools.partial(StyleGAN2Networks, channels=(16, 8)),
        "optimizer": functools.partial(torch.optim.AdamW, betas=(0.0, 0.99), fused=True),
        "batch_size": 16,
        "lr": 2.5e-3,
        "latent_dim": 8,
        **keywords,
    }
    return StyleGAN2(run=run or Run(), data=data, **given)


# ----------------------------------------------------------------------------------------------- parts


def by_weights(x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor, *, demodulate: bool) -> torch.Tensor:
    """As the paper writes it: weights for each image."""
    rows = []
    for image, scales in zip(x, style, strict=True):
        own = weight * scales[None, :, None, None]
        if demodulate:
            own = own / own.square().sum((1, 2, 3), keepdim=True).sqrt()
            torch.testing.assert_close(own.flatten(1).norm(dim=1), torch.ones(len(own)))
        rows.append(F.conv2d(image[None], own, padding=1))
    return torch.cat(rows)


@pytest.mark.parametrize("demodulate", [True, False])
def test_scaling_inputs_and_outputs_is_scaling_weights(demodulate: bool) -> None:
    torch.manual_seed(0)
    x, weight, style = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(2, 3)
    y = modulated_convolution(x, weight, style, demodulate=demodulate)
    torch.testing.assert_close(y, by_weights(x, weight, style, demodulate=demodulate), rtol=1e-4, atol=1e-5)
    again = modulated_convolution(x, weight, 10 * style, demodulate=demodulate)
    assert torch.allclose(again, y, rtol=1e-4, atol=1e-5) == demodulate


def test_weights_that_learn_slowly_are_stored_large() -> None:
    torch.manual_seed(0)
    fast, slow = Linear(400, 300), Linear(400, 300, rate=0.01, bias=1.0)
    assert slow.weight.std().item() == pytest.approx(100, rel=0.05)
    x = torch.randn(50, 400)
    assert fast(x).std().item() == pytest.approx(1, rel=0.1)
    assert (slow(x) - 1).std().item() == pytest.approx(0.01 / 0.01, rel=0.1)
    assert slow.bias.mean().item() * slow.rate == pytest.approx(1)


def test_the_deviation_over_groups_by_hand() -> None:
    alike = torch.ones(4, 2, 3, 3)
    assert minibatch_deviation(alike, 4).shape == (4, 3, 3, 3)
    assert minibatch_deviation(alike, 4)[:, 2].max() < 1e-3
    x = torch.tensor([0.0, 2.0, 5.0, 5.0]).view(4, 1, 1, 1)
    assert minibatch_deviation(x, 2)[:, 1].flatten().tolist() == pytest.approx([1, 1, 0, 0], abs=1e-3)
    for batch in (1, 3, 5, 6):  # groups that 4 does not divide
        assert minibatch_deviation(torch.randn(batch, 2, 3, 3), 4).shape == (batch, 3, 3, 3)
    whole = torch.randn(8, 2, 3, 3)
    halves = torch.cat([minibatch_deviation(half, 4) for half in whole.split(4)])
    torch.testing.assert_close(minibatch_deviation(whole, 4), halves)  # two workers and one


def test_resampling_by_hand() -> None:
    line = torch.tensor([0.0, 4.0, 0.0]).view(1, 1, 1, 3)
    assert doubled(line)[0, 0, 0].tolist() == [0, 1, 3, 3, 1, 0]
    impulse = torch.zeros(1, 1, 4, 4)
    impulse[0, 0, 1, 1] = 64
    assert halved(impulse)[0, 0].tolist() == [[9, 3], [3, 1]]
    assert halved(torch.ones(1, 3, 8, 8))[0, :, 1:-1, 1:-1].unique().tolist() == [1]


def test_path_lengths_of_a_linear_generator() -> None:
    w = torch.randn(2, 3, 4, requires_grad=True)
    image = (w.sum(1) @ torch.eye(4)).view(2, 1, 2, 2)  # every layer's style is the image
    direction = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2).expand(2, -1, -1, -1)
    # the gradient of each of 3 layers is y / sqrt(4): root of the mean of |y|^2 / 4 = 30 / 4
    assert path_lengths(image, w, direction).tolist() == pytest.approx([7.5**0.5] * 2)


def test_noise_has_no_effect_before_it_is_learnt_and_sizes_fit() -> None:
    networks = StyleGAN2Networks(input_shape=(1, 28, 28), latent_dim=8, channels=(8, 6, 4))
    generator = networks.generator
    assert generator.noise_sizes == [(7, 7), (14, 14), (14, 14), (28, 28), (28, 28)]
    w = generator.styles(torch.randn(2, 8))
    images = [generator.synthesize(w, torch.randn(2, generator.noise_dim)) for _ in range(2)]
    assert torch.equal(*images)
    assert images[0].shape == (2, 1, 28, 28)
    for conv in generator.convs:
        nn.init.ones_(conv.noise_strength)  # type: ignore[arg-type]
    assert not torch.equal(generator.synthesize(w, torch.randn(2, generator.noise_dim)), images[0])
    with pytest.raises(ValueError, match="30 x 30 pixels: the network needs multiples of 4, such as 28 or 32"):
        StyleGAN2Networks(input_shape=(1, 30, 30), latent_dim=8)


def test_mixing_takes_later_layers_of_the_second_latent() -> None:
    generator = StyleGAN2Networks(input_shape=(1, 8, 8), latent_dim=4, channels=(4, 4)).generator
    z, other, noise = torch.randn(2, 4), torch.randn(2, 4), torch.zeros(2, generator.noise_dim)
    _, w = generator(z, None, noise, other, torch.tensor([1, generator.num_layers]))
    first, second = generator.styles(z), generator.styles(other)
    assert torch.equal(w[0, 0], first[0, 0])
    assert torch.equal(w[0, 1:], second[0, 1:])
    assert torch.equal(w[1], first[1])


# ----------------------------------------------------------------------------------------------- the learner


def test_truncation_one_changes_nothing_and_zero_gives_one_image(data: Splits) -> None:
    learner = build(data)
    for _ in range(3):
        learner.step()
    assert learner.generator.w_mean.abs().max() > 0

    def sample(psi: float | None) -> torch.Tensor:
        return learner.sample(6, generator=torch.Generator().manual_seed(0), truncation=psi)

    assert torch.equal(sample(1.0), sample(None))
    at_mean = sample(0.0)
    for conv in learner.generator.convs:
        nn.init.zeros_(conv.noise_strength)  # type: ignore[arg-type]
    for average in learner.average._averages if learner.average else []:
        if average.ndim == 0:
            average.zero_()
    at_mean = sample(0.0)
    torch.testing.assert_close(at_mean, at_mean[:1].expand_as(at_mean))
    assert sample(1.0).std(0).mean() > sample(0.5).std(0).mean() > 0
    with pytest.raises(ValueError, match="truncation=-1"):
        sample(-1.0)


def test_sampling_leaves_the_mean_style_alone(data: Splits) -> None:
    learner = build(data)
    learner.step()
    before = learner.generator.w_mean.clone()
    learner.sample(4, generator=torch.Generator().manual_seed(0))
    learner.evaluate()
    assert torch.equal(learner.generator.w_mean, before)


def test_lazy_r1_weighs_as_much_as_one_in_every_update(data: Splits) -> None:
    def gradient(**keywords: Any) -> list[torch.Tensor]:
        learner = build(data, lr=1e-9, **keywords)
        learner.step()
        return [p.grad.clone() for p in learner.discriminator.parameters() if p.grad is not None]

    without, every, lazy = gradient(r1=0.0), gradient(r1=3.0, r1_every=1), gradient(r1=3.0, r1_every=16)
    for none, one, sixteen in zip(without, every, lazy, strict=True):
        torch.testing.assert_close(sixteen - none, 16 * (one - none), rtol=1e-3, atol=1e-4)
    assert max(float((one - none).abs().max()) for none, one in zip(without, every, strict=True)) > 1e-4


def test_penalties_come_when_they_should(data: Splits) -> None:
    learner = build(data, r1_every=3, path_length=1.0, path_length_every=2)
    logs = [learner.step() for _ in range(4)]
    assert [bool(log["r1"].isfinite()) for log in logs] == [True, False, False, True]
    assert [bool(log["path_length"].isfinite()) for log in logs] == [True, False, True, False]
    first, second = float(logs[0]["path_length"]), float(logs[2]["path_length"])
    assert float(learner.path_mean) == pytest.approx(0.99 * first + 0.01 * second, rel=1e-4)


class Unwrapped(Run):
    """One of several workers, without the others."""

    def wrap(self, module: Any) -> Any:
        return module

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return 2 * value  # as if the other had the same


def test_two_workers_average_to_the_gradient_of_one(data: Splits) -> None:
    def gradients(run: Run) -> list[torch.Tensor]:
        learner = build(data, run=run, lr=1e-9, r1=1.0, ada_target=0.5)
        assert learner.augmentation
        learner.augmentation.p.fill_(0.5)
        learner.step()
        modules = (learner.generator, learner.discriminator)
        return [torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in modules]

    whole, halves = gradients(Run()), [gradients(Unwrapped(rank=rank, world_size=2)) for rank in range(2)]
    for i in range(2):
        torch.testing.assert_close((halves[0][i] + halves[1][i]) / 2, whole[i], rtol=1e-3, atol=1e-4)


def test_it_learns_the_coarse_look_of_digits(data: Splits) -> None:
    learner = build(data, ema=0.9)
    before = learner.evaluate()["coarse_frechet"]
    for _ in range(150):
        learner.step()
    assert learner.evaluate()["coarse_frechet"] < 0.5 * before


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mixing": 1.5}, r"mixing=1\.5"),
        ({"truncation": -0.5}, r"truncation=-0\.5"),
        ({"r1_every": 0}, "r1_every=0"),
        ({"ada_target": 1.0}, r"ada_target=1\.0"),
        ({"model": functools.partial(StyleGAN2Networks, channels=())}, r"channels=\[\]"),
    ],
)
def test_wrong_values_are_named(data: Splits, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(data, **keywords)


# ----------------------------------------------------------------------------------------------- augmentation


def test_without_strength_images_stay_and_with_all_of_it_each_changes() -> None:
    image, uniform = torch.rand(8, 2, 12, 8), torch.rand(8, DRAWS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augmented(image, uniform, torch.zeros(())), image)
    changed = augmented(image, uniform, torch.ones(()))
    assert changed.shape == image.shape
    assert ((changed - image).abs().flatten(1).amax(1) > 0.05).all()
    half = augmented(image, uniform, torch.tensor(0.1))
    assert 0 < (half == image).flatten(1).all(1).sum() < 8


def test_a_shift_alone_by_hand() -> None:
    image = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8).contiguous()
    uniform = torch.full((1, DRAWS), 0.5)
    uniform[:, 0] = 0.0  # the gate of the shift alone opens
    uniform[:, 8] = 1.0  # to the right by an eighth of the width: one pixel
    shifted = augmented(image, uniform, torch.tensor(0.1))
    torch.testing.assert_close(shifted[0, 0, 0], torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 7]))


def test_its_gradient_can_be_differentiated_again() -> None:
    torch.manual_seed(0)
    uniform, p = torch.rand(2, DRAWS), torch.ones(())

    real = torch.rand(2, 1, 4, 4).requires_grad_()
    plain = real.clone().detach().requires_grad_()
    penalty = r1_penalty(real, augmented(real, uniform, p).square().flatten(1).sum(1))
    penalty.backward()
    assert real.grad is not None
    # The penalty's gradient by finite differences, in one direction.
    direction = torch.randn_like(plain)

    def penalty_at(step: float) -> float:
        point = (plain.detach() + step * direction).requires_grad_()
        return r1_penalty(point, augmented(point, uniform, p).square().flatten(1).sum(1)).item()

    slope = (penalty_at(1e-2) - penalty_at(-1e-2)) / 2e-2
    assert float((real.grad * direction).sum()) == pytest.approx(slope, rel=2e-2)


def test_the_strength_follows_the_signs_of_real_logits() -> None:
    augmentation = AdaptiveAugmentation(target=0.6, images=1000, device=CPU)
    sure = torch.ones(10)
    for _ in range(8):
        augmentation.observe(sure, Run())
    assert float(augmentation.p) == pytest.approx(2 * 4 * 10 / 1000)
    for _ in range(4):
        augmentation.observe(torch.tensor([1.0] * 7 + [-1.0] * 3), Run())  # the mean sign is 0.4
    assert float(augmentation.p) == pytest.approx(4 * 10 / 1000)
    for _ in range(400):
        augmentation.observe(-sure, Run())
    assert float(augmentation.p) == 0
