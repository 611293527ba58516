from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from trivium.agents.envs.gym_api import actions_to_numpy, one_by_one
from trivium.agents.policies import Actions, Categorical, Gaussian, MultiCategorical, SquashedGaussian


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise(space: gym.Space, number: int, seed: int = 0) -> Tensor:
    return Actions(space).noise(1, number, torch.Generator().manual_seed(seed))[0]


# discrete actions


def test_categorical_by_hand() -> None:
    policy = Categorical(torch.tensor([[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0)).item()]]))
    log_prob, entropy = policy.log_prob_and_entropy(torch.tensor([0, 1]))
    torch.testing.assert_close(log_prob.exp(), torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(entropy, torch.tensor([0.693147, 0.562335]))
    assert policy.mode().tolist()[1] == 1


def test_categorical_equals_torch() -> None:
    logits = randn(50, 7) * 4
    action = torch.arange(50) % 7
    expected = TorchCategorical(logits=logits)
    log_prob, entropy = Categorical(logits).log_prob_and_entropy(action)
    torch.testing.assert_close(log_prob, expected.log_prob(action))
    torch.testing.assert_close(entropy, expected.entropy())


def test_categorical_samples_with_its_probabilities() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1, 0.0])
    sample = Categorical(probabilities.log().expand(20_000, 4)).sample(noise(Discrete(4), 20_000))
    frequencies = torch.bincount(sample, minlength=4) / 20_000
    torch.testing.assert_close(frequencies, probabilities, rtol=0, atol=0.015)  # 4 standard errors
    assert frequencies[3] == 0


def test_multi_categorical_by_hand() -> None:
    # p = (1/2, 1/2) and (1/4, 3/4): log 1/2 + log 3/4, log 2 + 0.562335
    policy = MultiCategorical(torch.tensor([[0.0, 0.0, 0.0, math.log(3)]]), (2, 2))
    log_prob, entropy = policy.log_prob_and_entropy(torch.tensor([[0, 1]]))
    assert log_prob.item() == pytest.approx(math.log(3 / 8))
    assert entropy.item() == pytest.approx(0.693147 + 0.562335, abs=1e-5)
    assert policy.mode()[0, 1] == 1


@pytest.mark.parametrize("sizes", [(3, 2, 4), (5,), (1, 2)])
def test_multi_categorical_is_the_sum_of_its_heads_in_torch(sizes: tuple[int, ...]) -> None:
    logits = randn(50, sum(sizes)) * 3
    action = torch.stack([torch.arange(50) % n for n in sizes], 1)
    heads = [TorchCategorical(logits=head) for head in logits.split(sizes, 1)]
    log_prob, entropy = MultiCategorical(logits, sizes).log_prob_and_entropy(action)
    torch.testing.assert_close(log_prob, sum(head.log_prob(action[:, h]) for h, head in enumerate(heads)))
    torch.testing.assert_close(entropy, sum(head.entropy() for head in heads))
    assert torch.equal(MultiCategorical(logits, sizes).mode(), torch.stack([h.logits.argmax(1) for h in heads], 1))


def test_multi_categorical_samples_its_heads_independently() -> None:
    first, second = torch.tensor([0.7, 0.3]), torch.tensor([0.1, 0.4, 0.5])
    policy = MultiCategorical(torch.cat((first, second)).log().expand(40_000, 5), (2, 3))
    sample = policy.sample(noise(MultiDiscrete([2, 3]), 40_000))
    assert sample.shape == (40_000, 2)
    frequencies = torch.bincount(sample[:, 0] * 3 + sample[:, 1], minlength=6).view(2, 3) / 40_000
    torch.testing.assert_close(frequencies, torch.outer(first, second), rtol=0, atol=0.01)  # 4 standard errors


# masks


