"""What a model looks at: the weights by hand, whoever wrote the model, and what is drawn of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivium.data.source import Signature
from trivium.supervised import attention as module
from trivium.supervised.attention import attention, attention_figure, weights
from trivium.supervised.models.mlp import MLP
from trivium.supervised.models.sequences.attention_rnn import AttentionRNN
from trivium.supervised.models.sequences.bert import BERT
from trivium.supervised.models.sequences.gpt import GPT
from trivium.supervised.models.sequences.t5 import T5
from trivium.supervised.models.vit import ViT


def test_the_weights_are_those_that_torch_gives_to_the_values() -> None:
    query, key = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5)
    mask = torch.rand(2, 1, 4, 6) > 0.3
    mask[..., 0] = True
    # The values are the unit vectors, so that what comes out is the weights.
    units = torch.eye(6).expand(2, 3, 6, 6)
    cases: list[dict[str, Any]] = [
        {}, {"scale": 1.0}, {"is_causal": True}, {"attn_mask": mask}, {"attn_mask": torch.randn(2, 1, 4, 6)},
    ]  # fmt: skip
    for options in cases:
        expected = F.scaled_dot_product_attention(query, key, units, **options).mean(1)
        torch.testing.assert_close(weights(query, key, units, **options), expected)
    grouped = F.scaled_dot_product_attention(query.repeat(1, 2, 1, 1), key, units, enable_gqa=True)
    found = weights(query.repeat(1, 2, 1, 1), key, units, enable_gqa=True)
    torch.testing.assert_close(found, grouped.mean(1))


TOKENS = torch.tensor([[3, 4, 5, 0], [3, 3, 4, 5]])


@pytest.mark.parametrize(
    ("model", "inputs", "shape"),
    [
        (GPT(vocab_size=9, context=4, num_layers=1, width=8, num_heads=2), [TOKENS], [2, 4, 4]),
        (BERT(vocab_size=9, context=4, num_layers=1, width=8, num_heads=2), [TOKENS, torch.tensor([3, 4])], [2, 4, 4]),
        (T5(vocab_size=9, max_length=9, num_layers=1, width=8, num_heads=2), [TOKENS, TOKENS[:, :3]], [2, 3, 4]),
        (AttentionRNN(vocab_size=9, max_length=9, hidden_size=4), [TOKENS, TOKENS[:, :3]], [2, 3, 4]),
        (nn.TransformerEncoderLayer(8, 2, batch_first=True), [torch.randn(2, 4, 8)], [2, 4, 4]),
    ],
)
def test_every_row_sums_to_one_and_padding_is_not_looked_at(
    model: nn.Module, inputs: list[Tensor], shape: list[int]
) -> None:
    found = attention(model.eval(), inputs)
    assert found is not None
    assert list(found.shape) == shape
    torch.testing.assert_close(found.sum(2), torch.ones(shape[:2]))
    if isinstance(model, (BERT, T5, AttentionRNN)):
        assert found[0, :, 3].tolist() == [0.0] * shape[1]
    if isinstance(model, GPT):
        assert found.triu(1).abs().sum() == 0


def test_a_model_without_attention_has_no_picture() -> None:
    model = MLP(input_shape=(2,), num_outputs=2, hidden=(2,))
    assert attention(model, [torch.randn(1, 2)]) is None
    assert attention_figure(model, {"x": torch.randn(1, 2)}, Signature(), title="") is None


def test_tokens_are_drawn_by_their_names_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(module, "matrices_figure", lambda matrices, title: drawn.extend(matrices))
    preparation = {"tokens": "characters", "vocabulary": ["<pad>", "<begin>", "<end>", "a", "b", "c"]}
    signature = Signature(inputs=("source", "target"), preparation=preparation)
    model = T5(vocab_size=6, max_length=9, num_layers=1, width=8, num_heads=2)
    batch = {"source": TOKENS, "target": torch.tensor([[1, 5, 4], [1, 5, 0]])}
    attention_figure(model.eval(), batch, signature, title="")
    assert [(rows, columns) for _, rows, columns in drawn] == [
        (["<begin>", "c", "b"], ["a", "b", "c"]),
        (["<begin>", "c"], ["a", "a", "b", "c"]),
    ]
    assert [shares.shape for shares, _, _ in drawn] == [(3, 3), (2, 4)]
    np.testing.assert_allclose(drawn[0][0].sum(1), 1, rtol=1e-5)


class LooksAt(nn.Module):
    """Every token looks at one patch only."""

    def __init__(self, patch: int, tokens: int) -> None:
        super().__init__()
        self.patch, self.tokens = patch, tokens

    def forward(self, x: Tensor) -> Tensor:
        query = torch.full((len(x), 1, self.tokens, 1), 100.0)
        key = torch.zeros(len(x), 1, self.tokens, 1)
        key[:, :, self.patch] = 1.0
        return F.scaled_dot_product_attention(query, key, key)


@pytest.mark.parametrize(("patch", "tokens"), [(2, 4), (3, 5)])  # without and with a class token
def test_the_patch_that_is_looked_at_is_coloured(patch: int, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    monkeypatch.setattr(module, "captioned_figure", lambda images, captions, title: drawn.append(images))
    attention_figure(LooksAt(patch, tokens), {"x": torch.zeros(1, 1, 4, 4)}, Signature(), title="")
    coloured = drawn[0][0].sum(0) > 0.1
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[2:, :2] = True  # the third of four
    assert torch.equal(coloured, expected)


def test_an_attention_that_is_no_grid_of_the_image_is_not_drawn() -> None:
    assert attention_figure(LooksAt(0, 7), {"x": torch.zeros(1, 1, 4, 4)}, Signature(), title="") is None


def test_a_vision_transformer_has_a_picture() -> None:
    model = ViT(input_shape=(1, 28, 28), num_outputs=10, patch_size=7, width=8, num_heads=2, num_layers=1)
    picture = attention_figure(model.eval(), {"x": torch.rand(3, 1, 28, 28)}, Signature(), title="")
    assert isinstance(picture, np.ndarray)
    assert picture.ndim == 3
