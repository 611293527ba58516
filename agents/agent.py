"""What every agent does alike once it has learnt something: evaluate, show itself, count its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trivium.agents.envs.wrapper_state import State, from_checkpoint
from trivium.agents.evaluation.play import Film, agent_figures
from trivium.agents.evaluation.policy import OnePolicy
from trivium.agents.evaluation.returns import EVALUATED, Act, Evaluation
from trivium.agents.evaluation.spaces import absent_env, to_json
from trivium.agents.rollouts.collector import Collector
from trivium.agents.rollouts.env_runners import EnvRunners
from trivium.learner import Picture, Run
from trivium.saved import load_module


class Agent:
    """The part of a `Learner` that is no algorithm; what it learns by, its `step` and its state, a subclass has.

    Attributes:
        run: where it runs.
        acting: whose `in_evaluation` is an `evaluation.Act`.
        net: the network; its `state_size` is that of its memory, if it has one.
        collector: the envs it learns in.
        evaluation: the envs it is judged in.
    """

    evaluates = EVALUATED

    run: Run
    acting: Any
    net: Any
    collector: Collector | EnvRunners
    evaluation: Evaluation
    _loaded: tuple[int, State] | None = None  # what wrappers kept where weights are from, and the env steps then

    @property
    def _act(self) -> Act:
        act: Act = self.acting.in_evaluation
        return act

    @property
    def _state_size(self) -> int:
        return getattr(self.net, "state_size", 0)

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        """See `Evaluation`."""
        self._look_as_in_training()
        return self.evaluation(self._act, final=final, state_size=self._state_size)

    def _look_as_in_training(self) -> None:
        """Let the envs of evaluations and films begin with what training's wrappers keep, or kept where the weights
        are from that were loaded since."""
        loaded = self._loaded is not None and self._loaded[0] == self.collector.env_steps
        self.evaluation.kept = self._loaded[1] if loaded and self._loaded else self.collector.kept()

    def figures(self) -> dict[str, Picture]:
        """See `agent_figures`."""
        return agent_figures(self.evaluation, self._act, self._state_size, self.net.encoder.layout)

    def play(self, **keywords: Any) -> Film:
        """See `Film`."""
        self._look_as_in_training()
        return Film(
            self.evaluation,
            self._act,
            state_size=self._state_size,
            layout=self.net.encoder.layout,
            **keywords,
        )

    def spaces(self) -> dict[str, Any]:
        """See `trivium.learner.Acts`: `num_envs` of the whole run, `observation` and `action`."""
        observation, action = self.collector.spaces
        number = self.collector.num_envs * self.run.world_size
        return {"num_envs": number, "observation": to_json(observation), "action": to_json(action)}

    @classmethod
    def env_of(cls, spaces: Mapping[str, Any]) -> Any:
        """See `trivium.learner.Acts`."""
        return absent_env(spaces)

    def policy(self) -> OnePolicy:
        """See `trivium.learner.Acts`."""
        return OnePolicy(
            run=self.run,
            acting=self.acting,
            layout=self.net.encoder.layout,
            action_space=self.collector.spaces[1],
            state_size=self._state_size,
        )

    def close(self) -> None:
        """End what the envs hold beside memory, such as processes."""
        self.collector.close()
        self.evaluation.close()

    def counters(self) -> dict[str, float]:
        return {"env_steps": self.collector.env_steps}

    def load_weights(self, state: Mapping[str, Any]) -> None:
        load_module(self.net, state["net"], "net")
        self._loaded = self.collector.env_steps, from_checkpoint(state["collector"].get("kept", {}))
