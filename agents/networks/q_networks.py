"""Q functions: MLPs with any of dueling streams, noisy layers and a distribution over returns.

Shapes: B batch, A actions, K atoms, D features, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.agents.networks.actor_critic import Encoder, Images, affine
from trivium.agents.networks.image_axes import Channels


def uniform(*shape: int, bound: float, generator: torch.Generator) -> nn.Parameter:
    """A parameter drawn from U(-bound, bound), on the CPU."""
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound, generator=generator))


class Linear(nn.Module):
    """A linear layer, y = W x + b, drawn from U(-1/sqrt(I), 1/sqrt(I)) as in the code of arXiv:1312.5602 (Torch's own).

    Drawn from `generator` only, see `networks.linear`.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = uniform(num_outputs, num_inputs, bound=num_inputs**-0.5, generator=generator)
        self.bias = uniform(num_outputs, bound=num_inputs**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, I] to [B, O]."""
        return affine(x, self.weight, self.bias)


class NoisyLinear(nn.Module):
    """A linear layer with factorised Gaussian noise on its parameters (arXiv:1706.10295).

    y = (W + W' * f(e_O) f(e_I)^T) x + b + b' * f(e_O), f(x) = sign(x) sqrt|x|, e standard normal; W' and b' are learnt
    and begin at sigma / sqrt(I).

    Args:
        sigma: how noisy it begins, sigma_0 of the paper, which takes 0.5.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, sigma: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = uniform(num_outputs, num_inputs, bound=num_inputs**-0.5, generator=generator)
        self.bias = uniform(num_outputs, bound=num_inputs**-0.5, generator=generator)
        self.weight_sigma = nn.Parameter(torch.full((num_outputs, num_inputs), sigma * num_inputs**-0.5))
        self.bias_sigma = nn.Parameter(torch.full((num_outputs,), sigma * num_inputs**-0.5))

    def forward(self, x: Tensor, noise: tuple[Tensor, Tensor] | None) -> Tensor:
        """float32 [B, I] to [B, O]; the noise is f(e_O) and f(e_I), the same for the whole batch; None: the means."""
        if noise is None:
            return F.linear(x, self.weight, self.bias)
        noise_O, noise_I = noise
        weight = torch.addcmul(self.weight, self.weight_sigma, torch.outer(noise_O, noise_I))
        return F.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, noise_O))


class QNetwork(nn.Module):
    """Q(s, .) of a discrete action space: rectified layers, the last of them and the output layer a stream.

    With `dueling` there are two streams, V and A, and Q = V + A - mean_a A (arXiv:1511.06581, equation 9). With
    `num_atoms` the outputs are logits of a categorical distribution over returns (arXiv:1707.06887), with dueling
    combined atom by atom. With `noisy_sigma` the streams' layers are `NoisyLinear`: what is shared below them stands
    where the convolutions of arXiv:1706.10295 do.

    Args:
        observation_space: see `Encoder`.
        num_actions: A.
        hidden: widths of the hidden layers, at least one: the last is that of each stream.
        generator: on the CPU; all initial weights come from it.
        images, channels: see `Encoder`.
        dueling: two streams.
        noisy_sigma: see `NoisyLinear`; None: no noise.
        num_atoms: K; None: a plain Q function.

    Raises:
        ValueError: another kind of space, or no hidden layer.
    """

    def __init__(
        self,
        *,
        observation_space: gym.Space,
        num_actions: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        images: Images = "nature",
        channels: Channels | None = None,
        dueling: bool = False,
        noisy_sigma: float | None = None,
        num_atoms: int | None = None,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("agent.hidden=[] must have at least one layer")
        self.encoder = Encoder(
            observation_space, images=images, channels=channels, normalized=False, generator=generator
        )
        self.num_actions = num_actions
        self.num_atoms = num_atoms
        *shared, width = (self.encoder.size, *hidden)
        self.shared = nn.ModuleList(Linear(i, o, generator=generator) for i, o in itertools.pairwise(shared))

        def stream(num_outputs: int) -> nn.ModuleList:
            sizes = itertools.pairwise((shared[-1], width, num_outputs * (num_atoms or 1)))
            if noisy_sigma is None:
                return nn.ModuleList(Linear(i, o, generator=generator) for i, o in sizes)
            return nn.ModuleList(NoisyLinear(i, o, sigma=noisy_sigma, generator=generator) for i, o in sizes)

        self.advantage = stream(num_actions)
        self.value = stream(1) if dueling else None
        streams = itertools.chain(self.advantage, self.value or ())
        self.noise_sizes = [n for layer in streams if isinstance(layer, NoisyLinear) for n in layer.weight.shape]

    def noise(self, number: int, generator: torch.Generator) -> Tensor:
        """New noise for all noisy layers, so many times: float32 [number, Z], f(e_O) and f(e_I) of one layer after
        another; Z is 0 if there are none."""
        normal = torch.randn(number, sum(self.noise_sizes), generator=generator, device=generator.device)
        return normal.sign() * normal.abs().sqrt()

    def forward(self, obs: Tensor, noise_Z: Tensor | None = None) -> Tensor:
        """Observations [B, ...] to Q values, float32 [B, A]; with atoms to logits, float32 [B, A, K]. Without noise the
        noisy layers act by their means."""
        x = self.encoder(obs)
        for layer in self.shared:
            x = layer(x).relu_()
        parts = [] if noise_Z is None or not self.noise_sizes else noise_Z.split(self.noise_sizes)
        noise = list(zip(parts[::2], parts[1::2], strict=True))
        output: Tensor = self._stream(self.advantage, x, noise[:2]).unflatten(1, (self.num_actions, -1))
        if self.value is not None:
            value_B1K = self._stream(self.value, x, noise[2:]).unsqueeze(1)
            output = value_B1K + output - output.mean(1, keepdim=True)
        output = output.float()  # autocast's half precision is too coarse for differences of Q values
        return output if self.num_atoms else output.squeeze(2)

    def _stream(self, layers: nn.ModuleList, x: Tensor, noise: list[tuple[Tensor, Tensor]]) -> Tensor:
        first, last = layers
        if isinstance(first, NoisyLinear):
            noise_first, noise_last = noise or (None, None)
            output: Tensor = last(first(x, noise_first).relu_(), noise_last)
        else:
            output = last(first(x).relu_())
        return output
