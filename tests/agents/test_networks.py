from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from trivium.agents.networks import ActorCritic
from trivium.agents.policies import Categorical, Gaussian


def build(observation_space: gym.Space, action_space: gym.Space, seed: int = 0) -> ActorCritic:
    return ActorCritic(
        observation_space=observation_space,
        action_space=action_space,
        hidden=[16, 8],
        generator=torch.Generator().manual_seed(seed),
    )


def test_weights_are_orthogonal_with_the_gains_of_ppo() -> None:
    net = build(Box(-1, 1, (5,)), Discrete(3))
    gains = {"actor": (2**0.5, 2**0.5, 0.01), "critic": (2**0.5, 2**0.5, 1.0)}
    for name, expected in gains.items():
        layers = [layer for layer in getattr(net, name) if isinstance(layer, torch.nn.Linear)]
        for layer, gain in zip(layers, expected, strict=True):
            weight = layer.weight if layer.weight.shape[0] <= layer.weight.shape[1] else layer.weight.T
            torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), rtol=0, atol=1e-5)
            assert not layer.bias.any()


def test_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first, before = build(Box(-1, 1, (5,)), Discrete(3)), torch.get_rng_state()
    torch.manual_seed(2)
    second = build(Box(-1, 1, (5,)), Discrete(3))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"


def test_spaces() -> None:
    policy, value = build(Discrete(4), Discrete(3))(torch.tensor([0, 3]))
    assert isinstance(policy, Categorical)
    assert policy.logits_BA.shape == (2, 3)
    assert value.shape == (2,)

    net = build(Box(0, 255, (2, 3), np.uint8), Box(-1, 2, (2, 2)))
    assert torch.equal(net.features(torch.full((1, 2, 3), 255, dtype=torch.uint8)), torch.ones(1, 6))
    policy = net.policy(torch.zeros(5, 2, 3, dtype=torch.uint8))
    assert isinstance(policy, Gaussian)
    assert policy.mean_BA.shape == (5, 4)
    assert net.to_env(torch.tensor([[-3.0, 0.5, 7.0, 2.0]])).tolist() == [[[-1.0, 0.5], [2.0, 2.0]]]

    for observation_space, action_space in ((gym.spaces.Tuple([]), Discrete(2)), (Discrete(2), gym.spaces.Tuple([]))):
        with pytest.raises(ValueError, match="valid are"):
            build(observation_space, action_space)


def test_forward_is_policy_and_value() -> None:
    net, obs = build(Box(-1, 1, (5,)), Discrete(3)), torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    policy, value = net(obs)
    assert torch.equal(policy.logits_BA, net.policy(obs).logits_BA)
    assert torch.equal(value, net.value(obs))
