"""A multilayer perceptron for inputs of any shape, and for tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, FractionBelowOne, Widths

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Linear layers with an activation and dropout between them, on the flattened input and an embedding of each
    category.

    Weights are orthogonal (arXiv:1312.6120), with the gain of the activation (gelu and silu: that of relu); in the
    last layer 0.1, so that the first predictions are nearly uniform. Biases are 0.

    Args:
        input_shape: of one sample, e.g. (C, H, W).
        num_outputs: logits or regression targets per sample.
        hidden: widths of the hidden layers; none gives a linear model.
        dropout: the probability of zeroing a hidden unit while training, in [0, 1).
        activation: relu, gelu, silu or tanh.
        cardinalities: how many categories each categorical column of a table has.
        embedding: numbers for each category, at most half as many as there are categories.

    Raises:
        ValueError: `dropout`, `activation` or a width is out of range.
    """

    @checks_keywords
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Widths = (128,),
        dropout: FractionBelowOne = 0.0,
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        cardinalities: Sequence[int] = (),
        embedding: Count = 16,
    ) -> None:
        super().__init__()
        gain = nn.init.calculate_gain("tanh" if activation == "tanh" else "relu")
        sizes = [min(embedding, -(-n // 2)) for n in cardinalities]
        self.embeds = nn.ModuleList(nn.Embedding(n, size) for n, size in zip(cardinalities, sizes, strict=True))
        layers: list[nn.Module] = [nn.Flatten()]
        width_in = math.prod(input_shape) + sum(sizes)
        for width in hidden:
            layers += [_linear(width_in, width, gain), ACTIVATIONS[activation]()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width_in = width
        layers.append(_linear(width_in, num_outputs, 0.1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, categories: Tensor | None = None) -> Tensor:
        """float [B, *input_shape], and int64 [B, columns] where there are categories -> float [B, num_outputs]."""
        if categories is not None:
            embedded = [embed(column) for embed, column in zip(self.embeds, categories.unbind(1), strict=True)]
            x = torch.cat([x.flatten(1), *embedded], dim=1)
        y: Tensor = self.layers(x)
        return y


def _linear(width_in: int, width_out: int, gain: float) -> nn.Linear:
    layer = nn.Linear(width_in, width_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
