"""Translating between two domains: the pool, the networks, the update, and how close it comes to the truth."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from trivium.data.digits import digits
from trivium.data.source import Signature, Splits, Tensors
from trivium.data.two_domains.halves import transformed_halves
from trivium.generative.gans.adversarial import ImagePool, fading
from trivium.generative.gans.cyclegan import CycleGAN
from trivium.generative.networks.cyclegan import CycleGANNetworks
from trivium.learner import Run

CPU = torch.device("cpu")
SMALL = functools.partial(CycleGANNetworks, width=8, blocks=1, discriminator_width=8, discriminator_layers=1)


@pytest.fixture(scope="module")
def data() -> Splits:
    return transformed_halves(source=digits(), transform="dilate")


def build(data: Splits, *, run: Run | None = None, **keywords: Any) -> CycleGAN:
    torch.manual_seed(0)
    optimizer = functools.partial(torch.optim.AdamW, betas=(0.5, 0.999), fused=True)
    given = {"model": SMALL, "optimizer": optimizer, "batch_size": 16, "lr": 2e-3, **keywords}
    return CycleGAN(run=run or Run(), data=data, **given)


def images(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, requires_grad=True).view(-1, 1, 1, 1)


def test_a_pool_keeps_images_until_it_is_full_and_then_swaps_half() -> None:
    pool, generator = ImagePool(2, (1, 1, 1), CPU), torch.Generator().manual_seed(0)
    first = pool.query(images(1, 2), generator)
    assert first.flatten().tolist() == [1, 2]
    assert not first.requires_grad
    assert pool.filled == 2
    new = torch.arange(3.0, 1003.0).view(-1, 1, 1, 1)
    shown = pool.query(new, generator)
    earlier = (shown != new).flatten()
    assert 0.45 < earlier.float().mean() < 0.55
    assert (shown[earlier] < new[earlier]).all()  # each is one that was made before
    assert len(shown.unique()) == len(shown)  # none is shown twice: the new one has taken its place


def test_a_pool_of_nothing_returns_what_it_is_given() -> None:
    pool = ImagePool(0, (1, 1, 1), CPU)
    assert pool.query(images(1, 2), torch.Generator()).flatten().tolist() == [1, 2]


def test_a_pools_content_is_its_state() -> None:
    pool, again = ImagePool(3, (1, 1, 1), CPU), ImagePool(3, (1, 1, 1), CPU)
    pool.query(images(1, 2), torch.Generator())
    again.load_state_dict(pool.state_dict())
    assert again.filled == 2
    assert again.image_NX.flatten().tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match=r"pool\.filled=4"):
        again.load_state_dict({**pool.state_dict(), "filled": 4})


def test_rates_fade_over_the_second_half() -> None:
    assert [fading(n, 100) for n in (0, 50, 75, 100, 200)] == pytest.approx([1, 1, 0.525, 0.05, 0.05])
    assert fading(10_000, None) == 1


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34)])
def test_a_patch_is_as_large_as_it_should_be(layers: int, side: int) -> None:
    networks = CycleGANNetworks(
        input_shape=(1, 64, 64), other_shape=(1, 64, 64), discriminator_layers=layers, discriminator_width=2
    )
    x = torch.rand(1, 1, 64, 64, requires_grad=True)
    layers_without_norm = [part for part in networks.discriminator_a.layers if isinstance(part, torch.nn.Conv2d)]
    y = x
    for part in layers_without_norm:
        y = part(y)
    y[0, 0, y.shape[2] // 2, y.shape[3] // 2].backward()
    assert x.grad is not None
    rows = x.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == side


def test_domains_may_differ_in_their_channels() -> None:
    coloured = torch.rand(40, 3, 8, 8)
    data = Splits(
        *(Tensors(x=coloured[i::4][:, :1].contiguous(), other=coloured[i + 1 :: 4]) for i in range(3)),
        Signature(offers={"input_shape": (1, 8, 8), "other_shape": (3, 8, 8)}),
    )
    learner = build(data, batch_size=4)
    assert learner.identity == 0
    assert "identity" not in learner.step()
    assert learner.translate(torch.rand(2, 1, 8, 8)).shape == (2, 3, 8, 8)
    assert learner.translate(torch.rand(2, 3, 8, 8), back=True).shape == (2, 1, 8, 8)
    assert set(learner.evaluate()) == {"cycle_error"}
    assert set(learner.figures()) == {"translations", "translations_back"}


def test_an_update_changes_generators_and_discriminators_each_by_its_own_loss(data: Splits) -> None:
    learner = build(data, cycle=0.0, identity=0.0)
    learner.step()
    # The generators' backward pass leaves nothing in the discriminators: their gradient is the second loss's alone.
    own = [p.grad.clone() for p in learner.discriminators.parameters() if p.grad is not None]
    assert own
    again = build(data, cycle=0.0, identity=0.0)
    real = again.discriminators.of_generated
    again.discriminators.of_generated = lambda a, b: tuple(10 * logit for logit in real(a, b))  # type: ignore[method-assign,assignment,return-value]
    again.step()
    for one, two in zip(own, [p.grad for p in again.discriminators.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(one, two)


class Unwrapped(Run):
    """One of several workers, without the others."""

    def wrap(self, module: Any) -> Any:
        return module

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        return value.repeat(self.world_size, *[1] * (value.ndim - 1))


def test_two_workers_average_to_the_gradient_of_one(data: Splits) -> None:
    def gradient(run: Run) -> torch.Tensor:
        learner = build(data, run=run, lr=1e-9)
        learner.step()
        return torch.cat([p.grad.flatten() for p in learner.generators.parameters() if p.grad is not None])

    halves = [gradient(Unwrapped(rank=rank, world_size=2)) for rank in range(2)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, gradient(Run()), rtol=1e-3, atol=1e-5)


def test_it_learns_a_transform_that_no_pair_shows(data: Splits) -> None:
    learner = build(data, pool_size=20)
    for _ in range(110):
        learner.step()
    scores = learner.evaluate(final=True)
    assert scores["paired_error"] < 0.5 * scores["unchanged_error"]
    assert scores["paired_error_back"] < scores["unchanged_error"]


@pytest.mark.parametrize(("keywords", "message"), [({"cycle": -1.0}, r"cycle=-1\.0"), ({"pool_size": -1}, "pool_size")])
def test_wrong_values_are_named(data: Splits, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(data, **keywords)


def test_images_too_small_for_the_discriminator_are_named(data: Splits) -> None:
    with pytest.raises(ValueError, match="8 x 8 pixels: discriminator_layers=2 needs at least 12"):
        build(data, model=CycleGANNetworks)


def test_data_of_one_domain_are_refused() -> None:
    with pytest.raises(ValueError, match="no column other"):
        build(digits())
