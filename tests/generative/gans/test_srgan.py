"""Enlarging images: the network's parts, the two stages, and what is measured."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from trivium.data.digits import digits
from trivium.data.scikit_learn import photographs
from trivium.data.source import Splits
from trivium.generative.gans.srgan import SRGAN
from trivium.generative.metrics.restored import psnr, ssim, steepness
from trivium.generative.networks.srresnet import SRResNet, enlarged, shrunk
from trivium.learner import Run


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits(size=16)


def build(data: Splits, **keywords: Any) -> SRGAN:
    torch.manual_seed(0)
    model = functools.partial(SRResNet, width=16, blocks=2, discriminator_width=12)
    optimizer = functools.partial(torch.optim.AdamW, fused=True)
    given = {"model": model, "optimizer": optimizer, "batch_size": 32, "lr": 2e-3, **keywords}
    return SRGAN(run=Run(), data=data, **given)


def test_a_small_image_is_the_mean_over_squares() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert shrunk(image, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert shrunk(image, 4).item() == 7.5


@pytest.mark.parametrize("scale", [2, 4])
def test_the_network_begins_as_the_bicubic_enlargement(scale: int) -> None:
    network = SRResNet(input_shape=(3, 16, 16), scale=scale, width=8, blocks=1)
    small = torch.rand(2, 3, 5, 7)  # any size, not only the training's
    image = network.generator(small)
    assert image.shape == (2, 3, 5 * scale, 7 * scale)
    assert torch.equal(image, enlarged(small, scale))


def test_an_untrained_learner_gains_nothing_on_bicubic(data: Splits) -> None:
    scores = build(data).evaluate()
    assert scores["psnr_gain"] == pytest.approx(0, abs=1e-5)
    assert scores["sharpness"] == pytest.approx(scores["bicubic_sharpness"])
    assert scores["sharpness"] < 1


def test_restored_images_by_hand() -> None:
    true = torch.zeros(2, 1, 8, 8)
    image = true.clone()
    image[1] += 0.1
    assert psnr(image, true)[0].isinf()
    assert psnr(image, true)[1].item() == pytest.approx(20, abs=1e-4)  # 10 log10(1 / 0.01)
    noise = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(noise, noise), torch.ones(2))
    assert ssim(noise, noise.flip(2)).max() < 0.5
    assert ssim(noise[..., :8, :8], noise[..., :8, :8]).tolist() == pytest.approx([1, 1])
    steps = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    assert steepness(steps).tolist() == [0.5]  # 1 across, 0 down
    with pytest.raises(ValueError, match="differ in shape"):
        psnr(true, true[:1])


def test_it_learns_to_enlarge_better_than_bicubic(data: Splits) -> None:
    learner = build(data)
    for _ in range(150):
        learner.step()
    scores = learner.evaluate(final=True)
    assert scores["psnr_gain"] > 1.0
    assert scores["ssim_gain"] > 0


def test_the_second_stage_begins_where_it_should_and_sharpens(data: Splits) -> None:
    learner = build(data, pixel_epochs=64 / len(data.train), adversarial=0.02)
    discriminator = [p.clone() for p in learner.discriminator.parameters()]
    logs = [learner.step() for _ in range(2)]
    assert all(log["adversarial"].isnan() for log in logs)
    assert all(torch.equal(p, q) for p, q in zip(discriminator, learner.discriminator.parameters(), strict=True))
    log = learner.step()
    assert log["adversarial"].isfinite()
    assert any(not torch.equal(p, q) for p, q in zip(discriminator, learner.discriminator.parameters(), strict=True))
    for _ in range(150):
        learner.step()
    scores = learner.evaluate()
    assert scores["sharpness"] > scores["bicubic_sharpness"] + 0.05
    assert scores["psnr_gain"] > -2


def test_the_generators_step_leaves_the_discriminator_alone(data: Splits) -> None:
    learner = build(data, pixel_epochs=0)
    learner.discriminator_lr = 0.0
    for group in learner.discriminator_optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.clone() for p in learner.discriminator.parameters()]
    learner.step()
    assert all(torch.equal(p, q) for p, q in zip(before, learner.discriminator.parameters(), strict=True))
    gradient = [p.grad.clone() for p in learner.discriminator.parameters() if p.grad is not None]
    assert gradient  # the discriminator's own step
    assert all(p.requires_grad for p in learner.discriminator.parameters())


def test_patches_of_the_photographs() -> None:
    data = photographs(size=32)
    sizes = [len(split) for split in (data.train, data.val, data.test)]
    assert sum(sizes) == 2 * 13 * 20
    rows = data.test.batch(torch.arange(sizes[2]))
    assert rows["x"].shape == (sizes[2], 3, 32, 32)
    assert 0 <= rows["x"].min() < 0.1
    assert rows["x"].max() <= 1
    assert set(rows["y"].tolist()) == {0, 1}
    from sklearn.datasets import load_sample_images

    temple = torch.from_numpy(load_sample_images().images[0][:32, :32].transpose(2, 0, 1) / 255).float()
    everything = torch.cat([split.batch(torch.arange(len(split)))["x"] for split in data[:3]])
    assert (everything - temple).abs().flatten(1).amax(1).min() < 1e-6
    with pytest.raises(ValueError, match="size=3"):
        photographs(size=3)


@pytest.mark.parametrize(
    ("keywords", "message"), [({"scale": 3}, "scale=3"), ({"adversarial": -1.0}, r"adversarial=-1\.0")]
)
def test_wrong_values_are_named(data: Splits, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(data, **keywords)
