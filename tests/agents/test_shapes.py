"""Losses and returns refuse tensors of different shapes: [B] against [B, 1] would broadcast to [B, B]."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trivium.agents import a2c, dqn, ppo
from trivium.agents.returns import explained_variance, linear_recurrence, live_mean, squared_error

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_error": squared_error,
    "ppo.clipped_value_loss": lambda a, b: ppo.clipped_value_loss(a, a, b, 0.2),
    "ppo.clipped_surrogate_loss": lambda a, b: ppo.clipped_surrogate_loss(a, b, 0.2),
    "a2c.policy_gradient_loss": a2c.policy_gradient_loss,
    "dqn.td_loss, mse": lambda a, b: dqn.td_loss(a, b, "mse"),
    "dqn.td_loss, huber": lambda a, b: dqn.td_loss(a, b, "huber"),
    "dqn.categorical_loss": lambda a, b: dqn.categorical_loss(a, b),
    "live_mean": lambda a, b: live_mean(a, b > 0),
    "explained_variance": explained_variance,
    "linear_recurrence": linear_recurrence,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_different_shapes_are_refused_by_name(name: str) -> None:
    function = FUNCTIONS[name]
    value = torch.tensor([[0.1, 0.2, 0.3]] * 3)
    function(value, value)  # equal shapes are right
    for other in (value[:, :1], value[0], value[None]):
        with pytest.raises(ValueError, match="must have one shape"):
            function(value, other)
