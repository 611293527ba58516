from __future__ import annotations

import pytest
import torch
from torch import nn

from trivium.supervised.models.mlp import MLP


def test_shapes_of_any_input() -> None:
    for shape, hidden in (((1, 8, 8), (16, 12)), ((5,), (7,)), ((3, 4, 4), ())):
        assert MLP(input_shape=shape, num_outputs=3, hidden=hidden)(torch.rand(6, *shape)).shape == (6, 3)


def test_hidden_layers_keep_the_size_of_signals_and_first_predictions_are_nearly_uniform() -> None:
    torch.manual_seed(0)
    mlp = MLP(input_shape=(64,), num_outputs=10, hidden=(64, 64, 64))
    x = torch.randn(512, 64)
    hidden = mlp.layers[:-1](x)
    assert 0.5 < hidden.square().mean() < 2.0
    assert (mlp(x).softmax(1) - 0.1).abs().max() < 0.1


def test_dropout_works_in_training_only() -> None:
    torch.manual_seed(0)
    mlp = MLP(input_shape=(4,), num_outputs=2, hidden=(64,), dropout=0.5)
    x = torch.rand(3, 4)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x))
    assert not any(isinstance(m, nn.Dropout) for m in MLP(input_shape=(4,), num_outputs=2).modules())


def test_wrong_values_are_named() -> None:
    with pytest.raises(ValueError, match="activation=rleu: must be one of relu, gelu, silu, tanh"):
        MLP(input_shape=(4,), num_outputs=2, activation="rleu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dropout=1"):
        MLP(input_shape=(4,), num_outputs=2, dropout=1.0)
    with pytest.raises(ValueError, match=r"hidden=\[8, 0\]"):
        MLP(input_shape=(4,), num_outputs=2, hidden=[8, 0])
