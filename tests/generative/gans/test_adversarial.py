from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trivium.generative.gans.adversarial import discriminator_loss, generator_loss, gradient_penalty, r1_penalty

REAL, FAKE = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.5])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        (
            "logistic",
            (softplus(-2) + softplus(0) + softplus(-1) + softplus(0.5)) / 2,
            (softplus(1) + softplus(-0.5)) / 2,
        ),
        ("hinge", (0 + 1) / 2 + (0 + 1.5) / 2, 0.25),
        ("least_squares", ((1 + 1) / 2 + (1 + 0.25) / 2) / 2, (4 + 0.25) / 4),
        ("wasserstein", -0.25 - 1.0, 0.25),
    ],
)
def test_losses_by_hand(kind: Any, discriminator: float, generator: float) -> None:
    assert discriminator_loss(REAL, FAKE, kind).item() == pytest.approx(discriminator)
    assert generator_loss(FAKE, kind).item() == pytest.approx(generator)


def test_an_unknown_loss_is_named() -> None:
    for call in (lambda: discriminator_loss(REAL, FAKE, "hing"), lambda: generator_loss(FAKE, "hing")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="loss=hing must be one of logistic, hinge"):
            call()


def test_r1_of_a_linear_discriminator_is_the_square_of_its_slope() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    real = torch.randn(5, 2, requires_grad=True)
    penalty = r1_penalty(real, real @ weight)
    assert penalty.item() == pytest.approx(25)
    penalty.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == pytest.approx([6, 8])  # of |w|^2


def test_the_gradient_penalty_of_a_linear_discriminator() -> None:
    weight = torch.tensor([3.0, 4.0])
    penalty = gradient_penalty(lambda x: x @ weight, torch.randn(6, 2), torch.randn(6, 2), torch.rand(6))
    assert penalty.item() == pytest.approx((5 - 1) ** 2)


def test_the_points_of_the_gradient_penalty_lie_between_real_and_generated_images() -> None:
    seen = []

    def discriminate(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach().clone())
        return x.sum((1, 2))

    gradient_penalty(discriminate, torch.ones(2, 2, 2), torch.zeros(2, 2, 2), torch.tensor([0.25, 1.0]))
    assert seen[0].flatten(1).unique(dim=1).flatten().tolist() == [0.25, 1.0]
