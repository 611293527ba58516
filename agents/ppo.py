"""Proximal policy optimization (arXiv:1707.06347), with generalized advantage estimation.

As in the paper: the clipped surrogate objective, several epochs of minibatches over each rollout. From its authors'
code: orthogonal initialisation, Adam with eps 1e-5, advantages normalised in each minibatch, gradients clipped by their
global norm, a learning rate that may fall linearly, the clipped value loss by choice. Not in either: truncated
episodes bootstrap from their own last observation; action masks, a memory and several action heads in any combination.

Shapes: T time, N envs of this worker, B minibatch of this worker, A see `policies`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from trivium.agents.agent import Agent
from trivium.agents.envs.protocol import Envs
from trivium.agents.evaluation.acting import Acting
from trivium.agents.evaluation.returns import Evaluation
from trivium.agents.networks.actor_critic import ActorCritic
from trivium.agents.networks.normalise import Normaliser
from trivium.agents.optim.flat import Flat, Optimizer, clipped
from trivium.agents.policies import Actions
from trivium.agents.returns import (
    check_shapes,
    explained_variance,
    gae,
    linear_schedule,
    live_mean,
    normalized,
    squared_error,
    where_live,
)
from trivium.agents.rollouts.collector import InProgress, Rollout, episodes
from trivium.agents.rollouts.making import make_collector, training_envs
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import (
    Count,
    CountOrZero,
    Fraction,
    LearningRate,
    NotNegative,
    Positive,
    PositiveOrInfinite,
    Range,
    Widths,
)
from trivium.config.rules.sizes import require_divisible
from trivium.learner import Run


def clipped_surrogate_loss(ratio_B: Tensor, advantage_B: Tensor, clip_coef: float | Tensor) -> Tensor:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A), float32 [B], equation 7 of arXiv:1707.06347.

    Args:
        ratio_B: float32 [B], r = pi(a) / pi_old(a) > 0.
        advantage_B: float32 [B], A, constants.
        clip_coef: eps, >= 0.

    Raises:
        ValueError: the tensors differ in shape.
    """
    check_shapes(ratio_B=ratio_B, advantage_B=advantage_B)
    clipped_B = ratio_B.clamp(1 - clip_coef, 1 + clip_coef)  # type: ignore[arg-type]  # numbers or tensors, both do
    return -torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B)


def clipped_value_loss(value_B: Tensor, old_value_B: Tensor, return_B: Tensor, clip_coef: float) -> Tensor:
    """max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2), of the authors' code (it did not help in
    arXiv:2006.05990); all float32 [B], V_old and the returns constants.

    Raises:
        ValueError: the tensors differ in shape.

    Example:
        V=3, V_old=0, R=4, eps=1 -> max(1, 9) = 9.
    """
    check_shapes(value_B=value_B, old_value_B=old_value_B, return_B=return_B)
    clipped_B = old_value_B + (value_B - old_value_B).clamp(-clip_coef, clip_coef)
    return torch.maximum(squared_error(value_B, return_B), squared_error(clipped_B, return_B))


def approx_kl(log_ratio_B: Tensor) -> Tensor:
    """r - 1 - log r, float32 [B], never negative; its mean over samples of pi_old estimates KL(pi_old || pi) in nats
    (joschu.net/blog/kl-approx.html). `log_ratio_B` is log r, float32 [B]."""
    return log_ratio_B.expm1() - log_ratio_B


def clip_fraction(ratio_B: Tensor, clip_coef: float | Tensor) -> Tensor:
    """1 where a ratio is further than eps from 1, else 0: float32 [B]; see `clipped_surrogate_loss`."""
    return ((ratio_B - 1).abs() > clip_coef).float()


