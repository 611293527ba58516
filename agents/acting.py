"""How the actor-critic agents act: what is left of them when only acting matters, here or in another process.

Shapes: N envs, M numbers in the state of a memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trivium.agents.flat import Flat
from trivium.agents.networks import ActorCritic
from trivium.agents.policies import Actions, Policy
from trivium.learner import Run


class Acting:
    """`collector.Act` of a policy, and `evaluation.Act` as `in_evaluation`.

    Args:
        run: gives the precision.
        flat: the network.
        actions: of the envs.
        deterministic: act by the mode of the policy in evaluation, else sample.
    """

    shared_noise = 0  # see `EnvRunners`

    def __init__(self, run: Run, flat: Flat[ActorCritic], actions: Actions, *, deterministic: bool) -> None:
        self.autocast = run.autocast
        self.flat = flat
        self.actions = actions
        self.deterministic = deterministic

    def __call__(self, obs: Tensor, state_NM: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Kept are the action and its log-probability, and with a memory its next state."""
        policy, next_NM = self._policy(obs, state_NM)
        action = policy.sample(noise)
        log_prob_N, _ = policy.log_prob_and_entropy(action)
        if self.flat.module.memory is None:
            return self.actions.to_env(action), state_NM, (action, log_prob_N)
        return self.actions.to_env(action), next_NM, (action, log_prob_N, next_NM)

    def in_evaluation(self, obs: Tensor, state_NM: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The action as the envs take it, and the memory's next state."""
        policy, next_NM = self._policy(obs, state_NM)
        action = policy.mode()
        if not self.deterministic:
            action = policy.sample(self.actions.noise(1, len(obs), generator)[0])
        return self.actions.to_env(action), next_NM

    def _policy(self, obs: Tensor, state_NM: Tensor) -> tuple[Policy, Tensor]:
        with self.autocast():
            policy, _, next_NM = self.flat(self.flat.theta, obs, state_NM, value=False)
        return policy, state_NM if next_NM is None else next_NM
