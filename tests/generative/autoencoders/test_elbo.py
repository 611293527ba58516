from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from trivium.generative.autoencoders.elbo import (
    bernoulli_log_likelihood,
    elbo,
    importance_log_weight,
    importance_weighted_bound,
    kl_to_standard_normal,
    kl_weight,
)

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def test_bernoulli_log_likelihood_by_hand_sums_over_pixels() -> None:
    logits = torch.tensor([[[math.log(3.0), 0.0]], [[math.log(3.0), 0.0]]])  # probabilities 3/4 and 1/2
    x = torch.tensor([[[1.0, 0.0]], [[0.5, 1.0]]])
    expected = [math.log(3 / 4) + math.log(1 / 2), 0.5 * math.log(3 / 4) + 0.5 * math.log(1 / 4) + math.log(1 / 2)]
    assert bernoulli_log_likelihood(logits, x).tolist() == pytest.approx(expected)


def test_bernoulli_log_likelihood_is_that_of_torch_distributions() -> None:
    logits, x = random(7, 1, 4, 4), random(7, 1, 4, 4).gt(0).float()
    expected = Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_log_likelihood(logits, x), expected)


def test_bernoulli_log_likelihood_is_finite_and_float32_for_extreme_logits() -> None:
    logits, x = torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert bernoulli_log_likelihood(logits, x).tolist() == [0.0, -2e4]
    assert bernoulli_log_likelihood(logits.bfloat16(), x).dtype == torch.float32
    with pytest.raises(ValueError, match="size"):
        bernoulli_log_likelihood(logits, x[:1])


def test_kl_by_hand_sums_over_latents() -> None:
    mean, log_var = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(4)], [0.0, 0.0]])
    assert kl_to_standard_normal(mean, log_var).tolist() == pytest.approx([0.5 + (3 - math.log(4)) / 2, 0.0])


def test_kl_is_that_of_torch_distributions_and_never_negative() -> None:
    mean, log_var = 3 * random(50, 6), 3 * random(50, 6)
    expected = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(1)
    kl = kl_to_standard_normal(mean, log_var)
    torch.testing.assert_close(kl, expected)
    assert kl.min() >= 0
    assert kl_to_standard_normal(torch.zeros(1, 4), torch.full((1, 4), 1e-4)).item() >= 0  # no cancellation


def test_elbo_by_hand_is_a_mean_over_the_batch() -> None:
    log_likelihood, kl = torch.tensor([-10.0, -20.0]), torch.tensor([1.0, 3.0])
    assert elbo(log_likelihood, kl).item() == -17.0
    assert elbo(log_likelihood, kl, beta=4.0).item() == -23.0
    assert elbo(log_likelihood.repeat(2), kl.repeat(2)).item() == -17.0  # the batch twice: the same


def test_kl_weight_by_hand() -> None:
    assert [kl_weight(s, beta=4.0, warmup_samples=100) for s in (0, 25, 100, 1000)] == [0.0, 1.0, 4.0, 4.0]
    assert kl_weight(1, beta=0.5, warmup_samples=0) == 0.5


def test_importance_weight_is_that_of_torch_distributions() -> None:
    mean, log_var, noise, log_likelihood = random(5, 3), random(5, 3), random(5, 3), random(5)
    q = Normal(mean, (log_var / 2).exp())
    z = mean + (log_var / 2).exp() * noise
    expected = log_likelihood + Normal(0.0, 1.0).log_prob(z).sum(1) - q.log_prob(z).sum(1)
    torch.testing.assert_close(importance_log_weight(log_likelihood, z, noise, log_var), expected)


def test_importance_weighted_bound_by_hand() -> None:
    weight = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
    assert importance_weighted_bound(weight.log()).exp().tolist() == pytest.approx([2.0, 4.0])
    assert importance_weighted_bound(torch.tensor([[-1e4], [-1e4]])).item() == pytest.approx(-1e4)


def test_the_bound_rises_with_the_number_of_samples_to_a_known_likelihood() -> None:
    # p(z) = N(0, 1), p(x|z) = N(z, 1), so p(x) = N(0, 2); q = N(0.3, 1) is a poor guess at x = 1.
    num_draws, log_var = 256, torch.zeros(4000, 1)
    noise = random(num_draws, 4000, 1)
    z = 0.3 + noise
    weight = torch.stack(
        [importance_log_weight(Normal(z[k, :, 0], 1.0).log_prob(torch.tensor(1.0)), z[k], noise[k], log_var)
         for k in range(num_draws)]
    )  # fmt: skip
    bounds = [importance_weighted_bound(weight[:k]).mean().item() for k in (1, 2, 8, 64, 256)]
    truth = Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(1.0)).item()
    assert bounds == sorted(bounds)
    assert bounds[0] < truth - 0.1
    assert bounds[-1] == pytest.approx(truth, abs=0.01)
