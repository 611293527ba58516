from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from trivium.agents.networks.actor_critic import ActorCritic, Encoder, Memory, Tanh, image_shape
from trivium.agents.observations import Layout
from trivium.agents.policies import Actions, Categorical, Gaussian


def build(observation_space: gym.Space, action_space: gym.Space, seed: int = 0) -> ActorCritic:
    return ActorCritic(
        observation_space=observation_space,
        actions=Actions(action_space),
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
    policy, value, _ = build(Discrete(4), Discrete(3))(torch.tensor([0, 3]))
    assert isinstance(policy, Categorical)
    assert policy.logits_BS.shape == (2, 3)
    assert value.shape == (2,)

    net = build(Box(0, 255, (2, 3), np.uint8), Box(-1, 2, (2, 2)))
    assert torch.equal(net.encoder(torch.full((1, 2, 3), 255, dtype=torch.uint8)), torch.ones(1, 6))
    policy, _, _ = net(torch.zeros(5, 2, 3, dtype=torch.uint8))
    assert isinstance(policy, Gaussian)
    assert policy.mean_BA.shape == (5, 4)
    assert net.actions.to_env(torch.tensor([[-3.0, 0.5, 7.0, 2.0]])).tolist() == [[[-1.0, 0.5], [2.0, 2.0]]]

    for observation_space, action_space in ((gym.spaces.Text(3), Discrete(2)), (Discrete(2), gym.spaces.Tuple([]))):
        with pytest.raises(ValueError, match="valid are"):
            build(observation_space, action_space)


def test_forward_is_policy_and_value() -> None:
    net, obs = build(Box(-1, 1, (5,)), Discrete(3)), torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    policy, value, states = net(obs)
    alone = net(obs, value=False), net(obs, policy=False)
    assert torch.equal(policy.logits_BS, alone[0][0].logits_BS)
    assert torch.equal(value, alone[1][1])
    assert alone[0][1:] == (None, None)
    assert alone[1][::2] == (None, None)
    assert states is None


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tanh_is_tanh_on_both_ways() -> None:
    for number in (100, 10_000):
        x = torch.linspace(-50, 50, number)
        torch.testing.assert_close(Tanh()(x), x.tanh(), rtol=0, atol=2e-7)


# encoders


def encoder(space: gym.Space, images: Any = "nature", normalized: bool = False, channels: Any = None) -> Encoder:
    return Encoder(space, images=images, channels=channels, normalized=normalized, generator=generator())


def packed(space: gym.Space, *observations: Any) -> torch.Tensor:
    layout = Layout(space)
    return torch.from_numpy(np.stack([layout.pack(obs) for obs in observations]))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84, 3), (3, 84, 84)),
        ((84, 80, 1), (1, 84, 80)),
        ((4, 84, 80), (4, 84, 80)),  # frames
        ((4, 84, 80, 3), (12, 84, 80)),  # frames of colours
        ((3, 48, 48), (3, 48, 48)),  # colours first
        ((4, 3, 48, 48), (12, 48, 48)),
        ((4, 1, 48, 48), (4, 48, 48)),
        ((48, 48, 2), (2, 48, 48)),
        ((48, 48, 6), (6, 48, 48)),
        ((6, 48, 48), (6, 48, 48)),
        ((3, 48, 48, 2), (6, 48, 48)),
        ((210, 160, 3), (3, 210, 160)),
        ((3, 210, 160), (3, 210, 160)),
        ((4, 210, 160, 3), (12, 210, 160)),
        ((2, 40, 60), (2, 40, 60)),
        ((40, 60, 2), (2, 40, 60)),
        ((16, 128, 3), (3, 16, 128)),
        ((3, 16, 128), (3, 16, 128)),
        ((8, 8, 111), (111, 8, 8)),  # boards of more planes than squares
        ((111, 8, 8), (111, 8, 8)),
        ((6, 7, 4), (4, 6, 7)),
        ((48, 48, 1), (1, 48, 48)),
        ((84, 84), None),
        ((6,), None),
        ((), None),
        ((0, 4, 4), None),
    ],
)
def test_image_shape(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    assert image_shape(shape) == expected


@pytest.mark.parametrize(
    ("shape", "first", "last"),
    [
        ((48, 48, 48), (48, 48, 48), (48, 48, 48)),
        ((3, 48, 3), (3, 48, 3), (3, 3, 48)),
        ((10, 9, 20), (10, 9, 20), (20, 10, 9)),
        ((30, 40, 28), (30, 40, 28), (28, 30, 40)),
        ((4, 9, 9, 9), (36, 9, 9), (36, 9, 9)),
        ((48, 48, 3, 4), (48 * 48, 3, 4), (48 * 4, 48, 3)),  # frames at the end
    ],
)
def test_an_image_that_does_not_tell_where_its_channels_are_is_refused_until_it_is_said(
    shape: tuple[int, ...], first: tuple[int, ...], last: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"agent.channels=first or agent.channels=last") as error:
        encoder(Box(0, 255, shape, np.uint8), "impala")
    assert str(list(shape)) in str(error.value)
    assert image_shape(shape, "first") == first
    assert image_shape(shape, "last") == last


@pytest.mark.parametrize("shape", [(84, 84, 3), (4, 84, 84), (2, 40, 36, 3)])
def test_the_cnn_of_nature(shape: tuple[int, ...]) -> None:
    net = encoder(Box(0, 255, shape, np.uint8))
    sizes = [(c.in_channels, c.out_channels, *c.kernel_size, *c.stride) for c in net.cnns["0"][:6:2]]
    channels, height, _ = image_shape(shape)  # type: ignore[misc]
    assert sizes == [(channels, 32, 8, 8, 4, 4), (32, 64, 4, 4, 2, 2), (64, 64, 3, 3, 1, 1)]
    if height == 84:
        assert net.cnns["0"][-2].in_features == 3136, "as in the paper"
    assert net(torch.zeros(5, *shape, dtype=torch.uint8)).shape == (5, 512)
    assert net.size == 512


@pytest.mark.parametrize("shape", [(84, 84, 3), (4, 10, 9), (12, 12, 1)])
def test_the_cnn_of_impala(shape: tuple[int, ...]) -> None:
    net = encoder(Box(0, 255, shape, np.uint8), images="impala")
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 3 * (1 + 2 * 2)
    assert [c.out_channels for c in convolutions] == [16] * 5 + [32] * 10
    if shape == (84, 84, 3):
        assert net.cnns["0"][-2].in_features == 32 * 11 * 11, "as in the paper"
    assert net(torch.zeros(5, *shape, dtype=torch.uint8)).shape == (5, net.size) == (5, 256)


def test_channels_and_frames_are_where_the_cnn_looks_for_them() -> None:
    """The same picture in each of the layouts; a CNN that takes one channel's mean tells them apart."""

    class Means(torch.nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return x_BCHW.mean((2, 3)) * 255

    layouts: list[tuple[tuple[int, ...], Any, Any]] = [
        ((9, 9, 3), np.s_[:, :, 1], None),
        ((5, 9, 9), np.s_[1], None),
        ((2, 9, 9, 3), np.s_[0, :, :, 1], None),
        ((2, 3, 9, 9), np.s_[0, 1], None),
        ((9, 9, 6), np.s_[:, :, 1], None),
        ((9, 9, 9), np.s_[1], "first"),
        ((9, 9, 9), np.s_[:, :, 1], "last"),
    ]
    for shape, index, channels in layouts:
        net = encoder(Box(0, 255, shape, np.uint8), images="impala", channels=channels)
        net.cnns["0"] = Means()
        picture = np.zeros(shape, np.uint8)
        picture[index] = 7
        expected = [0.0, 7.0] + [0.0] * (image_shape(shape, channels)[0] - 2)  # type: ignore[index]
        assert net(torch.from_numpy(picture).unsqueeze(0))[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalized", [False, True])
def test_boxes_without_dimensions_and_without_numbers(normalized: bool) -> None:
    net = encoder(Box(-1, 1, ()), normalized=normalized)
    assert net(torch.tensor([0.25, -0.5])).tolist() == [[0.25], [-0.5]]
    assert encoder(Box(0, 255, (), np.uint8))(torch.tensor([51, 255], dtype=torch.uint8)).tolist() == [
        [pytest.approx(0.2)],
        [1.0],
    ]
    space = Dict({"a": Box(-1, 1, ()), "b": Box(-1, 1, (2,)), "c": Box(-1, 1, (0, 3)), "d": Box(0, 9, (0,), np.uint8)})
    obs = {"a": np.float32(0.5), "b": np.array([0.25, -1]), "c": np.zeros((0, 3)), "d": np.zeros(0)}
    net = encoder(space, normalized=normalized)
    assert net.size == 3
    assert net(packed(space, obs, obs)).tolist() == [[0.5, 0.25, -1.0]] * 2


@pytest.mark.parametrize("space", [Box(-1, 1, (0,)), Box(0, 255, (0, 4, 4), np.uint8), Dict({"a": Box(-1, 1, (0,))})])
def test_an_observation_of_no_numbers_is_refused(space: gym.Space) -> None:
    with pytest.raises(ValueError, match=r"^the observation space .* holds no numbers$"):
        encoder(space)


def test_numbers_of_each_kind_by_hand() -> None:
    space = Dict({
        "one": Discrete(3, start=1), "bytes": Box(0, 255, (2,), np.uint8), "floats": Box(-9, 9, (2,)),
        "heads": MultiDiscrete([2, 3]), "bits": MultiBinary(2),
    })  # fmt: skip
    net = encoder(space)
    obs = {
        "one": 2, "bytes": np.array([51, 255]), "floats": np.array([-3, 4]), "heads": np.array([1, 0]), "bits": [1, 0]
    }  # fmt: skip
    got = net(packed(space, obs))[0].tolist()
    assert sorted(got) == pytest.approx(sorted([0, 1, 0, 0.2, 1, -3, 4, 0, 1, 1, 0, 0, 1, 0]))
    assert net.size == len(got) == 14
    assert net.num_floats == 4
    assert sorted(got[:4]) == [-3, 0, 1, 4], "floats first"


def test_a_composed_observation_gives_the_features_of_its_parts() -> None:
    """Of a Dict or Tuple of two boxes as of the one box that holds both, whatever the nesting; masks are left out."""
    flat, x = encoder(Box(-1, 1, (5,))), np.linspace(-1, 1, 5).astype(np.float32)
    expected = flat(torch.from_numpy(x).unsqueeze(0))
    a, b = Box(-1, 1, (2,)), Box(-1, 1, (3,))
    for space, obs in (
        (Dict({"a": a, "b": b}), {"a": x[:2], "b": x[2:]}),
        (Tuple([a, b]), (x[:2], x[2:])),
        (Tuple([a, Dict({"b": b})]), (x[:2], {"b": x[2:]})),
        (Dict({"a": a, "b": b, "action_mask": MultiBinary(2)}), {"a": x[:2], "b": x[2:], "action_mask": [1, 0]}),
    ):
        assert torch.equal(encoder(space)(packed(space, obs)), expected)


def test_a_composed_observation_gives_the_policy_of_the_flat_one() -> None:
    space = Dict({"a": Box(-1, 1, (2,)), "b": Box(-1, 1, (3,))})
    x = np.linspace(-1, 1, 5).astype(np.float32)
    policy, value, _ = build(Box(-1, 1, (5,)), Discrete(3))(torch.from_numpy(x).unsqueeze(0))
    other, other_value, _ = build(space, Discrete(3))(packed(space, {"a": x[:2], "b": x[2:]}))
    assert torch.equal(policy.logits_BS, other.logits_BS)
    assert torch.equal(value, other_value)


def test_the_mask_of_an_observation_applies_to_the_policy() -> None:
    space = Dict({"x": Box(-1, 1, (2,)), "action_mask": MultiBinary(3)})
    obs = packed(space, {"x": np.zeros(2), "action_mask": [0, 1, 0]}, {"x": np.zeros(2), "action_mask": [1, 1, 0]})
    policy, _, _ = build(space, Discrete(3))(obs)
    probabilities = policy.logits_BS.softmax(1)
    assert probabilities[0].tolist() == [0, 1, 0]
    assert probabilities[1, 2] == 0
    assert policy.log_prob_and_entropy(torch.tensor([1, 0]))[1][0] == 0


def test_only_floats_are_normalised_and_clipped() -> None:
    space = Dict({"x": Box(-1, 1, (2,)), "n": Discrete(2)})
    net = encoder(space, normalized=True)
    assert net.mean.shape == (2,)
    net.mean.copy_(torch.tensor([1.0, 0.0]))
    net.scale.copy_(torch.tensor([2.0, 100.0]))
    assert net(packed(space, {"x": np.array([2.5, -1.0]), "n": 1})).tolist() == [[3, -10, 0, 1]]
    assert set(dict(net.named_buffers())) == {"mean", "scale"}, "saved with the network"
    assert not dict(encoder(space).named_buffers())


def test_an_image_too_small_for_its_cnn_is_named() -> None:
    with pytest.raises(ValueError, match=r"agent.images=nature needs sides of at least 36, got \(3, 84, 35\); impala"):
        encoder(Box(0, 255, (84, 35, 3), np.uint8))


# deviations, memories


def test_a_deviation_that_depends_on_the_state_begins_where_it_is_told_to() -> None:
    net = ActorCritic(
        observation_space=Box(-1, 1, (5,)), actions=Actions(Box(-1, 1, (2,))), hidden=[8], std="state", log_std=-1.5,
        generator=generator(),
    )  # fmt: skip
    obs = torch.randn(6, 5, generator=generator())
    policy, _, _ = net(obs)
    assert policy.mean_BA.shape == policy.log_std_BA.shape == (6, 2)
    torch.testing.assert_close(policy.log_std_BA, torch.full((6, 2), -1.5), rtol=0, atol=0.1)
    assert not torch.equal(policy.log_std_BA[0], policy.log_std_BA[1])
    assert net.log_std_A is None
    with torch.no_grad():
        net.actor[-1].bias.copy_(torch.tensor([0.0, 0.0, 99.0, -99.0]))  # type: ignore[union-attr]
    assert net(obs)[0].log_std_BA[0].tolist() == [2, -20], "no overflow"
    free = build(Box(-1, 1, (5,)), Box(-1, 1, (2,)))
    assert isinstance(free.log_std_A, torch.nn.Parameter)


@pytest.mark.parametrize(("kind", "reference"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)])
def test_a_memory_is_the_layer_of_torch_within_an_episode(kind: Any, reference: Any) -> None:
    memory, theirs = Memory(kind, 3, 4, generator=generator()), reference(3, 4)
    theirs.load_state_dict({f"{name}_l0": value for name, value in memory.cell.state_dict().items()})
    x = torch.randn(7, 5, 3, generator=generator())
    states = memory.sequence(x, torch.zeros(5, memory.state_size), torch.zeros(7, 5, dtype=torch.bool))
    assert states.shape == (7, 5, memory.state_size)
    torch.testing.assert_close(states[:, :, :4], theirs(x)[0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_memory_begins_anew_with_each_episode_and_goes_on_from_its_state(kind: Any) -> None:
    memory, x = Memory(kind, 3, 4, generator=generator()), torch.randn(7, 2, 3, generator=generator())
    begins = torch.zeros(7, 2, dtype=torch.bool)
    begins[3, 0] = True
    state = torch.randn(2, memory.state_size, generator=generator(1))
    states = memory.sequence(x, state, begins)
    anew = memory.sequence(x[3:], torch.zeros_like(state), begins[3:])
    torch.testing.assert_close(states[3:, 0], anew[:, 0])
    assert not torch.allclose(states[3:, 1], anew[:, 1])
    going_on = memory.sequence(x[2:], states[1], begins[2:])
    torch.testing.assert_close(states[2:], going_on)
    for name, parameter in memory.named_parameters():
        if "bias" in name:
            assert not parameter.any()
        else:
            torch.testing.assert_close(parameter.T @ parameter, torch.eye(parameter.shape[1]), rtol=0, atol=1e-5)
