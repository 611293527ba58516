"""RLlib's algorithms (its new API stack) as learners: SAC, APPO, IMPALA, DQN, PPO, DreamerV3.

RLlib collects and updates; Trivium's loop does the rest, as for its own agents: budget, rows, evaluation, checkpoints,
resuming. Env runners and learners may be Ray actors, on many machines.

Not like Trivium's own agents: a resumed run goes on from the checkpoint, with its weights, optimizers, replay buffer
and counters, but not to the same bits. RLlib begins new episodes, and neither its generators nor the transitions that
were under way can be saved.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from trivium.agents.envs.protocol import Envs
from trivium.agents.envs.wrapper_state import statistics_of
from trivium.agents.evaluation.returns import EVALUATED, Evaluation
from trivium.agents.rllib.state import pack, unpack
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import Count, CountOrZero, Fraction, LearningRate, Widths
from trivium.learner import Abandoned, Run
from trivium.on_ray import cluster

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

MODULE = "default_policy"  # what RLlib calls the one module of a single agent
COEFFICIENTS = ("curr_log_alpha", "curr_kl_coeffs_per_module")  # of SAC, PPO: learnt, but not in RLlib's state
BOOKKEEPING = re.compile(r"num_|weights_seq_no|diff_num|last_target|throughput|timer|batch_size|trainable")
NAMES = {  # as Trivium's own agents call them
    "total_loss": "loss",
    "vf_loss": "value_loss",
    "mean_kl_loss": "kl",
    "vf_explained_var": "explained_variance",
    "curr_entropy_coeff": "entropy_coef",
    "curr_kl_coeff": "kl_coef",
    "alpha_value": "alpha",
    "log_alpha_value": "log_alpha",
    "default_optimizer_learning_rate": "lr",
    "gradients_default_optimizer_global_norm": "grad_norm",
}
SHOW_S = 0.5  # how often the user sees where a training iteration is
TRIES = 1000  # training iterations without an update before a step gives up


class RLlib:
    """A `Learner`: each step is one training iteration of RLlib that makes an update; the first one also collects what
    the algorithm wants before its first update.

    The algorithm, and a Ray for it if none is there, starts with the first step: evaluating needs neither.

    Args:
        run: where the driver runs; one worker only, for RLlib has workers of its own.
        env: makes `Envs` for evaluation; RLlib makes its own from the same gymnasium id, see `envs.environment.make`.
        algorithm: RLlib's name for it.
        env_runners: Ray actors that step the envs, a multiple of which `env.num_envs` must be; 0: this process does.
        learners: Ray actors that update; 0: this process does.
        lr, gamma, batch_size: of the algorithm, the latter a learner's; null: RLlib's own default.
        hidden: widths of the hidden layers; null: RLlib's own default.
        iteration_env_steps: a training iteration goes on for at least so many env steps. An on-policy algorithm goes on
            for a batch in any case.
        planned_env_steps: of the whole run, usually its budget, beyond which it is not to go far: an iteration, and, if
            not set, the batch of an on-policy algorithm and what others collect before their first update, take at most
            a tenth of it. None: not known.
        settings: keywords of the methods of RLlib's `AlgorithmConfig`, by method, see `config.SECTIONS`.
        eval_episodes, test_episodes, max_eval_steps: see `Evaluation`. The policy acts by its mode.

    Raises:
        ValueError: a keyword is out of its range, or RLlib takes it not; the algorithm can't serve the spaces.
    """

    evaluates = EVALUATED
    shared: ClassVar = ("env.num_envs",)
    divides: ClassVar = {"env_runners": "env.num_envs / workers"}

    @checks_keywords
    def __init__(
        self,
        *,
        run: Run,
        env: Callable[..., Envs],
        algorithm: Literal["APPO", "DQN", "DreamerV3", "IMPALA", "PPO", "SAC"] = "PPO",
        env_runners: CountOrZero = 0,
        learners: CountOrZero = 0,
        lr: LearningRate | None = None,
        gamma: Fraction | None = None,
        batch_size: Count | None = None,
        hidden: Widths | None = None,
        iteration_env_steps: Count = 1000,
        planned_env_steps: Count | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
        eval_episodes: Count = 10,
        test_episodes: Count = 100,
        max_eval_steps: Count = 100_000,
    ) -> None:
        if run.world_size > 1:
            raise ValueError(
                f"RLlib has workers of its own: launch.workers={run.world_size} must be 1; "
                "see agent.env_runners and agent.learners"
            )
        made = getattr(env, "keywords", {})
        if not isinstance(made.get("id"), str) or "num_envs" not in made:
            raise ValueError("RLlib makes its envs by their gymnasium id: choose env=gymnasium")
        one = env(run=run, stream="eval", num_envs=1)
        kept = statistics_of(getattr(one, "kept", dict)())
        if kept:
            name = next(iter(kept)).partition("/")[0]
            raise ValueError(
                f"env.wrappers: {name} would keep running statistics in RLlib's envs, where no checkpoint holds them: "
                "choose an agent of Trivium's, or no such wrapper"
            )
        cluster.prepare()
        from trivium.agents.rllib import (
            acting,  # importing RLlib takes seconds
            config,
        )

        if (env_runners or learners) and config.in_placement_group():
            raise ValueError(
                "agent.env_runners and agent.learners need launch=inline: RLlib starts its actors itself, on the "
                "cluster at RAY_ADDRESS if there is one"
            )
        self.run = run
        self.config = config.make_config(
            algorithm,
            env={name: made.get(name) or () for name in ("id", "wrappers", "settings")},
            observation_space=one.observation_space,
            action_space=one.action_space,
            num_envs=run.share(made["num_envs"], "env.num_envs"),
            env_runners=env_runners,
            learners=learners,
            gpu=run.device.type == "cuda",
            seed=run.seed_for("rllib") % 2**31,
            lr=lr,
            gamma=gamma,
            batch_size=batch_size,
            hidden=None if hidden is None else list(hidden),
            iteration_env_steps=iteration_env_steps,
            planned_env_steps=planned_env_steps,
            settings=settings,
        )
        getattr(one, "close", lambda: None)()
        self.cpus = config.cpus(self.config)
        self.actor = acting.Actor(self.config, device=run.device, algorithm=algorithm)
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self.env_steps = 0
        self.trained = 0.0  # transitions that updates were made of
        self.names: list[str] = []  # of the metrics, known after the first update
        self._algorithm: Algorithm | None = None
        self._acting: dict[str, Any] | None = None  # loaded weights, to be evaluated in place of the algorithm's
        self._state: dict[str, Any] | None = None  # RLlib's, taken once a step: some algorithms learn on meanwhile
        self._held = contextlib.ExitStack()
        self._abandoned = False  # the last step, by a signal
        self._thread = 0  # that makes a step
        self._env_steps = self._gradients = 0  # of the present iteration, as far as they are made here

    @property
    def algorithm(self) -> Algorithm:
        """RLlib's own object, built when it is first needed."""
        if self._algorithm is None:
            here = os.getcwd() in (os.path.abspath(folder) for folder in sys.path)
            self._held.enter_context(cluster.joined(self.cpus, import_from_here=here))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*Overriding environment", UserWarning)  # RLlib's only name for envs
                self._algorithm = self.config.build_algo()
            self._held.callback(self._stop)
            # Moments of a training iteration, as far as it goes on in this process.
            if self.config.num_env_runners == 0:
                self._attend(self._algorithm.env_runner.env, "step", self.config.num_envs_per_env_runner, 0)
            if self.config.num_learners == 0:
                self._on_learner(lambda learner: self._attend(learner, "apply_gradients", 0, 1))
        return self._algorithm

    def step(self) -> dict[str, Tensor]:
        if self._abandoned:  # in the middle of RLlib's work: only what it saves is sure to be whole
            self.load_state_dict(self.state_dict())
        self._abandoned, self._env_steps, self._gradients = False, 0, 0
        try:
            with self._shown():
                return self._step()
        except Abandoned:
            self._abandoned = True
            raise

    def _attend(self, owner: Any, name: str, env_steps: int, gradients: int) -> None:
        """Count what a method does, and end the iteration after it when a signal asks for that."""
        method, stepping = getattr(owner, name), self._stepping

        def attended(*args: Any, **keywords: Any) -> Any:
            result = method(*args, **keywords)
            self._env_steps += env_steps
            self._gradients += gradients
            # Some algorithms learn in a thread of their own.
            if stepping() and self.run.doing.stop_requested():
                raise Abandoned
            return result

        setattr(owner, name, attended)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[None]:
        """Let the user see where a training iteration is while it goes on."""
        over, began = threading.Event(), time.monotonic()

        def show() -> None:
            while not over.wait(SHOW_S):
                done = [f"{self._env_steps:,} env steps"] * bool(self._env_steps)
                done += [f"{self._gradients:,} gradients"] * bool(self._gradients)
                self.run.doing(f"RLlib, since {time.monotonic() - began:.0f} s: {', '.join(done) or 'begins'}")

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = 0
            over.set()
            thread.join()

    def _stepping(self) -> bool:
        """Whether it is the thread that makes a step."""
        return self._thread == threading.get_ident()

    def _step(self) -> dict[str, Tensor]:
        self._acting = self._state = None
        for _ in range(TRIES):
            algorithm = self.algorithm
            if self.run.doing.stop_requested():
                raise Abandoned
            result = algorithm.train()
            self.env_steps = int(result["num_env_steps_sampled_lifetime"])
            said = scalars(result.get("learners", {}).get(MODULE, {}))
            trained = result.get("learners", {}).get(MODULE, {}).get("num_module_steps_trained_lifetime", math.nan)
            if trained > self.trained and all(name in said for name in self.names if "loss" in name):
                break
        else:
            raise RuntimeError(f"RLlib made no update in {TRIES} training iterations")
        self.trained = float(trained)
        self.names = self.names or sorted(said)
        episodes = result.get("env_runners", {})
        metrics = {name: said.get(name, math.nan) for name in self.names}
        metrics["episode_return"] = float(episodes.get("episode_return_mean", math.nan))
        metrics["episode_length"] = float(episodes.get("episode_len_mean", math.nan))
        return {name: torch.tensor(value, device=self.run.device) for name, value in metrics.items()}

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        """See `Evaluation`."""
        self.actor.begin(self._acting or acting_state(self._snapshot()))
        with torch.random.fork_rng(devices=[]):  # DreamerV3 draws when it acts, too
            torch.manual_seed(self.run.seed_for("act", "final" if final else "eval"))
            return self.evaluation(self.actor, final=final, state_size=1)

    def counters(self) -> dict[str, float]:
        return {"env_steps": self.env_steps}

    def state_dict(self) -> dict[str, Any]:
        return {
            "algorithm": pack(self._snapshot()),
            "coefficients": pack(self._on_learner(coefficients)),
            "replay": pack(replay_state(self.algorithm.local_replay_buffer)),
            "env_steps": self.env_steps,
            "trained": self.trained,
            "names": self.names,
        }

    def load_weights(self, state: Mapping[str, Any]) -> None:
        self._acting = acting_state(unpack(state["algorithm"]))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._held.close()  # RLlib takes no weights older than its own: begin anew
        self._acting = self._state = None
        self.algorithm.set_state(unpack(state["algorithm"]))
        kept = unpack(state["coefficients"])
        self._on_learner(lambda learner: set_coefficients(learner, kept))
        set_replay_state(self.algorithm.local_replay_buffer, unpack(state["replay"]), self.config)
        self.env_steps = state["env_steps"]
        self.trained = state["trained"]
        self.names = list(state["names"])

    def close(self) -> None:
        """End the algorithm, and the Ray that was started for it; evaluating goes on with the last weights."""
        if self._algorithm is not None:
            self._acting = self._acting or acting_state(self._snapshot())
        self._held.close()
        self.evaluation.close()

    def _stop(self) -> None:
        assert self._algorithm is not None
        algorithm, self._algorithm = self._algorithm, None
        algorithm.stop()
        shutil.rmtree(algorithm.logdir, ignore_errors=True)  # Tune made it, in the home directory; it is empty

    def _snapshot(self) -> dict[str, Any]:
        self._state = self._state or self.algorithm.get_state()
        return self._state

    def _on_learner(self, function: Callable[[Any], Any]) -> Any:
        """What `function` returns of RLlib's learner, of each if there are several: they hold the same."""
        group: Any = self.algorithm.learner_group
        return next(iter(group.foreach_learner(function))).get()


