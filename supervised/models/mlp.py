"""A multilayer perceptron for inputs of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Linear layers with an activation and dropout between them, on the flattened input.

    Weights are orthogonal (arXiv:1312.6120), with the gain of the activation (gelu and silu: that of relu); in the
    last layer 0.1, so that the first predictions are nearly uniform. Biases are 0.

    Args:
        input_shape: of one sample, e.g. (C, H, W).
        num_outputs: logits or regression targets per sample.
        hidden: widths of the hidden layers; none gives a linear model.
        dropout: the probability of zeroing a hidden unit while training, in [0, 1).
        activation: relu, gelu, silu or tanh.

    Raises:
        ValueError: `dropout`, `activation` or a width is out of range.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation} must be one of {', '.join(ACTIVATIONS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden={list(hidden)} must be widths of at least 1")
        gain = nn.init.calculate_gain("tanh" if activation == "tanh" else "relu")
        layers: list[nn.Module] = [nn.Flatten()]
        width_in = math.prod(input_shape)
        for width in hidden:
            layers += [_linear(width_in, width, gain), ACTIVATIONS[activation]()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width_in = width
        layers.append(_linear(width_in, num_outputs, 0.1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, *input_shape] -> float [B, num_outputs]."""
        y: Tensor = self.layers(x)
        return y


def _linear(width_in: int, width_out: int, gain: float) -> nn.Linear:
    layer = nn.Linear(width_in, width_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
