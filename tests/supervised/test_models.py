"""What each model promises of its outputs; what it learns is tested with the learner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trivium.data.texts.vocabulary import BEGIN, END, PAD
from trivium.supervised.models.lenet import LeNet
from trivium.supervised.models.mlp import MLP
from trivium.supervised.models.sequences.attention_rnn import AttentionRNN
from trivium.supervised.models.sequences.continuing import continued
from trivium.supervised.models.sequences.gpt import GPT, rotate
from trivium.supervised.models.sequences.recurrent import Recurrent


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "parameters"), [((1, 28, 28), 61_706), ((3, 32, 32), None), ((1, 8, 8), None)])
@pytest.mark.parametrize("style", ["modern", "classic"])
def test_lenet_reads_small_images(shape: tuple[int, ...], parameters: int | None, style: Any) -> None:
    net = LeNet(input_shape=shape, num_outputs=10, style=style)
    assert net(torch.zeros(2, *shape)).shape == (2, 10)
    assert parameters in (None, sum(p.numel() for p in net.parameters()))


def test_an_mlp_embeds_the_categories_of_a_table() -> None:
    net = MLP(input_shape=(3,), num_outputs=2, cardinalities=(4, 9), embedding=3)
    assert [embed.weight.shape for embed in net.embeds] == [(4, 2), (9, 3)]
    x, categories = torch.randn(5, 3), torch.randint(0, 4, (5, 2))
    y = net(x, categories)
    assert y.shape == (5, 2)
    changed = categories.clone()
    changed[0, 1] = (changed[0, 1] + 1) % 4
    assert not torch.equal(net(x, changed)[0], y[0])
    assert torch.equal(net(x, changed)[1:], y[1:])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
def test_a_padded_batch_gives_what_each_sequence_alone_gives(cell: Any, bidirectional: bool, per_step: bool) -> None:
    net = Recurrent(
        vocab_size=7,
        num_outputs=3,
        cell=cell,
        hidden_size=5,
        num_layers=2,
        bidirectional=bidirectional,
        per_step=per_step,
    )
    length = torch.tensor([4, 1, 6])
    x = torch.randint(0, 7, (3, 6))
    together = net(x, length)
    for i, n in enumerate(length.tolist()):
        alone = net(x[i : i + 1, :n])
        same(together[i, :n] if per_step else together[i], alone[0])


def test_a_recurrent_network_answers_with_tokens_where_nothing_else_is_asked() -> None:
    assert Recurrent(vocab_size=7, per_step=True)(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 7)


def test_a_recurrent_network_reads_an_image_row_by_row() -> None:
    net = Recurrent(input_shape=(2, 6, 4), num_outputs=3, hidden_size=5)
    x = torch.randn(1, 2, 6, 4)
    assert net.rnn.input_size == 8
    rows = torch.stack([x[0, :, t].flatten() for t in range(6)])[None]
    same(net(x), net(rows))


def test_the_forget_gate_is_open_and_recurrent_weights_are_orthogonal_at_the_start() -> None:
    rnn = Recurrent(input_shape=(9, 2), num_outputs=1, hidden_size=4).rnn
    assert rnn.bias_ih_l0.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    for gate in rnn.weight_hh_l0.split(4):
        same(gate @ gate.T, torch.eye(4))


@pytest.mark.parametrize("positions", ["learnt", "rotary"])
class TestGPT:
    def net(self, positions: Any) -> GPT:
        return GPT(vocab_size=11, context=8, num_layers=2, width=16, num_heads=2, positions=positions).eval()

    def test_a_token_sees_only_what_came_before(self, positions: Any) -> None:
        net, x = self.net(positions), torch.randint(0, 11, (2, 8))
        changed = x.clone()
        changed[:, 5] = (x[:, 5] + 1) % 11
        assert net(x).shape == (2, 8, 11)
        same(net(changed)[:, :5], net(x)[:, :5])
        assert not torch.allclose(net(changed)[:, 5:], net(x)[:, 5:])

    def test_the_cache_changes_nothing(self, positions: Any) -> None:
        net, x = self.net(positions), torch.randint(0, 11, (2, 8))
        cache: Any = []
        parts = [net(part, cache) for part in (x[:, :3], x[:, 3:4], x[:, 4:])]
        same(torch.cat(parts, dim=1), net(x))

    def test_sampling(self, positions: Any) -> None:
        net, prompt = self.net(positions), torch.randint(0, 11, (3, 2))

        def sample(**keywords: Any) -> torch.Tensor:
            generator = torch.Generator().manual_seed(5)
            return continued(net, prompt, num=20, context=net.context, generator=generator, **keywords)

        text = sample()
        assert text.shape == (3, 22)
        assert torch.equal(text[:, :2], prompt)
        assert torch.equal(text, sample())
        greedy = sample(temperature=0)
        assert torch.equal(greedy, sample(top_k=1))
        assert torch.equal(greedy[:, 2], net(prompt)[:, -1].argmax(-1))
        assert not torch.equal(text, greedy)
        alike = nn.Sequential(net)  # without a cache; up to where the cache forgets the oldest half
        generator = torch.Generator().manual_seed(5)
        read_again = continued(alike, prompt, num=net.context - 2, context=net.context, generator=generator)
        assert torch.equal(read_again, text[:, : net.context])


def test_rotary_products_depend_on_the_distance_only() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    products = [(rotate(q, at) * rotate(k, at - 3)).sum() for at in (3, 10, 50)]
    same(products[0], products[1])
    same(products[0], products[2])
    assert not torch.allclose(products[0], (rotate(q, 3) * rotate(k, 1)).sum())
    same(rotate(q, 0), q)


def test_an_attention_rnn_neither_reads_nor_looks_at_padding() -> None:
    net = AttentionRNN(vocab_size=9, max_length=4, hidden_size=8, embedding=5).eval()
    source = torch.tensor([[4, 5, PAD, PAD], [6, 7, 8, 3]])
    target = torch.tensor([[BEGIN, 5, 4], [BEGIN, 3, 8]])
    both = net(source, target)
    assert both.shape == (2, 3, 9)
    same(both[:1], net(source[:1, :2], target[:1]))


def test_generating_reads_the_models_own_tokens_and_ends() -> None:
    net = AttentionRNN(vocab_size=9, max_length=5, hidden_size=8, embedding=5).eval()
    source = torch.tensor([[4, 5, 6]])
    written = net.generate({"source": source})
    again = net(source, torch.cat([torch.tensor([[BEGIN]]), written[:, :-1]], dim=1)).argmax(-1)
    ended = (written == END).cumsum(1) - (written == END).long() > 0
    assert torch.equal(written, again.masked_fill(ended, PAD))
    nn.init.zeros_(net.head.weight)
    net.head.bias.data = torch.eye(9)[END]
    assert net.generate({"source": source}).tolist() == [[END, PAD, PAD, PAD, PAD]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeNet(input_shape=(64,), num_outputs=2), r"images \[C, H, W\]; the data has \[64\]"),
        (lambda: LeNet(input_shape=(1, 8, 8), num_outputs=2, style="old"), "style=old: must be one of modern, classic"),
        (lambda: Recurrent(num_outputs=2), "needs an input_shape or a vocab_size"),
        (lambda: Recurrent(input_shape=(3, 2)), "needs num_outputs or a vocab_size"),
        (lambda: Recurrent(num_outputs=2, vocab_size=3, cell="ltsm"), "cell=ltsm: must be one of rnn, lstm, gru"),
        (
            lambda: GPT(vocab_size=3, context=4, width=10, num_heads=4),
            "width=10 must be an even multiple of num_heads=4",
        ),
        (lambda: AttentionRNN(vocab_size=5, max_length=3, hidden_size=7), "hidden_size=7 must be even"),
    ],
)
def test_wrong_values_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