def scalars(learner: Mapping[str, Any]) -> dict[str, float]:
    """What RLlib's learner says of its last updates, under Trivium's names, without its bookkeeping."""
    found = {}
    for name, value in learner.items():
        if isinstance(value, Mapping) or BOOKKEEPING.search(name):
            continue
        with contextlib.suppress(TypeError, ValueError):
            found[metric_name(name)] = float(value)
    return found


def metric_name(name: str) -> str:
    """`NAMES`, and of several optimizers `<name>_lr` and `<name>_grad_norm`."""
    if name in NAMES:
        return NAMES[name]
    name = re.sub(r"_learning_rate$", "_lr", name)
    return re.sub(r"^gradients_(\w+?)(_optimizer)?_global_norm$", r"\1_grad_norm", name)


# ----------------------------------------------------------------------------------------------- RLlib's state


def acting_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Of an algorithm's state what acting needs: the module's weights, and what its connectors have learnt."""
    runner = state.get("env_runner") or state
    return {
        "module": state["learner_group"]["learner"]["rl_module"][MODULE],
        "env_to_module": runner.get("env_to_module_connector") or {},
        "module_to_env": runner.get("module_to_env_connector") or {},
    }


def coefficients(learner: Any) -> dict[str, dict[str, Tensor]]:
    """What RLlib's learner learns beside its networks and leaves out of its state."""
    return {
        name: {module: value.detach().cpu() for module, value in getattr(learner, name).items()}
        for name in COEFFICIENTS
        if hasattr(learner, name)
    }


def set_coefficients(learner: Any, kept: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Take back what `coefficients` returned; in place, for the optimizer holds them."""
    for name in COEFFICIENTS:
        for module, value in kept.get(name, {}).items():
            getattr(learner, name)[module].data.copy_(value)


def replay_state(buffer: Any) -> Any:
    """The state of a replay buffer, None where there is none. Without the spaces, which are the env's, and without the
    infos, which may hold anything."""
    if buffer is None:
        return None
    state = buffer.get_state()
    for episode in state["episodes"]:
        episode["_observation_space"] = episode["_action_space"] = None
        for part in ("observations", "actions", "rewards"):
            episode[part]["space"] = None
        episode["infos"] = {**episode["infos"], "data": [], "space": None}
    return state


def set_replay_state(buffer: Any, state: Any, config: Any) -> None:
    """Take back what `replay_state` returned, into an empty buffer."""
    if buffer is None or state is None:
        return
    for episode in state["episodes"]:
        episode["infos"]["data"] = [{} for _ in episode["observations"]["data"]]
    buffer.set_state(state)
    for episode in buffer.episodes:
        episode.observation_space = config.observation_space
        episode.action_space = config.action_space
