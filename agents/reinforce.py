"""REINFORCE (Williams 1992, doi:10.1007/BF00992696), with a learnt baseline or without.

As in the paper: the return of a whole episode weighs the log-probabilities of its actions, and a baseline that does not
depend on the action lowers the variance without a bias. What differs: an action is weighed by the rewards that follow
it, discounted from there (Sutton and Barto, section 13.4, without the factor gamma^t), and the loss is the mean over
the steps of all episodes instead of their sum, so that lr need not fall as episodes grow longer. With a baseline, the
future of a truncated episode is worth V of its last observation; without one there is nothing to say what it is worth,
and a truncated episode counts as one that ended.

Shapes: T time, N envs of this worker, B = T * N, A see `policies`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from trivium.agents.agent import Agent
from trivium.agents.envs.protocol import Envs
from trivium.agents.evaluation.acting import Acting
from trivium.agents.evaluation.returns import Evaluation
from trivium.agents.networks.actor_critic import ActorCritic
from trivium.agents.optim.flat import Flat, Optimizer, clipped
from trivium.agents.policies import Actions
from trivium.agents.returns import linear_recurrence, linear_schedule, squared_error
from trivium.agents.rollouts.collector import BLOCK, Rollout
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

log = logging.getLogger("trivium")


def returns_to_go(reward_TN: Tensor, bootstrap_TN: Tensor, ended_TN: Tensor, *, gamma: float) -> Tensor:
    """The discounted return from each step to the end of its episode.

    G_t = r_t + gamma * (b_t where ended_t, else G_{t+1}),  G_T = 0

    Args:
        reward_TN: float32 [T, N].
        bootstrap_TN: float32 [T, N], b: what the future is worth after the last step of an episode; 0 where it was
            terminated. Elsewhere it may be anything.
        ended_TN: bool [T, N], see `gae`.
        gamma: discount, in [0, 1].

    Returns:
        float32 [T, N]; for the steps of an episode that has not ended by T, only what came so far.

    Example:
        r = [1, 1, 1], gamma = 0.5, terminated after the second step -> [1.5, 1, 1];
        truncated there with b = 4 -> [2.5, 3, 1].
    """
    decay_TN = gamma * ended_TN.logical_not()
    x_TN = reward_TN + gamma * bootstrap_TN.masked_fill(~ended_TN, 0.0)
    return linear_recurrence(x_TN.flip(0), decay_TN.flip(0)).flip(0)


def first_episodes(ended_TN: Tensor) -> Tensor:
    """bool [T, N], the steps of each env's first episode where it ended by T; nothing of an unfinished episode.

    Example:
        ended = [0, 1, 0, 1] -> [1, 1, 0, 0]; ended = [0, 0, 0, 0] -> [0, 0, 0, 0]
    """
    ends_TN = ended_TN.cumsum(0)
    return ((ends_TN - ended_TN.long()) == 0) & (ends_TN[-1] > 0)


class REINFORCE(Agent):
    """A `Learner`: each step is one whole episode of each env, begun with the present policy, and one update.

    An episode counts whether it is short or long: taking the first to end, or all that end within so many steps, would
    prefer the short ones. An env that is done goes on until the last one is, which is thrown away; the env steps count
    it. Every worker makes one update, however many steps its episodes took; the gradient is that of the mean over the
    steps of all workers.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream` and perhaps `num_envs`; see `envs.environment.make`.
        lr: of Adam, before annealing; > 0.
        lr_anneal_env_steps: env steps after which lr has fallen linearly to 0; usually the budget. None: never.
        gamma: discount, in [0, 1].
        baseline: learn V(s) and subtract it from the returns.
        value_coef: weight of the baseline's squared error, >= 0.
        entropy_coef: weight of the entropy bonus, >= 0.
        max_grad_norm: gradients are scaled down to this global norm; > 0, inf for never.
        normalize_advantage: returns, less the baseline, to mean 0 and standard deviation 1 over the steps of all
            workers: a baseline too, and a slightly biased one, of the same episodes.
        hidden: widths of the hidden layers, see `ActorCritic`.
        images, channels, std, log_std: see `ActorCritic`.
        squash: see `Actions`.
        max_steps: episodes are truncated after so many steps, for envs without a time limit; the log says so once.
        env_runners: Ray actors that the envs are on, see `EnvRunners`; 0: none, they are here.
        env_timeout_s: a part of a rollout there that takes longer has an env that hangs.
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
        lr: LearningRate = 3e-3,
        lr_anneal_env_steps: Count | None = None,
        gamma: Fraction = 0.99,
        baseline: bool = True,
        value_coef: NotNegative = 0.5,
        entropy_coef: NotNegative = 0.0,
        max_grad_norm: PositiveOrInfinite = 0.5,
        normalize_advantage: bool = True,
        hidden: Widths = (64, 64),
        images: Literal["nature", "impala"] = "nature",
        channels: Literal["first", "last"] | None = None,
        std: Literal["free", "state"] = "free",
        log_std: Annotated[float, Range(ge=-20, le=2)] = 0.0,
        squash: bool = False,
        max_steps: Count = 10_000,
        env_runners: CountOrZero = 0,
        env_timeout_s: Positive = 300.0,
        eval_episodes: Count = 10,
        test_episodes: Count = 100,
        eval_deterministic: bool = True,
        max_eval_steps: Count = 100_000,
    ) -> None:
        self.run = run
        envs, _ = training_envs(run, env, env_runners)
        self.lr = lr
        self.lr_anneal_env_steps = lr_anneal_env_steps
        self.gamma = gamma
        self.baseline = baseline
        self.value_coef = value_coef
        self.entropy_coef = entropy_coef
        self.max_grad_norm = max_grad_norm
        self.normalize_advantage = normalize_advantage
        self.max_steps = max_steps
        self._has_told = False  # that episodes were cut

        self.actions = Actions(envs.action_space, squash=squash)
        self.net = ActorCritic(
            observation_space=envs.observation_space,
            actions=self.actions,
            hidden=hidden,
            generator=run.generator("init"),
            images=images,
            channels=channels,
            std=std,
            log_std=log_std,
        ).to(run.device)
        self.net.critic.requires_grad_(baseline)
        self.flat = Flat(self.net, run)
        self.acting = Acting(self.flat, deterministic=eval_deterministic)
        self.optimizer = Optimizer(self.flat.theta, kind="adam", eps=1e-5)
        self.act_rng = run.generator("act", run.rank, device=run.device)
        self.collector = make_collector(
            run=run, env=env, envs=envs, act=self.acting, num_runners=env_runners, timeout_s=env_timeout_s
        )
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self._compiled_update = run.compiled(self._update, dynamic=True)

    def step(self) -> dict[str, Tensor]:
        lr = linear_schedule(self.lr, 0.0, self.collector.env_steps, self.lr_anneal_env_steps)
        return self._compiled_update(self._collect(), torch.full((), lr, device=self.run.device))

    def _collect(self) -> Rollout:
        """Whole episodes: until each env has ended one, truncated after `max_steps`."""
        collector = self.collector
        collector.reset()
        running_N = torch.ones_like(collector.begins_N)
        began_at, parts, steps = collector.env_steps, [], 0
        # In blocks: to ask whether all episodes have ended makes the host wait for the device.
        while steps < self.max_steps and running_N.any():
            num_steps = min(BLOCK, self.max_steps - steps)
            parts.append(collector.collect(self.actions.noise(num_steps, len(running_N), self.act_rng)))
            running_N = running_N & ~parts[-1].ended.any(0)
            steps += num_steps
        made = steps * len(running_N)
        if self.run.world_size > 1:  # episodes of other workers last longer or shorter
            made = int(self.run.sum(torch.tensor(made, device=self.run.device)))
        collector.env_steps = began_at + made
        # Without `live`: a step that only begins an episode comes after an env's first one.
        columns = zip(*(part[:5] for part in parts), strict=True)
        obs, reward, terminated, truncated, next_obs = (torch.cat(column) for column in columns)
        truncated[-1] |= running_N
        if steps >= self.max_steps and not self._has_told:
            self._tell_of(int(running_N.sum()))
        action = torch.cat([part.kept[0] for part in parts])
        return Rollout(obs, reward, terminated, truncated, next_obs, (action,))

    def _tell_of(self, num_cut: int) -> None:
        if num_cut:
            self._has_told = True
            log.warning(
                "agent.max_steps=%d: %d of %d episodes had not ended and were truncated there; if an env's never end, "
                "fewer steps make more updates",
                self.max_steps,
                num_cut,
                self.collector.num_envs,
            )

    @torch.no_grad()
    def _update(self, rollout: Rollout, lr: Tensor) -> dict[str, Tensor]:
        """One update, and its metrics."""
        whole_TN = first_episodes(rollout.ended)
        whole_B = whole_TN.flatten().float()
        bootstrap_TN = torch.zeros_like(rollout.reward)
        if self.baseline:
            _, bootstrap_B, _ = self.flat(self.flat.theta, rollout.next_obs.flatten(0, 1), policy=False)
            bootstrap_TN = bootstrap_B.view_as(rollout.reward).masked_fill(rollout.terminated, 0.0)
        return_B = returns_to_go(rollout.reward, bootstrap_TN, rollout.ended, gamma=self.gamma).flatten()
        # Workers hold different numbers of steps, and average their gradients: with these weights, which sum to the
        # number of workers, the average is the mean over all steps. A worker without a whole episode adds nothing.
        count = self.run.sum(whole_B.sum()).clamp_min(1)
        weight_B = whole_B * (self.run.world_size / count)
        advantage_B = return_B
        if self.baseline:
            _, value_B, _ = self.flat(self.flat.theta, rollout.obs.flatten(0, 1), policy=False)
            advantage_B = return_B - value_B
        if self.normalize_advantage:
            advantage_B = self._normalized(advantage_B, whole_B, count)

        gradient_P, metrics = self.flat.gradient(self._loss, rollout, return_B, advantage_B, weight_B)
        gradient_P, metrics["grad_norm"] = clipped(self.run.mean(gradient_P), self.max_grad_norm)
        self.optimizer.step(gradient_P, lr)

        number = whole_TN[0].sum()
        metrics["episode_return"] = (rollout.reward * whole_TN).sum() / number
        metrics["episode_length"] = whole_TN.sum() / number
        return metrics | {"lr": lr}

    def _loss(
        self, theta: Tensor, rollout: Rollout, return_B: Tensor, advantage_B: Tensor, weight_B: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        policy, value_B, _ = self.flat(theta, rollout.obs.flatten(0, 1), value=self.baseline)
        log_prob_B, entropy_B = policy.log_prob_and_entropy(rollout.action.flatten(0, 1))
        policy_loss = -(weight_B * log_prob_B * advantage_B).sum()
        entropy = (weight_B * entropy_B).sum()
        loss = policy_loss - self.entropy_coef * entropy
        metrics = {"policy_loss": policy_loss.detach(), "entropy": entropy.detach()}
        if self.baseline:
            value_loss = (weight_B * squared_error(value_B, return_B)).sum()
            loss = loss + self.value_coef * value_loss
            metrics["value_loss"] = value_loss.detach()
        return loss, metrics | {"loss": loss.detach()}

    def _normalized(self, advantage_B: Tensor, whole_B: Tensor, count: Tensor) -> Tensor:
        """Mean 0 and standard deviation 1 over the whole episodes of all workers; elsewhere anything finite."""
        centred_B = advantage_B - self.run.sum((whole_B * advantage_B).sum()) / count
        variance = self.run.sum((whole_B * centred_B.square()).sum()) / count
        return centred_B / (variance.sqrt() + 1e-8)

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "collector": self.collector.state_dict(),
            "act_rng": self.act_rng.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.collector.load_state_dict(state["collector"])
        self.act_rng.set_state(state["act_rng"].cpu())
