"""The codebook, the prior over code maps, and the learner that holds both."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from trivium.data.digits import digits
from trivium.generative.autoencoders.codebook import Codebook, nearest, perplexity
from trivium.generative.autoencoders.vq_vae import VQVAE
from trivium.generative.networks.code_map import CodeMapCoder, CodePrior
from trivium.learner import Run


def same(value: torch.Tensor) -> torch.Tensor:
    return value


def test_nearest_codes_by_hand() -> None:
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert nearest(torch.tensor([[0.4, 0.1], [0.6, 0.1], [0.1, 1.1]]), codes).tolist() == [0, 1, 2]


def test_the_gradient_passes_the_codebook_unchanged() -> None:
    book = Codebook(num_codes=2, dim=2)
    book.code_KD.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    x = torch.tensor([[[0.9, 0.8]]], requires_grad=True)
    code, index = book(x)
    assert index.tolist() == [[1]]
    assert torch.equal(code, torch.ones(1, 1, 2))
    (code * torch.tensor([2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[[2.0, 3.0]]]


def test_codes_follow_the_mean_of_what_chooses_them_by_hand() -> None:
    book = Codebook(num_codes=2, dim=1, decay=0.5)
    book.code_KD.copy_(torch.tensor([[0.0], [10.0]]))
    book.total_KD.copy_(torch.tensor([[0.0], [40.0]]))
    book.count_K.copy_(torch.tensor([4.0, 4.0]))
    x = torch.tensor([[1.0], [3.0], [9.0], [11.0]])
    chosen, restarted = book.update(x, torch.tensor([0, 0, 1, 1]), torch.zeros(2), total=same, first=same)
    assert chosen.tolist() == [2, 2]
    # counts (4 + 2) / 2 = 3; totals (0 + 4) / 2 = 2 and (40 + 20) / 2 = 30
    assert book.count_K.tolist() == [3.0, 3.0]
    assert book.total_KD.flatten().tolist() == [2.0, 30.0]
    torch.testing.assert_close(book.code_KD.flatten(), torch.tensor([2 / 3, 10.0]), rtol=1e-4, atol=1e-4)
    assert restarted == 0


def test_a_code_that_nothing_chooses_is_replaced_by_a_vector_of_the_batch() -> None:
    book = Codebook(num_codes=2, dim=1, decay=0.5)
    book.code_KD.copy_(torch.tensor([[0.0], [100.0]]))
    book.count_K.copy_(torch.tensor([4.0, 1.0]))
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    _, restarted = book.update(x, torch.zeros(4, dtype=torch.int64), torch.tensor([0.0, 0.6]), total=same, first=same)
    assert restarted == 1
    assert book.code_KD[1].item() == 3.0
    assert book.count_K[1].item() == 1.0


@pytest.mark.parametrize(("counts", "expected"), [([5, 5, 5, 5], 4.0), ([7, 0, 0, 0], 1.0), ([1, 1, 0, 0], 2.0)])
def test_perplexity_by_hand(counts: list[int], expected: float) -> None:
    assert perplexity(torch.tensor(counts)).item() == pytest.approx(expected)


def test_the_prior_sees_only_codes_before_its_own() -> None:
    torch.manual_seed(0)
    prior = CodePrior(num_codes=5, width=8, layers=2)
    index = torch.randint(5, (1, 4, 4))
    logits = prior(index)
    for position in range(16):
        other = index.clone().flatten()
        other[position:] = (other[position:] + 1) % 5
        changed = prior(other.view(1, 4, 4))
        assert torch.equal(changed.flatten(2)[..., : position + 1], logits.flatten(2)[..., : position + 1])
    later = index.clone()
    later[0, 0, 0] = (later[0, 0, 0] + 1) % 5
    assert not torch.equal(prior(later)[0, :, 0, 1], logits[0, :, 0, 1])


def test_samples_follow_the_priors_probabilities() -> None:
    prior = CodePrior(num_codes=2, width=4, layers=1)
    torch.nn.init.zeros_(prior.head.weight)
    assert prior.head.bias is not None
    prior.head.bias.data = torch.tensor([0.0, math.log(3.0)])  # 1 with probability 3/4
    drawn = prior.sample(500, (2, 2), torch.rand(500, 4, generator=torch.Generator().manual_seed(0)))
    assert drawn.float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_it_learns_digits_and_uses_its_codes() -> None:
    torch.manual_seed(0)
    learner = VQVAE(
        run=Run(),
        data=digits(),
        model=functools.partial(CodeMapCoder, channels=(16,)),
        optimizer=functools.partial(torch.optim.AdamW, fused=True),
        batch_size=64,
        lr=2e-3,
        num_codes=32,
        code_dim=8,
        prior_width=16,
        prior_layers=1,
    )
    before = learner.evaluate()
    for _ in range(250):
        learner.step()
    scores = learner.evaluate()
    assert scores["error"] < 0.03 < before["error"]
    assert scores["codes_used"] >= 24
    assert scores["prior"] < math.log(32) - 0.3


def test_a_codebook_of_one_code_is_refused() -> None:
    with pytest.raises(ValueError, match="num_codes=1"):
        Codebook(num_codes=1, dim=2)
