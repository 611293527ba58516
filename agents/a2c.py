"""Advantage actor-critic: the synchronous form of A3C (arXiv:1602.01783), with generalized advantage estimation.

As in the paper: a short rollout in each env, n-step returns (`gae_lambda` = 1), an entropy bonus, RMSprop, one update a
rollout. From OpenAI's baselines: all envs in step instead of asynchronous workers, gradients clipped by their global
norm, RMSprop with eps 1e-5. Not in either: separate networks for actor and critic, Adam by choice, normalised
advantages by choice, and truncated episodes bootstrap from their own last observation.

Shapes: T time, N envs of this worker, B = T * N, A see `policies`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

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
from trivium.learner import Run


def policy_gradient_loss(log_prob_B: Tensor, advantage_B: Tensor) -> Tensor:
    """-log pi(a) A, float32 [B]: the gradient of its mean is that of the expected return, negated.

    Args:
        log_prob_B: float32 [B], log pi(a).
        advantage_B: float32 [B], A, constants.

    Raises:
        ValueError: the tensors differ in shape.
    """
    check_shapes(log_prob_B=log_prob_B, advantage_B=advantage_B)
    return -(log_prob_B * advantage_B)


class A2C(Agent):
    """A `Learner`: each step is one rollout of `num_steps` in each env, and one update.

    Sizes are those of the whole run. Workers hold equal shares; gradients are averaged over them, while advantages
    are normalised by each over its own rollout. Where steps of the envs are no transitions (see `Rollout`), the means
    are over those of a worker's rollout that are; workers weigh equally, however many they have.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream` and perhaps `num_envs`; see `envs.environment.make`.
        optimizer: `rmsprop` (alpha 0.99) or `adam`, both with eps 1e-5.
        lr: > 0, before annealing.
        lr_anneal_env_steps: env steps after which lr has fallen linearly to 0; usually the budget. None: never.
        num_steps: T, steps of each env in a rollout.
        gamma: discount, in [0, 1].
        gae_lambda: see `gae`; 1 gives the n-step returns of the paper.
        value_coef: weight of the critic's squared error, >= 0.
        entropy_coef: weight of the entropy bonus, >= 0.
        max_grad_norm: gradients are scaled down to this global norm; > 0, inf for never.
        normalize_advantage: in each rollout, see `normalized`.
        normalize_observation, normalize_reward: see `Normaliser`.
        hidden: widths of the hidden layers, see `ActorCritic`.
        images, channels, std, log_std: see `ActorCritic`.
        squash: see `Actions`.
        env_runners: Ray actors that the envs are on, see `EnvRunners`; 0: none, they are here.
        env_timeout_s: a rollout there that takes longer has an env that hangs.
        eval_episodes: of an evaluation during training, over all workers.
        test_episodes: of the final one.
        eval_deterministic: act by the mode of the policy in evaluation, else sample.
        max_eval_steps: an episode of evaluation is cut after so many steps, for envs without a time limit.

    Raises:
        ValueError: a keyword is out of its range, a space is not supported, or env.num_envs does not divide among the
            workers.
    """

    shared: ClassVar = ("env.num_envs",)
    divides: ClassVar = {"env_runners": "env.num_envs / workers"}

    @checks_keywords
    def __init__(
        self,
        *,
        run: Run,
        env: Callable[..., Envs],
        optimizer: Literal["rmsprop", "adam"] = "rmsprop",
        lr: LearningRate = 7e-4,
        lr_anneal_env_steps: Count | None = None,
        num_steps: Count = 5,
        gamma: Fraction = 0.99,
        gae_lambda: Fraction = 1.0,
        value_coef: NotNegative = 0.5,
        entropy_coef: NotNegative = 0.0,
        max_grad_norm: PositiveOrInfinite = 0.5,
        normalize_advantage: bool = False,
        normalize_observation: bool = False,
        normalize_reward: bool = False,
        hidden: Widths = (64, 64),
        images: Literal["nature", "impala"] = "nature",
        channels: Literal["first", "last"] | None = None,
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
        self.run = run
        envs, num_envs = training_envs(run, env, env_runners)
        self.num_steps = num_steps
        self.lr = lr
        self.lr_anneal_env_steps = lr_anneal_env_steps
        self.gamma = gamma
        self.gae_lambda = gae_lambda
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
            std=std,
            log_std=log_std,
        ).to(run.device)
        self.flat = Flat(self.net, run)
        self.acting = Acting(self.flat, deterministic=eval_deterministic)
        self.optimizer = Optimizer(self.flat.theta, kind=optimizer, eps=1e-5)
        self.normaliser = Normaliser(
            run=run, encoder=self.net.encoder, num_envs=num_envs, rewards=normalize_reward, gamma=gamma
        )
        self.act_rng = run.generator("act", run.rank, device=run.device)
        self.collector = make_collector(
            run=run,
            env=env,
            envs=envs,
            act=self.acting,
            num_runners=env_runners,
            timeout_s=env_timeout_s,
        )
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self._compiled_update = run.compiled(self._update)

    def step(self) -> dict[str, Tensor]:
        collector = self.collector
        lr = torch.full(
            (), linear_schedule(self.lr, 0.0, collector.env_steps, self.lr_anneal_env_steps), device=self.run.device
        )
        rollout = collector.collect(self.actions.noise(self.num_steps, collector.num_envs, self.act_rng))
        reward_TN = self.normaliser.reward(rollout)
        metrics, collector.in_progress = self._compiled_update(rollout, reward_TN, collector.in_progress, lr)
        self.normaliser.observe(rollout)
        return metrics | {"lr": lr}

    @torch.no_grad()
    def _update(
        self, rollout: Rollout, reward_TN: Tensor, in_progress: InProgress, lr: Tensor
    ) -> tuple[dict[str, Tensor], InProgress]:
        """One update, by rewards as the agent is to see them; its metrics, and see `episodes`."""
        gradient_P, metrics = self.flat.gradient(self._loss, rollout, reward_TN)
        gradient_P, grad_norm = clipped(self.run.mean(gradient_P), self.max_grad_norm)
        self.optimizer.step(gradient_P, lr)
        of_episodes, in_progress = episodes(rollout.reward, rollout.ended, in_progress, rollout.live)
        return metrics | of_episodes | {"grad_norm": grad_norm}, in_progress

    def _loss(self, theta: Tensor, rollout: Rollout, reward_TN: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        policy, value_B, _ = self.flat(theta, rollout.obs.flatten(0, 1))
        with torch.no_grad():
            _, next_value_B, _ = self.flat(theta, rollout.next_obs.flatten(0, 1), policy=False)
        log_prob_B, entropy_B = policy.log_prob_and_entropy(rollout.action.flatten(0, 1))

        value_TN, next_value_TN = value_B.detach().view_as(reward_TN), next_value_B.detach().view_as(reward_TN)
        ends = rollout.terminated, rollout.ended
        advantage_TN = gae(reward_TN, value_TN, next_value_TN, *ends, gamma=self.gamma, lam=self.gae_lambda)
        return_TN = advantage_TN + value_TN
        if self.normalize_advantage:
            advantage_TN = normalized(advantage_TN, rollout.live)

        mean = partial(live_mean, live=None if rollout.live is None else rollout.live.flatten())
        policy_loss = mean(policy_gradient_loss(log_prob_B, advantage_TN.flatten()))
        value_loss = mean(squared_error(value_B, return_TN.flatten()))
        entropy = mean(entropy_B)
        loss = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        return loss, {
            "loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "explained_variance": explained_variance(value_TN, return_TN, rollout.live),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "normaliser": self.normaliser.state_dict(),
            "collector": self.collector.state_dict(),
            "act_rng": self.act_rng.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        begun_anew_N = self.collector.load_state_dict(state["collector"])
        self.normaliser.load_state_dict(state["normaliser"], begun_anew_N)
        self.act_rng.set_state(state["act_rng"].cpu())
