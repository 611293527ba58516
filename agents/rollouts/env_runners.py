"""Rollouts from environments on Ray actors: for envs that are expensive, on other cores and other machines.

Every runner has an equal part of the envs and a copy of what acts. A rollout takes one message each way: the weights,
put once for all runners, and the noise of its own envs; back comes the rollout, and what the runner's next one depends
on. So the order in which runners answer makes no difference, and one that dies is replaced by one that does it again.

Shapes: T time, N envs of this worker, K runners, M numbers in the state of a memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from trivium.agents.attributes import to_arrays, to_tensors
from trivium.agents.envs.protocol import Envs
from trivium.agents.envs.wrapper_state import State, merged
from trivium.agents.rollouts.collector import Act, Collector, InProgress, Rollout
from trivium.config.rules.sizes import require_divisible
from trivium.learner import Run, UserCodeError
from trivium.on_ray import cluster
from trivium.saved import require_count

log = logging.getLogger("trivium")

ATTEMPTS = 3  # to get one rollout, before the run ends with an error


DIVIDES = {"env_runners": "env.num_envs / workers"}  # as the agents declare


class Runner:
    """What lives in a Ray actor: a `Collector` of its part of the envs."""

    def __init__(self, run: Run, env: Callable[..., Envs], act: Act, state_size: int, part: range) -> None:
        torch.set_num_threads(1)
        self.act: Any = act
        self.collector = Collector(
            run=run, envs=env(run=run, stream="train", part=part), act=act, state_size=state_size
        )

    def begin(self) -> dict[str, Any]:
        """Its first state."""
        return {"obs": self.collector.obs, **self.collector.state_dict()}

    def load(self, state: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Take a state back; see `Collector.load_state_dict`, and what it comes to."""
        return self.collector.load_state_dict(state), self.begin()

    def collect(
        self, weights: Mapping[str, Tensor], state: Mapping[str, Any] | None, anew: bool, noise: list[Tensor]
    ) -> tuple[Rollout, dict[str, Any]]:
        """A rollout with these weights, from a state instead of its own if one is given, or if `anew` from the
        beginning of an episode in every env; and its next state."""
        if state is not None:
            self.collector.load_state_dict(state)
        if anew:
            self.collector.reset()
        self.act.flat.module.load_state_dict(weights)
        return self.collector.collect(*noise), self.begin()


class _Died(ValueError):
    """A runner's process ended, or did not get as far as to have its envs."""


class Begun(NamedTuple):
    """A rollout under way, and what it takes to begin it again.

    Args:
        noise, weights: see `EnvRunners.begin`.
        anew: whether it begins with a new episode in every env.
        put: the weights in Ray's object store.
        answers: of each runner, to come.
    """

    noise: Sequence[Tensor]
    weights: Mapping[str, Tensor]
    anew: bool
    put: Any
    answers: list[Any]


