"""Acting with an RLlib module in Trivium's own envs.

Shapes: N envs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from torch import Tensor

from trivium.agents.evaluation.returns import Generators
from trivium.agents.rllib.config import first_sentence, one_hot


class Actor:
    """From observations to the actions that RLlib's policy thinks best: the same connectors and the same network that
    its env runners use, so that recurrent state, filters and the scaling of actions are as in training.

    Args:
        config: of the algorithm, with its spaces.
        device: of the observations and of the actions returned; the network itself is evaluated on the CPU.
        algorithm: for messages.

    Raises:
        ValueError: the algorithm can't serve the spaces.
    """

    def __init__(self, config: AlgorithmConfig, *, device: torch.device, algorithm: str) -> None:
        self.device = device
        self.observation_space: Any = config.observation_space
        self.action_space: Any = config.action_space
        spaces: dict[str, tuple[Any, Any]] = {"__env_single__": (self.observation_space, self.action_space)}
        try:
            self.env_to_module = config.build_env_to_module_connector(env=None, spaces=spaces, device=None)
            self.module_to_env = config.build_module_to_env_connector(env=None, spaces=spaces)
            spaces["default_policy"] = (self.env_to_module.observation_space, self.action_space)
            self.module = config.get_rl_module_spec(spaces=spaces, inference_only=True).build()
        except Exception as error:  # of many kinds
            raise ValueError(
                f"agent.algorithm={algorithm} can't serve the action space {self.action_space} with observations in "
                f"{self.observation_space}: {first_sentence(error)}"
            ) from error
        self.episodes: list[Any] = []  # SingleAgentEpisode

    def begin(self, state: Mapping[str, Any]) -> None:
        """Act by these weights, from the beginning of new episodes. See `rllib.acting_state`."""
        self.module.set_state(state["module"])
        self.env_to_module.set_state(state["env_to_module"])
        self.module_to_env.set_state(state["module_to_env"])
        self.episodes = []

    def __call__(self, obs: Tensor, state_N1: Tensor, generators: Generators) -> tuple[Tensor, Tensor]:
        """Actions as `Envs` take them. Of the state only where it is 0 counts, where an episode begins: RLlib keeps a
        memory's state with the episode. The generators are not used, because the actions are deterministic."""
        self._observe(self._as_rllib(obs), (state_N1[:, 0] == 0).tolist())
        memory: dict[str, Any] = {}
        batch = self.env_to_module(
            rl_module=self.module, batch={}, episodes=self.episodes, explore=False, shared_data=memory
        )
        out = self.module.forward_inference(batch)
        out = self.module_to_env(
            rl_module=self.module, batch=out, episodes=self.episodes, explore=False, shared_data=memory
        )
        self.actions = out.pop("actions")
        chosen = out.pop("actions_for_env", self.actions)
        self.extra = [{name: values[i] for name, values in out.items()} for i in range(len(self.episodes))]
        dtype = torch.int64 if isinstance(self.action_space, gym.spaces.Discrete) else torch.float32
        return torch.as_tensor(np.stack(chosen), dtype=dtype, device=self.device), torch.ones_like(state_N1)

    def _observe(self, obs: np.ndarray, begins: Sequence[bool]) -> None:
        self.episodes = self.episodes or [None] * len(obs)
        for i, (one, anew) in enumerate(zip(obs, begins, strict=True)):
            if anew or self.episodes[i] is None:
                self.episodes[i] = SingleAgentEpisode(
                    observation_space=self.observation_space, action_space=self.action_space
                )
                self.episodes[i].add_env_reset(observation=one)
            else:
                self.episodes[i].add_env_step(
                    observation=one, action=self.actions[i], reward=0.0, extra_model_outputs=self.extra[i]
                )

    def _as_rllib(self, obs: Tensor) -> np.ndarray:
        if obs.dtype == torch.int64:  # Discrete
            return one_hot(obs.cpu().numpy(), self.observation_space.shape[0])
        return obs.cpu().numpy()
