from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trivium.generative.diffusion.process import alpha_sigma, ddim, draw_times, picture_and_noise, target_of

SCHEDULES = ("cosine", "linear", "straight")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_picture_becomes_noise(schedule: Any) -> None:
    alpha, sigma = alpha_sigma(torch.linspace(0, 1, 101), schedule)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(101))
    assert (alpha.diff() <= 0).all()
    assert alpha[0] > 0.99
    assert sigma[-1] > 0.99


def test_schedules_by_hand() -> None:
    alpha, _ = alpha_sigma(torch.tensor([1 / 3, 0.5]), "cosine")
    assert alpha.tolist() == pytest.approx([math.cos(math.pi / 6), math.sqrt(0.5)], rel=1e-5)
    alpha, _ = alpha_sigma(torch.tensor([0.5]), "linear")
    # the product of 1 - beta over the first half of 1000 steps, beta from 1e-4 to 0.02
    steps = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[:500]
    assert alpha.item() == pytest.approx((1 - steps).prod().sqrt().item(), rel=0.01)


@pytest.mark.parametrize("target", ["eps", "x0", "v", "velocity"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_a_perfect_network_says_gives_picture_and_noise_back(schedule: Any, target: Any) -> None:
    x0, eps = torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    alpha, sigma = alpha_sigma(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]), schedule)
    shaped = (alpha.view(5, 1, 1, 1), sigma.view(5, 1, 1, 1))
    x = shaped[0] * x0 + shaped[1] * eps
    again, noise = picture_and_noise(target_of(x0, eps, alpha, sigma, target), x, alpha, sigma, target)
    torch.testing.assert_close(again, x0, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noise, eps, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_perfect_denoiser_of_one_picture_draws_it(schedule: Any, eta: float) -> None:
    picture = torch.randn(1, 2, 3, 3)

    def estimate(x: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = alpha_sigma(time, schedule)
        x0 = picture.expand_as(x)
        return x0, (x - alpha.view(-1, 1, 1, 1) * x0) / sigma.view(-1, 1, 1, 1)

    drawn = ddim(estimate, torch.randn(4, 2, 3, 3), steps=7, schedule=schedule, eta=eta, generator=torch.Generator())
    torch.testing.assert_close(drawn, picture.expand_as(drawn))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_perfect_denoiser_of_a_gaussian_draws_that_gaussian(eta: float) -> None:
    """For x0 ~ N(m, s^2) the estimates are known in closed form, and samples must have its mean and deviation."""
    m, s = 0.5, 0.2

    def estimate(x: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = (part[:, None] for part in alpha_sigma(time, "cosine"))
        x0 = m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x - alpha * m)
        return x0, (x - alpha * x0) / sigma

    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    steps = 400 if eta else 100  # random steps must be smaller
    drawn = ddim(estimate, noise, steps=steps, schedule="cosine", eta=eta, generator=torch.Generator().manual_seed(1))
    assert drawn.mean().item() == pytest.approx(m, abs=0.01)
    assert drawn.std().item() == pytest.approx(s, rel=0.05)


def test_ddim_on_the_straight_path_is_eulers_method_on_the_flow() -> None:
    """x' = u(x, t) from t = 1 to 0 on the path (1 - t) x0 + t eps, of which the schedule's is a scaled one."""

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return 0.3 * x + time.view(-1, 1) * torch.sin(x)

    def estimate(x: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = alpha_sigma(time, "straight")
        unscaled = x / (alpha + sigma)[:, None]  # (1 - t) + t = 1
        return picture_and_noise(velocity(unscaled, time), x, alpha, sigma, "velocity")

    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    x, steps = noise, 8
    for i in range(steps, 0, -1):
        x = x - velocity(x, torch.full((6,), i / steps)) / steps
    torch.testing.assert_close(ddim(estimate, noise, steps=steps, schedule="straight"), x, rtol=2e-3, atol=2e-3)


def test_times_are_drawn_as_they_should() -> None:
    cpu, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
    uniform = draw_times(20_000, "uniform", generator=generator, device=cpu)
    middle = draw_times(20_000, "logit_normal", generator=generator, device=cpu)
    inner = [((times > 0.25) & (times < 0.75)).float().mean().item() for times in (uniform, middle)]
    # of a standard normal, 0.728 lie within +-log 3
    assert inner == pytest.approx([0.5, math.erf(math.log(3) / math.sqrt(2))], abs=0.01)
    with pytest.raises(ValueError, match="times=even must be one of uniform, logit_normal"):
        draw_times(1, "even", generator=generator, device=cpu)  # type: ignore[arg-type]


def test_unknown_names_are_told() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="schedule=cosin must be one of cosine, linear, straight"):
        alpha_sigma(one, "cosin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target=noise must be one of eps, x0, v, velocity"):
        target_of(one, one, one, one, "noise")  # type: ignore[arg-type]