@pytest.mark.parametrize("space", [Discrete(6), MultiDiscrete([2, 4])])
def test_an_invalid_action_has_probability_0_and_the_entropy_is_that_of_the_valid_ones(space: gym.Space) -> None:
    mask = torch.tensor([True, False, True, False, True, True])
    logits, actions = (10 * randn(1, 6)).requires_grad_(), Actions(space)
    policy: Any = actions.policy(logits.expand(5000, 6), None, mask.expand(5000, 6))
    sample = policy.sample(noise(space, 5000)).view(5000, -1)
    starts = torch.tensor([0, 2])[: sample.shape[1]]
    assert mask[sample + starts].all(), "an invalid action was drawn"
    assert mask[policy.mode().view(5000, -1) + starts].all()

    parts = [
        TorchCategorical(logits=part[kept])
        for part, kept in zip(logits[0].split(actions.sizes), mask.split(actions.sizes), strict=True)
    ]
    log_prob, entropy = policy.log_prob_and_entropy(policy.mode())
    torch.testing.assert_close(entropy[0], sum(part.entropy() for part in parts))
    torch.testing.assert_close(log_prob[0], sum(part.probs.max().log() for part in parts))
    probabilities = torch.cat([head.softmax(-1) for head in policy.logits_BS[0].split(actions.sizes)])
    assert (probabilities[~mask] == 0).all(), "not just small"

    (log_prob.mean() + entropy.mean()).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, ~mask] == 0).all(), "what is invalid teaches nothing"


def test_a_single_valid_action_leaves_no_entropy() -> None:
    for space, mask, action in (
        (Discrete(3), [[False, True, False]], torch.tensor([1])),
        (MultiDiscrete([2, 3]), [[True, False, False, False, True]], torch.tensor([[0, 2]])),
        (MultiBinary(2), [[True, False, False, True]], torch.tensor([[0, 1]])),
    ):
        actions = Actions(space)
        policy = actions.policy(randn(1, actions.num_logits), None, torch.tensor(mask))
        log_prob, entropy = policy.log_prob_and_entropy(action)
        assert entropy.item() == 0
        assert log_prob.item() == 0
        assert torch.equal(policy.sample(noise(space, 1)), action)


# Box actions


def test_gaussian_equals_torch() -> None:
    mean, log_std, action = randn(50, 3), torch.tensor([-1.0, 0.0, 0.7]), randn(50, 3, seed=1)
    expected = Independent(Normal(mean, log_std.exp()), 1)
    log_prob, entropy = Gaussian(mean, log_std).log_prob_and_entropy(action)
    torch.testing.assert_close(log_prob, expected.log_prob(action))
    torch.testing.assert_close(entropy, expected.entropy())