class EnvRunners:
    """As a `Collector`, of envs on K Ray actors.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream`, and `part`, see `envs.environment.make`.
        act: see `collector.Act`; `act.flat` has the weights, `act.shared_noise` says how many of the last noise tensors
            are not per env, `act.copy_for` takes it to another device.
        num_runners: K.
        num_envs: N, a multiple of K.
        state_size: M.
        timeout_s: an env that takes longer for a rollout hangs.

    Raises:
        ValueError: K does not divide N; and from `finish`, an env broke its promises, hangs, or ends its process again
            and again.
    """

    spaces: tuple[gym.Space, gym.Space]  # see `Collector`

    def __init__(
        self,
        *,
        run: Run,
        env: Callable[..., Envs],
        act: Any,
        num_runners: int,
        num_envs: int,
        state_size: int = 0,
        timeout_s: float = 300.0,
    ) -> None:
        sizes = {"agent.env_runners": num_runners, "env.num_envs": num_envs * run.world_size}
        require_divisible(DIVIDES, sizes, group="agent", workers=run.world_size)
        cluster.prepare()
        import ray

        self.run = run
        self.act = act
        self.num_envs = num_envs
        self.timeout_s = timeout_s
        self.env_steps = 0
        self._ray = contextlib.ExitStack()
        self._ray.enter_context(cluster.joined(num_runners + 1, import_from_here=True))
        size = num_envs // num_runners
        self._parts = [range(k * size, (k + 1) * size) for k in range(num_runners)]
        # Runners act on the CPU, without compiling: each would have to compile its own graph.
        elsewhere = dataclasses.replace(run, device=torch.device("cpu"), compile=False, dir=None)
        of_runner = act.copy_for(elsewhere)
        actor: Any = ray.remote(num_cpus=1)(Runner)
        self._make = lambda part: actor.remote(elsewhere, env, of_runner, state_size, part)
        self._actors: list[Any] = [self._make(part) for part in self._parts]
        self._states: list[dict[str, Any]] = []
        began = [one.begin.remote() for one in self._actors]
        self._states = [self._get(k, one, max(60.0, timeout_s)) for k, one in enumerate(began)]
        self._given: list[Mapping[str, Any] | None] = [None] * num_runners  # states that runners are to take first
        self._anew = False
        self.in_progress = InProgress.none(num_envs, run.device)

    @property
    def obs(self) -> Tensor:
        return self._joined("obs")

    @property
    def state_NM(self) -> Tensor:
        return self._joined("state")

    @property
    def begins_N(self) -> Tensor:
        return self._joined("begins")

    def _joined(self, name: str) -> Tensor:
        return torch.cat([state[name] for state in self._states]).to(self.run.device)

    def reset(self) -> None:
        """See `Collector.reset`; the runners do so with the next rollout."""
        self._anew = True
        self.in_progress = InProgress.none(self.num_envs, self.run.device)

    def collect(self, *noise: Tensor) -> Rollout:
        """See `Collector.collect`."""
        return self.finish(self.begin(noise))

    def begin(self, noise: Sequence[Tensor], weights: Mapping[str, Tensor] | None = None) -> Begun:
        """Let the runners start on a rollout, with the present weights unless others are given; see `finish`."""
        import ray

        if weights is None:
            present = self.act.flat.module.state_dict()
            weights = {name: tensor.cpu().clone() for name, tensor in present.items()}
        noise = [tensor.cpu() for tensor in noise]
        begun = Begun(noise, weights, self._anew, ray.put(weights), [])
        self._anew = False
        begun.answers.extend(self._ask(k, begun) for k in range(len(self._actors)))
        return begun

    def _ask(self, k: int, begun: Begun) -> Any:
        part, per_env = self._parts[k], len(begun.noise) - self.act.shared_noise
        noise = [one[:, part.start : part.stop] if i < per_env else one for i, one in enumerate(begun.noise)]
        return self._actors[k].collect.remote(begun.put, self._given[k], begun.anew, noise)

    def finish(self, begun: Begun) -> Rollout:
        """The rollout that was begun: that of all runners, in their order."""
        rollouts: list[Rollout] = []
        for k in range(len(self._actors)):
            rollout, self._states[k] = self._answer(k, begun)
            self._given[k] = None
            rollouts.append(rollout)
        self.env_steps += rollouts[0].reward.shape[0] * self.num_envs * self.run.world_size
        *columns, kept, live = zip(*rollouts, strict=True)

        def joined(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(parts), 1).to(self.run.device)

        obs, reward, terminated, truncated, next_obs = map(joined, columns)
        of_act = tuple(map(joined, zip(*kept, strict=True)))
        return Rollout(obs, reward, terminated, truncated, next_obs, of_act, None if live[0] is None else joined(live))

    def _answer(self, k: int, begun: Begun) -> Any:
        """What runner k answers, or another in its place if it dies."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._get(k, begun.answers[k])
            except _Died as died:
                if part := cluster.lost():
                    raise cluster.WorkersLost(f"the run's Ray is lost, its {part} has ended") from None
                if attempt == ATTEMPTS:
                    raise UserCodeError(f"env runner {k} died {ATTEMPTS} times: {died}") from None
                log.warning("env runner %d died and is replaced; its part of the rollout is done again", k)
                self._actors[k] = self._make(self._parts[k])
                self._given[k] = self._states[k]
                begun.answers[k] = self._ask(k, begun)
        raise AssertionError

    def _get(self, k: int, answer: Any, timeout_s: float | None = None) -> Any:
        import ray

        timeout_s = timeout_s or self.timeout_s
        try:
            return ray.get(answer, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            free = ray.available_resources().get("CPU", 0)
            why = "one of its envs hangs" if self._states else f"Ray has {free:g} free CPUs, one is needed for each"
            raise UserCodeError(f"env runner {k} did not answer in {timeout_s:g} s: {why}") from None
        except ray.exceptions.RayTaskError as error:
            text = str(error.cause or error).strip().splitlines()[-1]
            kind = UserCodeError if isinstance(error.cause, UserCodeError) else ValueError
            raise kind(f"env runner {k}: {text}") from None
        except ray.exceptions.RayActorError as error:
            raise _Died(str(error).strip().splitlines()[-1]) from None

    def close(self) -> None:
        """End the runners, and a Ray that was started for them."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._ray.close()

    def kept(self) -> State:
        """See `Collector.kept`."""
        return merged([to_arrays(state["kept"]) for state in self._states])

    def state_dict(self) -> dict[str, Any]:
        return {
            "env_steps": self.env_steps,
            "kept": to_tensors(self.kept()),
            "runners": list(self._states),
            "return": self.in_progress.return_N,
            "length": self.in_progress.length_N,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Tensor:
        """See `Collector.load_state_dict`."""
        if len(state["runners"]) != len(self._actors):
            raise ValueError(f"saved with agent.env_runners={len(state['runners'])}, now there are {len(self._actors)}")
        self.env_steps = require_count(state["env_steps"], "env_steps")
        answers = [one.load.remote(of_one) for one, of_one in zip(self._actors, state["runners"], strict=True)]
        loaded = [self._get(k, answer) for k, answer in enumerate(answers)]
        self._states = [after for _, after in loaded]
        self._given = [None] * len(self._actors)
        begun_anew_N = torch.cat([each for each, _ in loaded]).to(self.run.device)
        self.in_progress = self.in_progress.loaded(state, begun_anew_N)
        return begun_anew_N