class Batch(NamedTuple):
    """What updates are made of: a rollout, [T, N, ...] each, or a minibatch, [B, ...].

    Args:
        obs, action: what was done in which situation.
        log_prob, advantage, return_, value: float32, log pi_old(a), A, V target, V_old.
        live: see `Rollout`.
        memory: what a network with a memory needs to go through whole rollouts: float32 [N, M], its state before them,
            and bool [T, N], where an episode begins; without a memory nothing. See `ActorCritic.forward`.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    return_: Tensor
    value: Tensor
    live: Tensor | None
    memory: tuple[Tensor, ...] = ()

    def take(self, index_B: Tensor) -> Batch:
        """A minibatch of a rollout: the steps of these indices, int64 [B] below T * N; with a memory the whole
        rollouts of these envs."""
        memory: tuple[Tensor, ...] = ()
        if self.memory:
            state_NM, begins_TN = self.memory
            memory = state_NM[index_B], begins_TN[:, index_B]

        def taken(x: Tensor) -> Tensor:
            return x[:, index_B].flatten(0, 1) if memory else x.flatten(0, 1)[index_B]

        return Batch(
            obs=taken(self.obs),
            action=taken(self.action),
            log_prob=taken(self.log_prob),
            advantage=taken(self.advantage),
            return_=taken(self.return_),
            value=taken(self.value),
            live=None if self.live is None else taken(self.live),
            memory=memory,
        )


METRICS = ("loss", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


class PPO(Agent):
    """A `Learner`: each step is one rollout of `num_steps` in each env, and its updates.

    Sizes are those of the whole run. Workers hold equal shares and make equally many minibatches; gradients are
    averaged over them, while advantages are normalised by each over its own part of the minibatch. With a memory a
    minibatch is whole rollouts of some envs, from the state that the memory had when they began. Where steps of the
    envs are no transitions (see `Rollout`), the means are over those of a minibatch that are; minibatches and workers
    weigh equally, however many they have.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream` and perhaps `num_envs`; see `envs.environment.make`.
        lr: of Adam, before annealing; > 0.
        lr_anneal_env_steps: env steps after which lr has fallen to 0, see `linear_schedule`; usually the budget.
        num_steps: T, steps of each env in a rollout.
        num_epochs: passes over each rollout.
        minibatch_size: transitions an update; must divide num_steps * env.num_envs, and with a memory be a multiple
            of num_steps.
        gamma: discount, in [0, 1].
        gae_lambda: see `gae`.
        clip_coef: eps of `clipped_surrogate_loss`.
        clip_anneal_env_steps: the same for eps as `lr_anneal_env_steps` for lr.
        value_clip: clip the value's change too, see `clipped_value_loss`; None: do not.
        target_kl: no further epoch over a rollout when `approx_kl` of one, its mean over the minibatches and workers,
            was larger; in nats, > 0. None: all epochs.
        value_coef: weight of the critic's squared error, >= 0.
        entropy_coef: weight of the entropy bonus, >= 0.
        max_grad_norm: gradients are scaled down to this global norm; > 0, inf for never.
        normalize_advantage: see `normalized`.
        normalize_observation, normalize_reward: see `Normaliser`.
        hidden: widths of the hidden layers, see `ActorCritic`.
        images, channels, memory, memory_size, std, log_std: see `ActorCritic`.
        squash: see `Actions`.
        env_runners: Ray actors that the envs are on, see `EnvRunners`; 0: none, they are here.
        env_timeout_s: a rollout there that takes longer has an env that hangs.
        eval_episodes: of an evaluation during training, over all workers.
        test_episodes: of the final one.
        eval_deterministic: act by the mode of the policy in evaluation, else sample.
        max_eval_steps: an episode of evaluation is cut after so many steps, for envs without a time limit.

    Raises:
        ValueError: a keyword is out of its range, a space is not supported, or a size does not divide among workers or
            minibatches.
    """

    shared: ClassVar = ("minibatch_size", "env.num_envs")
    divides: ClassVar = {
        "minibatch_size": "num_steps * env.num_envs",
        "num_steps": "minibatch_size / workers if memory",
        "env_runners": "env.num_envs / workers",
    }

    @checks_keywords
    def __init__(
        self,
        *,
        run: Run,
        env: Callable[..., Envs],
        lr: LearningRate = 3e-4,
        lr_anneal_env_steps: Count | None = None,
        num_steps: Count = 128,
        num_epochs: Count = 4,
        minibatch_size: Count = 256,
        gamma: Fraction = 0.99,
        gae_lambda: Fraction = 0.95,
        clip_coef: Positive = 0.2,
        clip_anneal_env_steps: Count | None = None,
        value_clip: Positive | None = None,
        target_kl: Positive | None = None,
        value_coef: NotNegative = 0.5,
        entropy_coef: NotNegative = 0.0,
        max_grad_norm: PositiveOrInfinite = 0.5,
        normalize_advantage: bool = True,
        normalize_observation: bool = False,
        normalize_reward: bool = False,
        hidden: Widths = (64, 64),
        images: Literal["nature", "impala"] = "nature",
        channels: Literal["first", "last"] | None = None,
        memory: Literal["lstm", "gru"] | None = None,
        memory_size: Count = 128,
        std: Literal["free", "state"] = "free",
        log_std: Annotated[float, Range(ge=-20, le=2)] = 0.0,
        squash: bool = False,
        env_runners: CountOrZero = 0,
        env_timeout_s: Positive = 300.0,
        eval_episodes: Count = 10,
        test_episodes: Count = 100,
        eval_deterministic: bool = True,
        max_eval_steps: Count = 100_000,
    ) -> None:
        if memory is not None and run.compile:  # a graph of T unrolled steps would take longer to compile than to run
            run = dataclasses.replace(run, compile=False)
        self.run = run
        envs, num_envs = training_envs(run, env, env_runners)
        self.num_steps = num_steps
        self.num_epochs = num_epochs
        batch = num_steps * num_envs
        minibatch = run.share(minibatch_size, "agent.minibatch_size")
        sizes: dict[str, Any] = {
            "agent.minibatch_size": minibatch_size,
            "agent.num_steps": num_steps,
            "agent.memory": memory,
            "env.num_envs": num_envs * run.world_size,
        }
        require_divisible(self.divides, sizes, group="agent", workers=run.world_size)
        self.num_minibatches = batch // minibatch
        self.lr = lr
        self.lr_anneal_env_steps = lr_anneal_env_steps
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.clip_coef = clip_coef
        self.clip_anneal_env_steps = clip_anneal_env_steps
        self.value_clip = value_clip
        self.target_kl = target_kl
        self.value_coef = value_coef
        self.entropy_coef = entropy_coef
        self.max_grad_norm = max_grad_norm
        self.normalize_advantage = normalize_advantage

        self.actions = Actions(envs.action_space, squash=squash)
        self.net = ActorCritic(
            observation_space=envs.observation_space,
            actions=self.actions,
            hidden=hidden,
            generator=run.generator("init"),
            normalized=normalize_observation,
            images=images,
            channels=channels,
            memory=memory,
            memory_size=memory_size,
            std=std,
            log_std=log_std,
        ).to(run.device)
        self.flat = Flat(self.net, run)
        self.acting = Acting(self.flat, deterministic=eval_deterministic)
        self.optimizer = Optimizer(self.flat.theta, kind="adam", eps=1e-5)
        self.normaliser = Normaliser(
            run=run, encoder=self.net.encoder, num_envs=num_envs, rewards=normalize_reward, gamma=gamma
        )
        self.act_rng = run.generator("act", run.rank, device=run.device)
        self.shuffle_rng = run.generator("shuffle", run.rank, device=run.device)
        self.collector = make_collector(
            run=run,
            env=env,
            envs=envs,
            act=self.acting,
            state_size=self.net.state_size,
            num_runners=env_runners,
            timeout_s=env_timeout_s,
        )
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self._compiled_advantages = run.compiled(self._advantages)
        self._compiled_updates = run.compiled(self._updates)
        # One graph of several updates, but of no more than compile in reasonable time.
        self.block = max(n for n in range(1, 9) if self.num_minibatches % n == 0)

    def step(self) -> dict[str, Tensor]:
        collector, device = self.collector, self.run.device
        # As tensors: another value is not another graph. By a fill: torch.tensor would wait for the device.
        scheduled = (
            linear_schedule(self.lr, 0.0, collector.env_steps, self.lr_anneal_env_steps),
            linear_schedule(self.clip_coef, 0.0, collector.env_steps, self.clip_anneal_env_steps),
        )
        lr, clip_coef = (torch.full((), value, device=device) for value in scheduled)

        before = collector.state_NM, collector.begins_N
        rollout = collector.collect(self.actions.noise(self.num_steps, collector.num_envs, self.act_rng))
        reward_TN = self.normaliser.reward(rollout)
        batch, metrics, collector.in_progress = self._compiled_advantages(
            rollout, reward_TN, *before, collector.in_progress
        )
        number = collector.num_envs * (1 if batch.memory else self.num_steps)  # of what minibatches are made of
        updates = []
        for epoch in range(self.num_epochs):
            order = torch.randperm(number, generator=self.shuffle_rng, device=device)
            for index in order.view(self.num_minibatches, -1).split(self.block):
                updates.append(self._compiled_updates(batch, index, lr, clip_coef))
            if self.target_kl is not None and epoch + 1 < self.num_epochs:
                kl = torch.cat(updates[-(self.num_minibatches // self.block) :])[:, METRICS.index("approx_kl")].mean()
                if self.run.mean(kl) > self.target_kl:
                    break
        self.normaliser.observe(rollout)
        means = torch.cat(updates).mean(0)
        return dict(zip(METRICS, means.unbind(), strict=True)) | metrics | {"lr": lr}

    @torch.no_grad()
    def _advantages(
        self, rollout: Rollout, reward_TN: Tensor, state_NM: Tensor, begins_N: Tensor, in_progress: InProgress
    ) -> tuple[Batch, dict[str, Tensor], InProgress]:
        """What the updates are of; its metrics, and see `episodes`.

        Args:
            reward_TN: as the agent is to see them.
            state_NM, begins_N: the collector's, before the rollout.
        """
        action, log_prob_TN, *states = rollout.kept
        memory: tuple[Tensor, ...] = ()
        if states:
            memory = state_NM, torch.cat((begins_N.unsqueeze(0), rollout.ended[:-1]))
        _, value, _ = self.flat(self.flat.theta, rollout.obs.flatten(0, 1), *memory, policy=False)
        # One step further from each state, so that a truncated episode bootstraps from its own last observation.
        after = [state.flatten(0, 1) for state in states]
        _, next_value, _ = self.flat(self.flat.theta, rollout.next_obs.flatten(0, 1), *after, policy=False)
        value_TN, next_value_TN = value.view_as(reward_TN), next_value.view_as(reward_TN)
        ends = rollout.terminated, rollout.ended
        advantage_TN = gae(reward_TN, value_TN, next_value_TN, *ends, gamma=self.gamma, lam=self.gae_lambda)
        return_TN = advantage_TN + value_TN
        metrics, in_progress = episodes(rollout.reward, rollout.ended, in_progress, rollout.live)
        metrics["explained_variance"] = explained_variance(value_TN, return_TN, rollout.live)
        batch = Batch(rollout.obs, action, log_prob_TN, advantage_TN, return_TN, value_TN, rollout.live, memory)
        return batch, metrics, in_progress

    @torch.no_grad()
    def _updates(self, batch: Batch, index: Tensor, lr: Tensor, clip_coef: Tensor) -> Tensor:
        """One update for each row of indices, int64 [updates, B], see `Batch.take`; their `METRICS`, float32
        [updates, 6]."""
        metrics = []
        for index_B in index.unbind():
            gradient_P, of_loss = self.flat.gradient(self._loss, batch.take(index_B), clip_coef)
            gradient_P, _ = clipped(self.run.mean(gradient_P), self.max_grad_norm)
            self.optimizer.step(gradient_P, lr)
            metrics.append(of_loss)
        return torch.stack(metrics)

    def _loss(self, theta: Tensor, minibatch: Batch, clip_coef: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a minibatch and its `METRICS`, float32 [6]."""
        mean = partial(live_mean, live=minibatch.live)
        advantage_B = (
            normalized(minibatch.advantage, minibatch.live) if self.normalize_advantage else minibatch.advantage
        )
        policy, value_B, _ = self.flat(theta, minibatch.obs, *minibatch.memory)
        log_prob_B, entropy_B = policy.log_prob_and_entropy(minibatch.action)
        # With a memory dead steps are of different states, and e to their difference may be inf.
        log_ratio_B = where_live(log_prob_B - minibatch.log_prob, minibatch.live)
        ratio_B = log_ratio_B.exp()

        policy_loss = mean(clipped_surrogate_loss(ratio_B, advantage_B, clip_coef))
        if self.value_clip is None:
            value_loss = mean(squared_error(value_B, minibatch.return_))
        else:
            value_loss = mean(clipped_value_loss(value_B, minibatch.value, minibatch.return_, self.value_clip))
        entropy = mean(entropy_B)
        loss = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        kl, fraction = mean(approx_kl(log_ratio_B)), mean(clip_fraction(ratio_B, clip_coef))
        return loss, torch.stack((loss, policy_loss, value_loss, entropy, kl, fraction)).detach()

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "normaliser": self.normaliser.state_dict(),
            "collector": self.collector.state_dict(),
            "act_rng": self.act_rng.get_state(),
            "shuffle_rng": self.shuffle_rng.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        begun_anew_N = self.collector.load_state_dict(state["collector"])
        self.normaliser.load_state_dict(state["normaliser"], begun_anew_N)
        self.act_rng.set_state(state["act_rng"].cpu())
        self.shuffle_rng.set_state(state["shuffle_rng"].cpu())
