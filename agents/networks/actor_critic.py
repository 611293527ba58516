"""The networks of the agents: encoders of observations, a memory, orthogonally initialised MLPs for actor and critic.

Shapes: B batch, T time, N envs, D features, S logits or action dimensions, M numbers in a memory's state, C H W: image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.agents.networks.image_axes import Channels, image_axes, image_shape
from trivium.agents.observations import Layout, Leaf
from trivium.agents.policies import Actions, Policy, head_sizes

CLIP = 10.0  # what is further than so many standard deviations from the mean is clipped
Images = Literal["nature", "impala"]


def affine(x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """x W^T + b, float32 [B, O]: `F.linear`, whose gradient is cheaper where a compiled layer widens.

    The gradient of W is g^T x, with few columns if there are few inputs, for which MKL takes several times as long as
    for its transpose x^T g. Autograd computes the one that has W's layout in memory.
    """
    if torch.compiler.is_compiling() and x_BI.ndim == 2 and weight_OI.shape[1] < weight_OI.shape[0]:
        return torch.addmm(bias_O, x_BI, weight_OI.t().contiguous())
    return F.linear(x_BI, weight_OI, bias_O)


class Linear(nn.Linear):
    """`nn.Linear` by way of `affine`, its parameters yet to be drawn."""

    def reset_parameters(self) -> None:
        pass  # `nn.utils.skip_init` takes the meta device, for which torch imports sympy: a third of a second

    def forward(self, input: Tensor) -> Tensor:
        return affine(input, self.weight, self.bias)


def linear(num_inputs: int, num_outputs: int, *, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights scaled by `gain` and zero bias.

    Drawn from `generator` only: the weights of a seed do not depend on who used torch's global generator before.
    """
    layer = Linear(num_inputs, num_outputs)
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def convolution(i: int, o: int, size: int, *, stride: int, padding: int = 0, generator: torch.Generator) -> nn.Conv2d:
    """A convolution initialised as `linear`, with the gain of a rectifier, sqrt 2."""
    layer: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, i, o, size, stride=stride, padding=padding)
    nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Tanh(nn.Module):
    """tanh x = 2 / (1 + exp(-2 x)) - 1, to an absolute error of 1e-7.

    On a CPU `torch.tanh` takes 3 ns a number, a quarter of an update's time; this takes less than 1."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() < 8192 and not torch.compiler.is_compiling():
            return x.tanh()  # one operation instead of three
        return 2 * torch.sigmoid(2 * x) - 1


def mlp(
    num_inputs: int, hidden: Sequence[int], num_outputs: int, *, out_gain: float, generator: torch.Generator
) -> nn.Sequential:
    """Tanh layers of the widths in `hidden` (gain sqrt 2), then a linear one (gain `out_gain`)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [linear(num_inputs, width, gain=math.sqrt(2), generator=generator), Tanh()]
        num_inputs = width
    return nn.Sequential(*layers, linear(num_inputs, num_outputs, gain=out_gain, generator=generator))


