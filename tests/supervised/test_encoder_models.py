"""BERT and T5: padding, masks, the cache, and the papers' formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trivium.data.texts.vocabulary import BEGIN, END, PAD
from trivium.supervised.models.sequences.bert import BERT
from trivium.supervised.models.sequences.t5 import T5, Attention, bucket


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def small(**keywords: Any) -> BERT:
    return BERT(vocab_size=9, context=6, num_layers=2, width=16, num_heads=2, **keywords).eval()


@pytest.mark.parametrize("keywords", [{}, {"num_outputs": 3}, {"num_outputs": 3, "per_step": True}])
def test_a_padded_text_is_read_as_it_is_alone(keywords: dict[str, Any]) -> None:
    net = small(**keywords)
    x, length = torch.randint(0, 9, (3, 6)), torch.tensor([4, 1, 6])
    together = net(x, length)
    whole = keywords.get("num_outputs") and not keywords.get("per_step")
    assert together.shape == ((3, 3) if whole else (3, 6, keywords.get("num_outputs", 9)))
    for i, n in enumerate(length.tolist()):
        alone = net(x[i : i + 1, :n])[0]
        same(together[i] if whole else together[i, :n], alone)


def test_each_token_of_bert_sees_those_after_it_and_their_order() -> None:
    net, x = small(), torch.tensor([[1, 2, 3, 4]])
    assert not torch.allclose(net(torch.tensor([[1, 2, 3, 5]]))[:, 0], net(x)[:, 0])
    assert not torch.allclose(net(torch.tensor([[1, 3, 2, 4]]))[:, 0], net(x)[:, 0])
    with pytest.raises(ValueError, match="7 tokens, more than context=6"):
        net(torch.zeros(1, 7, dtype=torch.int64))


def test_t5_neither_looks_at_padding_nor_ahead() -> None:
    net = T5(vocab_size=9, max_length=4, width=16).eval()
    source, target = torch.tensor([[4, 5, PAD, PAD], [6, 7, 8, 3]]), torch.tensor([[BEGIN, 5, 4], [BEGIN, 3, 8]])
    both = net(source, target)
    assert both.shape == (2, 3, 9)
    same(both[:1], net(source[:1, :2], target[:1]))
    changed = target.clone()
    changed[:, 2] = 7
    same(net(source, changed)[:, :2], both[:, :2])
    assert not torch.allclose(net(source, changed)[:, 2], both[:, 2])
    assert net(torch.full((1, 4), PAD), target[:1]).isfinite().all()


def test_t5_writes_with_its_cache_what_it_would_write_without() -> None:
    net = T5(vocab_size=9, max_length=6, width=16).eval()
    source = torch.randint(3, 9, (5, 7))
    written = net.generate({"source": source})
    target = torch.cat([torch.full((5, 1), BEGIN), written[:, :-1]], dim=1)
    ended = (written == END).cumsum(1) - (written == END).long() > 0
    assert written.shape == (5, 6)
    assert torch.equal(written, net(source, target).argmax(-1).masked_fill(ended, PAD))
    nn.init.zeros_(net.head.weight)
    assert net.generate({"source": source}).eq(PAD).all()


def test_buckets_of_distances_by_hand() -> None:
    distance = torch.tensor([-200, -128, -16, -8, -1, 0, 1, 8, 16, 200])
    # Both ways 16 buckets each: 0 to 7 exactly, then 8 + 8 log(d / 8) / log(16).
    assert bucket(distance, both_ways=True).tolist() == [15, 15, 10, 8, 1, 0, 17, 24, 26, 31]
    # Backwards 32: 0 to 15 exactly, then 16 + 16 log(d / 16) / log(8).
    assert bucket(distance, both_ways=False).tolist() == [31, 31, 16, 8, 1, 0, 0, 0, 0, 0]


def test_attention_is_the_papers_formula() -> None:
    attention, x, y, bias = Attention(8, 2), torch.randn(3, 4, 8), torch.randn(3, 5, 8), torch.randn(1, 2, 4, 5)
    q, k, v = attention.q(x), attention.k(y), attention.v(y)
    heads = []
    for n in range(2):
        part = slice(4 * n, 4 * n + 4)
        weight = (q[..., part] @ k[..., part].transpose(1, 2) / 2 + bias[:, n]).softmax(-1)
        heads.append(weight @ v[..., part])
    same(attention(x, attention.memory(y), bias), attention.out(torch.cat(heads, dim=2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BERT(vocab_size=3, context=4, width=10, num_heads=4), "width=10 must be a multiple of num_heads=4"),
        (lambda: BERT(vocab_size=3, context=4, dropout=1.0), r"dropout=1\.0"),
        (lambda: T5(vocab_size=3, max_length=4, width=10), "width=10 must be a multiple of num_heads=4"),
    ],
)
def test_wrong_values_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