def test_a_gaussian_whose_deviation_depends_on_the_state_equals_torch() -> None:
    mean, log_std, action = randn(50, 3), randn(50, 3, seed=2), randn(50, 3, seed=1)
    expected = Independent(Normal(mean, log_std.exp()), 1)
    log_prob, entropy = Gaussian(mean, log_std).log_prob_and_entropy(action)
    torch.testing.assert_close(log_prob, expected.log_prob(action), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(entropy, expected.entropy())


def test_gaussian_samples_with_its_moments() -> None:
    policy = Gaussian(torch.tensor([1.0, -2.0]).expand(20_000, 2), torch.tensor([-1.0, 0.5]))
    sample = policy.sample(noise(Box(-1, 1, (2,)), 20_000))
    torch.testing.assert_close(sample.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(sample.std(0), torch.tensor([-1.0, 0.5]).exp(), rtol=0.03, atol=0)
    assert torch.equal(policy.mode(), policy.mean_BA)


def test_the_log_prob_of_a_squashed_gaussian_equals_torch() -> None:
    """That of tanh u, by the change of variables."""
    mean, log_std, u = randn(50, 3), 0.5 * randn(50, 3, seed=1), 1.5 * randn(50, 3, seed=2)
    inner = Normal(mean.double(), log_std.double().exp())
    expected = Independent(TransformedDistribution(inner, [TanhTransform(cache_size=1)]), 1)
    log_prob, _ = SquashedGaussian(mean, log_std).log_prob_and_entropy(u)
    torch.testing.assert_close(log_prob.double(), expected.log_prob(u.double().tanh()), rtol=1e-5, atol=1e-4)


def test_a_squashed_gaussian_is_a_density_on_the_actions() -> None:
    """It integrates to 1 over (-1, 1), which a density of u would not."""
    action = torch.linspace(-1, 1, 20_003, dtype=torch.float64)[1:-1]
    for mean, log_std in ((0.0, -0.5), (0.8, -0.5), (-0.5, -0.7)):
        policy = SquashedGaussian(torch.tensor([[mean]]).double(), torch.tensor([[log_std]]).double())
        density = policy.log_prob_and_entropy(action.atanh().unsqueeze(1))[0].exp()
        assert density.mean().item() * 2 == pytest.approx(1, abs=2e-3)


def test_a_squashed_gaussian_is_finite_where_tanh_is_1() -> None:
    u = torch.tensor([[-90.0], [20.0], [90.0]], requires_grad=True)
    log_prob, entropy = SquashedGaussian(u, torch.zeros(1)).log_prob_and_entropy(u.detach())
    # log(1 - tanh^2 u) = log 4 - 2 |u|
    torch.testing.assert_close(log_prob, -0.5 * math.log(2 * math.pi) - math.log(4) + 2 * u.detach().abs().flatten())
    (log_prob + entropy).sum().backward()
    assert u.grad is not None
    assert u.grad.isfinite().all()


@pytest.mark.parametrize("log_std", [-3.0, -0.5, 0.0, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("mean", [0.0, 0.7, -1.5, 4.0, 30.0])
def test_the_entropy_of_a_squashed_gaussian_is_that_of_its_samples(mean: float, log_std: float) -> None:
    """-E log p by Monte Carlo, to five standard errors, and its gradient by samples that move with mean and std."""
    parameters = torch.tensor([mean, log_std], dtype=torch.float64).requires_grad_()
    policy = SquashedGaussian(parameters[0].expand(100_000, 1), parameters[1:])
    sample = policy.sample(randn(100_000, 1).double())
    log_prob, entropy = policy.log_prob_and_entropy(sample)
    assert entropy[0].item() == pytest.approx(-log_prob.mean().item(), abs=5 * log_prob.std().item() / 316)
    assert entropy[0].item() <= math.log(2) + 3e-5
    (got,) = torch.autograd.grad(entropy[0], parameters, retain_graph=True)
    (expected,) = torch.autograd.grad(-log_prob.mean(), parameters)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
    assert torch.equal(policy.log_prob(sample), log_prob)


def test_the_entropy_of_a_squashed_gaussian_and_its_gradient_equal_an_integral() -> None:
    """To 3e-5 nats for 25 means and 41 deviations, by a sum over 8001 points each in float64."""
    mean = torch.linspace(-12, 12, 25, dtype=torch.float64).view(-1, 1)
    for log_std in torch.linspace(-5, 5, 41, dtype=torch.float64):
        std = log_std.exp()
        z = torch.linspace(-9, 9, 8001, dtype=torch.float64)
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
        u = mean + std * z
        slope = 2 * (math.log(2) - u.abs() - torch.log1p(torch.exp(-2 * u.abs())))
        expected = log_std + 0.5 * math.log(2 * math.pi * math.e) + (slope * density).sum(1)
        d_mean = (-2 * u.tanh() * density).sum(1)
        d_log_std = 1 + (-2 * u.tanh() * z * std * density).sum(1)

        inputs = mean.float().requires_grad_(), log_std.float().expand(25, 1).requires_grad_()
        _, entropy = SquashedGaussian(*inputs).log_prob_and_entropy(mean.float())
        got = torch.autograd.grad(entropy.sum(), inputs)
        rounding = 1e-6 * (24 + float(std))  # of float32, in sums of numbers of this size
        torch.testing.assert_close(entropy.double(), expected, rtol=0, atol=3e-5 + rounding)
        torch.testing.assert_close(got[0].double().flatten(), d_mean, rtol=0, atol=3e-5 + rounding)
        torch.testing.assert_close(got[1].double().flatten(), d_log_std, rtol=0, atol=3e-5 * float(std) + rounding)


def test_the_entropy_of_a_squashed_gaussian_stays_finite_far_out() -> None:
    values = torch.tensor([-1e6, -300.0, 0.0, 300.0, 1e6]).view(-1, 1).requires_grad_()
    for log_std in (-20.0, 0.0, 20.0):
        at = torch.full((5, 1), log_std).requires_grad_()
        log_prob, entropy = SquashedGaussian(values, at).log_prob_and_entropy(values.detach())
        assert entropy.isfinite().all()
        assert log_prob.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(entropy.sum(), (values, at)))


@pytest.mark.parametrize("log_std", [-3.0, 3.0])
def test_the_largest_entropy_is_near_that_of_the_uniform_distribution(log_std: float) -> None:
    """Maximising it ends, from a small deviation and from a large one, instead of letting the deviation grow."""
    mean, log_std_A = torch.tensor([[1.5]]).requires_grad_(), torch.tensor([log_std]).requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std_A], lr=0.2)
    for _ in range(120):
        _, entropy = SquashedGaussian(mean, log_std_A).log_prob_and_entropy(mean.detach())
        optimizer.zero_grad()
        (-entropy.sum()).backward()
        optimizer.step()
    assert math.log(2) - 0.02 < entropy.item() <= math.log(2)
    assert mean.item() == pytest.approx(0, abs=0.01)
    assert log_std_A.exp().item() == pytest.approx(0.87, abs=0.02)


# what the envs are given


def test_actions_are_clipped_to_the_bounds_in_the_space_s_shape() -> None:
    actions = Actions(Box(np.float32([[-1, 0], [-np.inf, 2]]), np.float32([[1, 3], [np.inf, 2]])))
    assert actions.num_logits == 4
    got = actions.to_env(torch.tensor([[-7.0, 1.5, -1e6, 9.0]]))
    assert got.tolist() == [[[-1, 1.5], [-1e6, 2]]]
    assert Actions(Box(-1, 1, ())).to_env(torch.tensor([[3.0], [0.5]])).tolist() == [1, 0.5]


def test_squashed_actions_fill_the_bounds_and_never_leave_them() -> None:
    actions = Actions(Box(np.float32([0, -2]), np.float32([1, 6])), squash=True)
    assert actions.to_env(torch.tensor([[0.0, 0.0], [50.0, -50.0]])).tolist() == [[0.5, 2], [1, -2]]
    u = torch.cat((torch.linspace(-50, 50, 101), 3 * randn(400))).unsqueeze(1).expand(-1, 2000)
    bounds = np.sort(np.float32(10) * np.random.default_rng(0).normal(size=(2, 2000)).astype(np.float32), axis=0)
    space = Box(bounds[0], bounds[1])
    got = Actions(space, squash=True).to_env(u).numpy()
    assert ((got >= space.low) & (got <= space.high)).all(), "by not a bit"


BOXES = [
    Box(-0.3, 0.3, (1,), np.float64),
    Box(np.array([1e9]), np.array([1e9 + 1]), dtype=np.float64),
    Box(-1e308, 1e308, (1,), np.float64),
    Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1,), np.float32),
    Box(-0.1, 0.7, (1,), np.float16),
    Box(np.array([0.0], np.float32), np.array([np.inf], np.float32)),
    Box(-np.inf, np.inf, (1,), np.float16),
    Box(-np.inf, np.inf, (), np.float64),
    Box(0, 255, (1,), np.uint8),
    Box(-3, 2, (), np.int8),
    Box(-(2**63), 2**63 - 1, (1,), np.int64),
    Box(0, 2**64 - 1, (1,), np.uint64),
]


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("space", BOXES, ids=str)
def test_what_an_env_is_given_lies_in_its_space_in_its_dtype(space: Box, squash: bool) -> None:
    if squash and not space.is_bounded():
        return
    u = torch.tensor([-3e38, -1e6, -50.0, -1.0, -0.2, 0.0, 0.3, 1.0, 50.0, 1e6, 3e38]).unsqueeze(1)
    given = one_by_one(space, actions_to_numpy(space, Actions(space, squash=squash).to_env(u)))
    for one in given:
        assert isinstance(one, np.ndarray)
        assert one.dtype == space.dtype
        assert space.contains(one), one
        assert np.isfinite(one).all()
    if squash:
        assert given[0] == space.low
        assert given[-1] == space.high
        assert space.low < given[5] < space.high


