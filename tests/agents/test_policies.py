from __future__ import annotations

import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal

from trivium.agents.policies import Categorical, Gaussian


def test_categorical_by_hand() -> None:
    policy = Categorical(torch.tensor([[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0)).item()]]))
    log_prob, entropy = policy.log_prob_and_entropy(torch.tensor([0, 1]))
    torch.testing.assert_close(log_prob.exp(), torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(entropy, torch.tensor([0.693147, 0.562335]))
    assert policy.mode().tolist()[1] == 1


def test_categorical_equals_torch() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 4
    action = torch.arange(50) % 7
    expected = TorchCategorical(logits=logits)
    log_prob, entropy = Categorical(logits).log_prob_and_entropy(action)
    torch.testing.assert_close(log_prob, expected.log_prob(action))
    torch.testing.assert_close(entropy, expected.entropy())


def test_categorical_samples_with_its_probabilities() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1, 0.0])
    sample = Categorical(probabilities.log().expand(20_000, 4)).sample(torch.Generator().manual_seed(0))
    frequencies = torch.bincount(sample, minlength=4) / 20_000
    torch.testing.assert_close(frequencies, probabilities, rtol=0, atol=0.015)  # 4 standard errors
    assert frequencies[3] == 0


def test_gaussian_equals_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(50, 3, generator=generator), torch.tensor([-1.0, 0.0, 0.7])
    action = torch.randn(50, 3, generator=generator)
    expected = Independent(Normal(mean, log_std.exp()), 1)
    log_prob, entropy = Gaussian(mean, log_std).log_prob_and_entropy(action)
    torch.testing.assert_close(log_prob, expected.log_prob(action))
    torch.testing.assert_close(entropy, expected.entropy())


def test_gaussian_samples_with_its_moments() -> None:
    policy = Gaussian(torch.tensor([1.0, -2.0]).expand(20_000, 2), torch.tensor([-1.0, 0.5]))
    sample = policy.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(sample.std(0), torch.tensor([-1.0, 0.5]).exp(), rtol=0.03, atol=0)
    assert torch.equal(policy.mode(), policy.mean_BA)
