"""CartPole seen, not told: two pictures, the last and the present one, from which velocities can be inferred.

Shapes: N envs, H W: picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

HEIGHT, WIDTH = 40, 60
POLE = 30.0  # pixels; in the cart's scale it would be 12.5, and a degree of it a fifth of a pixel
GROUND = 36.0  # the row of the cart's centre


def observe_pictures(state_N6: Tensor) -> Tensor:
    """uint8 [N, 2, H, W]: the last picture and the present one.

    Args:
        state_N6: see `classic_control.seen_cartpole`.
    """
    x_N, _, theta_N, _, last_x_N, last_theta_N = state_N6.unbind(1)
    pictures = draw(torch.cat((last_x_N, x_N)), torch.cat((last_theta_N, theta_N)))
    return torch.stack(pictures.chunk(2), 1)


def draw(x_N: Tensor, theta_N: Tensor) -> Tensor:
    """The cart as a grey box and the pole as a white line with soft edges, so that parts of a pixel show.

    Args:
        x_N: m, 2.4 is the edge of the picture.
        theta_N: rad, 0 is up.

    Returns:
        uint8 [N, H, W].
    """
    device = x_N.device
    row_H1 = torch.arange(HEIGHT, device=device, dtype=torch.float32).unsqueeze(1) + 0.5
    column_W = torch.arange(WIDTH, device=device, dtype=torch.float32) + 0.5
    across_NHW = column_W - ((x_N.float() / 2.4 + 1) * (WIDTH / 2)).view(-1, 1, 1)  # from the cart, to the right
    up_H1 = GROUND - row_H1
    sin_N11, cos_N11 = theta_N.float().sin().view(-1, 1, 1), theta_N.float().cos().view(-1, 1, 1)
    along_NHW = (across_NHW * sin_N11 + up_H1 * cos_N11).clamp(0, POLE)
    distance_NHW = torch.hypot(across_NHW - along_NHW * sin_N11, up_H1 - along_NHW * cos_N11)
    pole_NHW = (1.7 - distance_NHW).clamp(0, 1)
    cart_NHW = (5.5 - across_NHW.abs()).clamp(0, 1) * (2.5 - up_H1.abs()).clamp(0, 1)
    return (torch.maximum(pole_NHW, 0.5 * cart_NHW) * 255).to(torch.uint8)