@pytest.mark.parametrize("space", [Box(0, 4, (1,), np.int64), Box(-1, 1, (1,), np.int32), Box(0, 255, (1,), np.uint8)])
def test_under_squash_each_integer_has_an_equal_share(space: Box) -> None:
    """Of actions whose tanh is uniform, exactly; the outer ones too."""
    number = int(space.high[0]) - int(space.low[0]) + 1
    part = (torch.arange(100 * number, dtype=torch.float64) + 0.5) / (100 * number)
    actions = actions_to_numpy(space, Actions(space, squash=True).to_env((2 * part - 1).atanh().unsqueeze(1)))
    values, counts = np.unique(actions, return_counts=True)
    assert values.tolist() == list(range(int(space.low[0]), int(space.high[0]) + 1))
    assert set(counts) == {100}


def test_without_squash_each_integer_is_what_is_nearest_to_it() -> None:
    space = Box(-2, 2, (1,), np.int32)
    u = torch.tensor([-9.0, -1.6, -1.4, -0.6, -0.4, 0.4, 0.6, 1.4, 1.6, 9.0]).unsqueeze(1)
    got = actions_to_numpy(space, Actions(space).to_env(u))
    assert got.flatten().tolist() == [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (Discrete(3, start=5), torch.tensor([0, 2])),
        (MultiDiscrete([[2, 3], [4, 2]]), torch.tensor([[0, 0, 0, 0], [1, 2, 3, 1]])),
        (MultiDiscrete([2, 3], start=[1, -1]), torch.tensor([[0, 0], [1, 2]])),
        (MultiBinary((2, 2)), torch.tensor([[0, 1, 0, 1], [1, 1, 1, 1]])),
    ],
)
def test_discrete_actions_are_what_the_space_samples(space: gym.Space, action: torch.Tensor) -> None:
    for one in one_by_one(space, actions_to_numpy(space, action)):
        assert space.contains(one)
        assert type(one) is type(space.sample())
        assert one.dtype == space.dtype


def test_multi_binary_is_a_head_of_two_choices_a_bit() -> None:
    actions = Actions(MultiBinary((2, 2)))
    assert actions.sizes == (2, 2, 2, 2)
    policy = actions.policy(torch.tensor([[0.0, 9, 9, 0, 0, 9, 9, 0]]), None, None)
    assert policy.mode().tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("space", "squash", "message"),
    [
        (Box(-np.inf, 1, (1,)), True, "agent.squash=true needs bounds, the action space is Box"),
        (Discrete(2), True, "agent.squash=true is for Box actions, the action space is Discrete"),
        (gym.spaces.Text(3), False, "the action space Text.*: valid are Discrete, MultiDiscrete, MultiBinary, Box"),
    ],
)
def test_what_is_wrong_is_named(space: gym.Space, squash: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Actions(space, squash=squash)
