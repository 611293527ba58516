"""Latents on the way between two others, and along single dimensions.

Shapes: N ways, T latents on each, D dimensions, Z... the shape of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor


def between(begin_NZ: Tensor, end_NZ: Tensor, steps: int) -> Tensor:
    """Latents on the great circles from some latents to others (arXiv:1609.04468), ends included, float32 [N, T, Z...]:

        z(t) = (sin((1 - t) w) a + sin(t w) b) / sin w,   w the angle between a and b,   t = 0, 1 / (T - 1), ..., 1.

    Standard normal latents of many dimensions all have about the same length; a straight line between two would lead
    through shorter ones, which the model has never seen.

    Args:
        begin_NZ, end_NZ: float [N, Z...], not 0.
        steps: T, >= 2.

    Raises:
        ValueError: `steps` is below 2, or the shapes differ.

    Example:
        From [1, 0] to [0, 1] in 3 steps: [1, 0], [0.707, 0.707], [0, 1].
    """
    if steps < 2 or begin_NZ.shape != end_NZ.shape:
        raise ValueError(
            f"steps={steps} must be at least 2, and {list(begin_NZ.shape)} and {list(end_NZ.shape)} of one shape"
        )
    a_ND, b_ND = begin_NZ.double().flatten(1), end_NZ.double().flatten(1)
    cosine_N = (a_ND * b_ND).sum(1) / (a_ND.norm(dim=1) * b_ND.norm(dim=1))
    angle_N11 = cosine_N.clamp(-1, 1).acos().clamp(1e-6, torch.pi - 1e-6)[:, None, None]
    t_T1 = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    whole = ((1 - t_T1) * angle_N11).sin() * a_ND[:, None] + (t_T1 * angle_N11).sin() * b_ND[:, None]
    path_NTD: Tensor = (whole / angle_N11.sin()).float()
    return path_NTD.view(len(a_ND), steps, *begin_NZ.shape[1:])


def along(width: int, steps: int, *, reach: float = 3.0) -> Tensor:
    """For each dimension latents that are 0 but in this one, where they go from -reach to reach, float32 [D, T, D].

    Args:
        width: D.
        steps: T, >= 2.
        reach: in standard deviations of the latents.

    Raises:
        ValueError: `steps` is below 2.
    """
    if steps < 2:
        raise ValueError(f"steps={steps} must be at least 2")
    return torch.linspace(-reach, reach, steps)[None, :, None] * torch.eye(width)[:, None]