def nature_cnn(channels: int, height: int, width: int, *, generator: torch.Generator) -> nn.Sequential:
    """The convolutions of DQN (Nature 518, 529, 2015): three, and a layer of 512; sides of at least 36."""
    layers = nn.Sequential(
        convolution(channels, 32, 8, stride=4, generator=generator),
        nn.ReLU(),
        convolution(32, 64, 4, stride=2, generator=generator),
        nn.ReLU(),
        convolution(64, 64, 3, stride=1, generator=generator),
        nn.ReLU(),
        nn.Flatten(),
    )
    size = layers(torch.zeros(1, channels, height, width)).numel()
    return layers.extend([linear(size, 512, gain=math.sqrt(2), generator=generator), nn.ReLU()])


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), see `impala_cnn`."""

    def __init__(self, channels: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.first = convolution(channels, channels, 3, stride=1, padding=1, generator=generator)
        self.second = convolution(channels, channels, 3, stride=1, padding=1, generator=generator)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        change_BCHW: Tensor = self.second(self.first(x_BCHW.relu()).relu())
        return x_BCHW + change_BCHW


def impala_cnn(channels: int, height: int, width: int, *, generator: torch.Generator) -> nn.Sequential:
    """The large network of IMPALA (arXiv:1802.01561): 16, 32, 32 channels, each a convolution, a pooling by 2 and two
    residual blocks; and a layer of 256. For images of any size."""
    layers, num_inputs = nn.Sequential(), channels
    for depth in (16, 32, 32):
        layers.extend(
            [
                convolution(num_inputs, depth, 3, stride=1, padding=1, generator=generator),
                nn.MaxPool2d(3, stride=2, padding=1),
                Residual(depth, generator=generator),
                Residual(depth, generator=generator),
            ]
        )
        num_inputs = depth
    layers.extend([nn.ReLU(), nn.Flatten()])
    size = layers(torch.zeros(1, channels, height, width)).numel()
    return layers.extend([linear(size, 256, gain=math.sqrt(2), generator=generator), nn.ReLU()])


class Encoder(nn.Module):
    """Observations as the envs give them, [B, ...], to float32 [B, D]: the features of all leaves, concatenated.

    Boxes of floats are flattened, and normalised by the buffers `mean` and `scale` if there are any; images, uint8
    with three dimensions or four, go through a CNN; other uint8 are divided by 255; Discrete become one-hot.

    Args:
        observation_space: see `Layout`.
        images: the CNN, `nature_cnn` or `impala_cnn`.
        channels: where images have theirs, see `image_axes`; None: as their shapes tell.
        normalized: make the buffers.
        generator: on the CPU; all initial weights come from it.

    Attributes:
        size: D.
        mean, scale: float32 [F], over the concatenated Boxes of floats.

    Raises:
        ValueError: a kind of space that is not supported, or no numbers in it, or an image that is too small for its
            CNN or does not tell where its channels are.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        observation_space: gym.Space,
        *,
        images: Images = "nature",
        channels: Channels | None = None,
        normalized: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layout = Layout(observation_space)
        self.normalized = normalized
        self.num_choices = [head_sizes(leaf.space) for leaf in self.layout.leaves]  # NumPy's numbers break graphs
        self.cnns = nn.ModuleDict()
        self.axes: dict[int, Channels] = {}  # where the channels are, of the leaves that are images
        self.size = self.num_floats = 0
        for i, leaf in enumerate(self.layout.leaves):
            axis = image_axes(leaf.shape, channels) if leaf.dtype == np.uint8 else None
            shape = image_shape(leaf.shape, axis)
            if axis is not None and shape is not None:
                self.axes[i] = axis
                if images == "nature" and min(shape[1:]) < 36:
                    raise ValueError(f"agent.images=nature needs sides of at least 36, got {shape}; impala takes any")
                cnn = (nature_cnn if images == "nature" else impala_cnn)(*shape, generator=generator)
                self.cnns[str(i)] = cnn
                self.size += [layer for layer in cnn if isinstance(layer, nn.Linear)][-1].out_features
            elif leaf.dtype == np.int64:
                self.size += sum(head_sizes(leaf.space))
            else:
                self.size += math.prod(leaf.shape)
                self.num_floats += math.prod(leaf.shape) if leaf.dtype == np.float32 else 0
        if not self.size:
            raise ValueError(f"the observation space {observation_space} holds no numbers")
        if normalized:
            self.register_buffer("mean", torch.zeros(self.num_floats))
            self.register_buffer("scale", torch.ones(self.num_floats))

    @property
    def has_images(self) -> bool:
        return len(self.cnns) > 0

    def floats(self, obs: Tensor) -> Tensor:
        """The Boxes of floats of observations [B, ...] as they are, float32 [B, F]."""
        leaves = [leaf for leaf in self.layout.leaves if leaf.dtype == np.float32]
        return torch.cat([_rows(self.layout.unpack(obs, leaf), leaf) for leaf in leaves], 1)

    def forward(self, obs: Tensor) -> Tensor:
        parts = []
        if self.num_floats:
            floats_BF = self.floats(obs)
            if self.normalized:
                floats_BF = ((floats_BF - self.mean) * self.scale).clamp(-CLIP, CLIP)
            parts.append(floats_BF)
        for i, leaf in enumerate(self.layout.leaves):
            if leaf.dtype != np.float32:
                parts.append(self._encoded(i, leaf, self.layout.unpack(obs, leaf)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _encoded(self, i: int, leaf: Leaf, value: Tensor) -> Tensor:
        if str(i) in self.cnns:
            image = value.float() / 255
            if self.axes[i] == "last":
                image = image.movedim(-1, -3)
            encoded: Tensor = self.cnns[str(i)](image.flatten(1, -3))
            return encoded
        if leaf.dtype == np.uint8:
            return _rows(value, leaf) / 255
        heads = zip(_rows(value, leaf).unbind(1), self.num_choices[i], strict=True)
        return torch.cat([F.one_hot(choice, n) for choice, n in heads], 1).float()


def _rows(value: Tensor, leaf: Leaf) -> Tensor:
    """A leaf's numbers, [B, *leaf.shape], as [B, ...]; also of no dimensions, or of no numbers."""
    return value.reshape(value.shape[0], math.prod(leaf.shape))


class Memory(nn.Module):
    """A recurrent layer whose state begins anew with each episode: an LSTM (Hochreiter, Schmidhuber 1997) or a GRU
    (arXiv:1406.1078).

    Args:
        kind: which.
        num_inputs: D.
        size: H, of the output; the state has M = H numbers, or 2 H of an LSTM (the output, then the cell).
        generator: on the CPU; orthogonal weights (gain 1) come from it.
    """

    def __init__(self, kind: Literal["lstm", "gru"], num_inputs: int, size: int, *, generator: torch.Generator) -> None:
        super().__init__()
        cell = nn.LSTMCell if kind == "lstm" else nn.GRUCell
        self.cell: nn.LSTMCell | nn.GRUCell = nn.utils.skip_init(cell, num_inputs, size)
        for name, parameter in self.cell.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.orthogonal_(parameter, generator=generator)
        self.size = size
        self.state_size = 2 * size if kind == "lstm" else size

    def forward(self, features_ND: Tensor, state_NM: Tensor) -> Tensor:
        """The next state, float32 [N, M]; its first H numbers are the output."""
        if isinstance(self.cell, nn.LSTMCell):
            h_NH, c_NH = state_NM.split(self.size, 1)
            return torch.cat(self.cell(features_ND, (h_NH, c_NH)), 1)
        state: Tensor = self.cell(features_ND, state_NM)
        return state

    def sequence(self, features_TND: Tensor, state_NM: Tensor, begins_TN: Tensor) -> Tensor:
        """The states after each step, float32 [T, N, M].

        Args:
            state_NM: before the first step.
            begins_TN: bool [T, N], an episode begins with this step: the state before it is 0.
        """
        states = []
        for features_ND, begins_N in zip(features_TND.unbind(), begins_TN.unbind(), strict=True):
            state_NM = self(features_ND, state_NM.masked_fill(begins_N.unsqueeze(1), 0.0))
            states.append(state_NM)
        return torch.stack(states)


class ActorCritic(nn.Module):
    """A policy and a value of the same observation: encoder, memory if there is one, and an MLP each.

    What has parameters before the MLPs (CNNs, the memory) is shared by both. With a memory the observations of a call
    are those of T steps of N envs, [T * N, ...], all envs of a step together.

    Args:
        observation_space: see `Encoder`; a mask in it applies to the policy.
        actions: of the envs.
        hidden: widths of the hidden layers, of each MLP.
        generator: on the CPU; all initial weights come from it.
        normalized: see `Encoder`.
        images, channels: see `Encoder`.
        memory: `lstm`, `gru`, or None.
        memory_size: of its output.
        std: of Box actions: `free`, a parameter for each dimension, or `state`, by the network.
        log_std: where it begins.

    Raises:
        ValueError: a space that is not supported.
    """

    def __init__(
        self,
        *,
        observation_space: gym.Space,
        actions: Actions,
        hidden: Sequence[int],
        generator: torch.Generator,
        normalized: bool = False,
        images: Images = "nature",
        channels: Channels | None = None,
        memory: Literal["lstm", "gru"] | None = None,
        memory_size: int = 128,
        std: Literal["free", "state"] = "free",
        log_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.actions = actions
        self.encoder = Encoder(
            observation_space, images=images, channels=channels, normalized=normalized, generator=generator
        )
        self.memory: Memory | None = None
        size = self.encoder.size
        if memory is not None:
            self.memory = Memory(memory, size, memory_size, generator=generator)
            size = memory_size
        self.state_size = self.memory.state_size if self.memory is not None else 0
        num_outputs = self.actions.num_logits
        self.log_std_A: nn.Parameter | None = None
        self.std_by_state = self.actions.is_box and std == "state"
        if self.actions.is_box and std == "free":
            self.log_std_A = nn.Parameter(torch.full((num_outputs,), log_std))
        outputs = 2 * num_outputs if self.std_by_state else num_outputs
        self.actor = mlp(size, hidden, outputs, out_gain=0.01, generator=generator)
        self.critic = mlp(size, hidden, 1, out_gain=1.0, generator=generator)
        if self.std_by_state:
            head = self.actor[-1]
            assert isinstance(head, nn.Linear)
            nn.init.constant_(head.bias[num_outputs:], log_std)

    def forward(
        self,
        obs: Tensor,
        state_NM: Tensor | None = None,
        begins_TN: Tensor | None = None,
        *,
        policy: bool = True,
        value: bool = True,
    ) -> tuple[Policy | None, Tensor | None, Tensor | None]:
        """Policy, value float32 [B], and the memory's states after each step, float32 [B, M]; None what is not wanted.

        Args:
            obs: [B, ...].
            state_NM: the memory's before the first step; not looked at without a memory.
            begins_TN: bool [T, N], see `Memory.sequence`; None: a single step, of whatever envs, of no new episode.
        """
        features_BD = self.encoder(obs)
        states_BM = None
        if self.memory is not None:
            assert state_NM is not None
            if begins_TN is None:
                states_BM = self.memory(features_BD, state_NM)
            else:
                states_BM = self.memory.sequence(features_BD.unflatten(0, begins_TN.shape), state_NM, begins_TN)
                states_BM = states_BM.flatten(0, 1)
            features_BD = states_BM[:, : self.memory.size]
        return (
            self._policy(obs, features_BD) if policy else None,
            self._value(features_BD) if value else None,
            states_BM,
        )

    # .float(): under autocast the heads come out in half precision, too coarse for exp(log_prob - old_log_prob).

    def _policy(self, obs: Tensor, features_BD: Tensor) -> Policy:
        output_BS, log_std_BA = self.actor(features_BD).float(), self.log_std_A
        if self.std_by_state:
            output_BS, log_std_BA = output_BS.chunk(2, -1)
            log_std_BA = log_std_BA.clamp(-20, 2)
        return self.actions.policy(output_BS, log_std_BA, self.encoder.layout.action_mask(obs))

    def _value(self, features_BD: Tensor) -> Tensor:
        value_B1: Tensor = self.critic(features_BD)
        return value_B1.float().squeeze(-1)
