"""The mathematics of diffusion (DDPM, arXiv:2006.11239) and flow matching (arXiv:2210.02747) in continuous time t in
[0, 1], as pure functions.

A picture x0 becomes noise along x_t = alpha_t x0 + sigma_t eps, with alpha_t^2 + sigma_t^2 = 1 and eps ~ N(0, I). The
straight path of flow matching, (1 - t) x0 + t eps, is scaled to that: a sampler that follows from the estimates of x0
and eps takes the same steps on a path and on a scaled one, so DDIM on it is Euler's method on the flow.

Shapes: B batch, X... the shape of one picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["cosine", "linear", "straight"]
Target = Literal["eps", "x0", "v", "velocity"]
Times = Literal["uniform", "logit_normal"]
MAX_LOG_SNR = 10.0  # log(alpha^2 / sigma^2) stays within +-10


def alpha_sigma(time_B: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """How much of the picture and of the noise is in x_t.

        cosine   alpha = cos(pi t / 2)                                        arXiv:2102.09672
        linear   alpha^2 = exp(-(0.1 t + 9.95 t^2)): DDPM's betas from 1e-4 to 0.02 in the limit of many steps
        straight alpha / sigma = (1 - t) / t: the path of flow matching       arXiv:2210.02747

    Args:
        time_B: float32, of any shape, in [0, 1].

    Returns:
        alpha and sigma, of the same shape, alpha^2 + sigma^2 = 1.
    """
    if schedule == "cosine":
        log_snr = -2 * torch.log(torch.tan((math.pi / 2 * time_B).clamp(1e-4, math.pi / 2 - 1e-4)))
    elif schedule == "linear":
        log_snr = -torch.log(torch.expm1((0.1 * time_B + 9.95 * time_B.square()).clamp(min=1e-6)))
    elif schedule == "straight":
        log_snr = -2 * torch.logit(time_B, eps=1e-4)
    else:
        raise ValueError(f"schedule={schedule} must be one of cosine, linear, straight")
    log_snr = log_snr.clamp(-MAX_LOG_SNR, MAX_LOG_SNR)
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def draw_times(num: int, times: Times, *, generator: torch.Generator, device: torch.device) -> Tensor:
    """Times to train at, float32 [num] in (0, 1): `uniform`, or `logit_normal`, the sigmoid of a standard normal, which
    prefers the middle, where there is most to learn (arXiv:2403.03206)."""
    if times == "uniform":
        return torch.rand(num, generator=generator, device=device)
    if times == "logit_normal":
        return torch.randn(num, generator=generator, device=device).sigmoid()
    raise ValueError(f"times={times} must be one of uniform, logit_normal")


def target_of(x0_BX: Tensor, eps_BX: Tensor, alpha_B: Tensor, sigma_B: Tensor, target: Target) -> Tensor:
    """What the network is to say: the noise, the picture, v = alpha eps - sigma x0 (arXiv:2202.00512), or the velocity
    eps - x0 of the straight path (arXiv:2210.02747)."""
    if target == "eps":
        return eps_BX
    if target == "x0":
        return x0_BX
    if target == "v":
        return spread(alpha_B, x0_BX) * eps_BX - spread(sigma_B, x0_BX) * x0_BX
    if target == "velocity":
        return eps_BX - x0_BX
    raise ValueError(f"target={target} must be one of eps, x0, v, velocity")


def picture_and_noise(
    said_BX: Tensor, x_BX: Tensor, alpha_B: Tensor, sigma_B: Tensor, target: Target
) -> tuple[Tensor, Tensor]:
    """The estimates of x0 and eps that follow from what the network said of x_t."""
    alpha, sigma = spread(alpha_B, x_BX), spread(sigma_B, x_BX)
    if target == "eps":
        return (x_BX - sigma * said_BX) / alpha, said_BX
    if target == "x0":
        return said_BX, (x_BX - alpha * said_BX) / sigma
    if target == "velocity":
        return (x_BX - sigma * said_BX) / (alpha + sigma), (x_BX + alpha * said_BX) / (alpha + sigma)
    return alpha * x_BX - sigma * said_BX, sigma * x_BX + alpha * said_BX


def ddim(
    estimate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    noise_BX: Tensor,
    *,
    steps: int,
    schedule: Schedule,
    clip: float | None = None,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDIM (arXiv:2010.02502): from noise to a picture in `steps` steps; `eta` = 1 gives DDPM's own random steps.

    Args:
        estimate: x_t [B, X...], t [B] -> estimates of x0 and eps.
        noise_BX: x_1, standard normal.
        steps: evaluations of `estimate`, >= 1.
        clip: estimates of x0 are clipped to +-clip, and the noise is made to agree; None: they are not.
        eta: how much new noise each step adds, in [0, 1].
        generator: of the new noise.

    Returns:
        The estimate of x0 at the end, of the same shape.
    """
    times = torch.linspace(1, 0, steps + 1, device=noise_BX.device)
    x_BX = x0_BX = noise_BX
    for now, later in itertools.pairwise(times):
        alpha, sigma = alpha_sigma(now, schedule)
        x0_BX, eps_BX = estimate(x_BX, now.expand(len(x_BX)))
        if clip is not None:
            x0_BX = x0_BX.clamp(-clip, clip)
            eps_BX = (x_BX - alpha * x0_BX) / sigma
        alpha_next, sigma_next = alpha_sigma(later, schedule)
        fresh = eta * (sigma_next / sigma) * (1 - (alpha / alpha_next) ** 2).clamp(min=0).sqrt()
        x_BX = alpha_next * x0_BX + (sigma_next**2 - fresh**2).clamp(min=0).sqrt() * eps_BX
        if eta:
            new = torch.randn(x_BX.shape, generator=generator, device="cpu").to(x_BX.device)
            x_BX = x_BX + fresh * new
    return x0_BX


def spread(value_B: Tensor, like_BX: Tensor) -> Tensor:
    """float [B], or [], with dimensions of size 1 appended, to be multiplied with [B, X...]."""
    return value_B.view(*value_B.shape, *[1] * (like_BX.ndim - value_B.ndim))
