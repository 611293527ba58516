"""How agents act: what is left of them when only acting matters, here or in another process.

Shapes: N envs, B batch, M numbers in the state of a memory, A actions, K atoms, Z numbers of noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trivium.agents.evaluation.returns import Generators
from trivium.agents.networks.actor_critic import ActorCritic
from trivium.agents.networks.q_networks import QNetwork
from trivium.agents.optim.flat import Flat
from trivium.agents.policies import FORBIDDEN, Policy
from trivium.learner import Run


class Acting:
    """Of the actor-critic agents: `collector.Act` of a policy, and `evaluation.Act` as `in_evaluation`.

    Args:
        flat: the network.
        deterministic: act by the mode of the policy in evaluation, else sample.
    """

    shared_noise = 0  # see `EnvRunners`

    def __init__(self, flat: Flat[ActorCritic], *, deterministic: bool) -> None:
        self.flat = flat
        self.actions = flat.module.actions
        self.deterministic = deterministic

    def copy_for(self, run: Run) -> Acting:
        """The same with weights of its own, on another device."""
        return Acting(self.flat.copy_for(run), deterministic=self.deterministic)

    def __call__(self, obs: Tensor, state_NM: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Kept are the action and its log-probability, and with a memory its next state."""
        policy, next_NM = self._policy(obs, state_NM)
        action = policy.sample(noise)
        log_prob_N = policy.log_prob(action)
        if self.flat.module.memory is None:
            return self.actions.to_env(action), state_NM, (action, log_prob_N)
        return self.actions.to_env(action), next_NM, (action, log_prob_N, next_NM)

    def in_evaluation(self, obs: Tensor, state_NM: Tensor, generators: Generators) -> tuple[Tensor, Tensor]:
        """The action as the envs take it, and the memory's next state."""
        policy, next_NM = self._policy(obs, state_NM)
        action = policy.mode()
        if not self.deterministic:
            if isinstance(generators, torch.Generator):
                noise = self.actions.noise(1, len(obs), generators)
            else:
                noise = torch.cat([self.actions.noise(1, 1, generator) for generator in generators], 1)
            action = policy.sample(noise[0])
        return self.actions.to_env(action), next_NM

    def _policy(self, obs: Tensor, state_NM: Tensor) -> tuple[Policy, Tensor]:
        policy, _, next_NM = self.flat(self.flat.theta, obs, state_NM, value=False)
        return policy, state_NM if next_NM is None else next_NM


class EpsilonGreedy:
    """`collector.Act` of a Q function, and greedily, without noise, `evaluation.Act` as `in_evaluation`.

    Args:
        flat: the network.
        atom_K: float32 [K], of a categorical one; None: it gives the Q values themselves.
    """

    shared_noise = 2  # epsilon and the noise of noisy networks, see `EnvRunners`

    def __init__(self, flat: Flat[QNetwork], atom_K: Tensor | None) -> None:
        self.flat = flat
        self.atom_K = atom_K

    def copy_for(self, run: Run) -> EpsilonGreedy:
        """The same with weights of its own, on another device."""
        atom_K = None if self.atom_K is None else self.atom_K.to(run.device)
        return EpsilonGreedy(self.flat.copy_for(run), atom_K)

    def __call__(
        self, obs: Tensor, state_NM: Tensor, chance_N: Tensor, random_NA: Tensor, epsilon: Tensor, noise_Z: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Kept is the action. A random one is that of the valid ones with the largest of random numbers in [0, 1)."""
        q_NA = self.q(obs, self.flat(self.flat.theta, obs, noise_Z))
        explore_NA = random_NA.masked_fill(q_NA <= FORBIDDEN, -1.0)
        action_N = torch.where((chance_N < epsilon).unsqueeze(1), explore_NA, q_NA).argmax(1)
        return action_N, state_NM, (action_N,)

    def in_evaluation(self, obs: Tensor, state_NM: Tensor, generators: Generators) -> tuple[Tensor, Tensor]:
        return self.q(obs, self.flat(self.flat.theta, obs)).argmax(1), state_NM

    def q(self, obs: Tensor, output: Tensor) -> Tensor:
        """Q values, float32 [B, A], from what a `QNetwork` returned; those of invalid actions are `FORBIDDEN`."""
        q_BA = output if self.atom_K is None else (output.softmax(2) * self.atom_K).sum(2)
        mask_BA = self.flat.module.encoder.layout.action_mask(obs)
        return q_BA if mask_BA is None else q_BA.masked_fill(~mask_BA, FORBIDDEN)
