"""Proximal policy optimization (arXiv:1707.06347), with generalized advantage estimation.

As in the paper: the clipped surrogate objective, several epochs of minibatches over each rollout. From its authors'
code: orthogonal initialisation, Adam with eps 1e-5, advantages normalised in each minibatch, gradients clipped by their
global norm, a learning rate that may fall linearly. Not from their code: the clipped value loss (it did not help in
arXiv:2006.05990). Not in either: truncated episodes bootstrap from their own last observation.

Shapes: T time, N envs of this worker, B minibatch of this worker, A see `policies`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trivium.agents.envs import Envs
from trivium.agents.evaluation import Evaluation
from trivium.agents.networks import ActorCritic
from trivium.agents.normalise import Normaliser
from trivium.agents.returns import explained_variance, gae, mean_where, running_sum
from trivium.learner import Run


def clipped_surrogate_loss(ratio_B: Tensor, advantage_B: Tensor, clip_coef: float) -> Tensor:
    """-mean(min(r A, clip(r, 1 - eps, 1 + eps) A)), equation 7 of arXiv:1707.06347.

    Args:
        ratio_B: float32 [B], r = pi(a) / pi_old(a) > 0.
        advantage_B: float32 [B], A, constants.
        clip_coef: eps, >= 0.

    Returns:
        0-d.
    """
    clipped_B = ratio_B.clamp(1 - clip_coef, 1 + clip_coef)
    return -torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B).mean()


def value_loss(value_B: Tensor, return_B: Tensor) -> Tensor:
    """mean((V - R)^2), 0-d; both float32 [B], the returns constants."""
    return (value_B - return_B).square().mean()


def approx_kl(log_ratio_B: Tensor) -> Tensor:
    """KL(pi_old || pi) in nats, estimated from samples of pi_old as mean(r - 1 - log r), 0-d, never negative
    (joschu.net/blog/kl-approx.html); `log_ratio_B` is log r, float32 [B]."""
    return (log_ratio_B.expm1() - log_ratio_B).mean()


def clip_fraction(ratio_B: Tensor, clip_coef: float) -> Tensor:
    """The fraction of ratios further than eps from 1, 0-d in [0, 1]; see `clipped_surrogate_loss`."""
    return ((ratio_B - 1).abs() > clip_coef).float().mean()


def normalized(advantage_B: Tensor) -> Tensor:
    """float32 [B] with mean 0 and standard deviation 1; a single advantage, which has none, stays as it is."""
    if len(advantage_B) == 1:
        return advantage_B
    std, mean = torch.std_mean(advantage_B)
    return (advantage_B - mean) / (std + 1e-8)


def annealed(start: float, env_steps: int, anneal_env_steps: int | None) -> float:
    """Falls linearly from `start` at 0 env steps to 0 at `anneal_env_steps` and stays there; None: does not fall."""
    if anneal_env_steps is None:
        return start
    return start * max(0.0, 1 - env_steps / anneal_env_steps)


class PPO:
    """A `Learner`: each step is one rollout of `num_steps` in each env, and its updates.

    Sizes are those of the whole run. Workers hold equal shares and make equally many minibatches; gradients are
    averaged over them, while advantages are normalised by each over its own part of the minibatch.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream` and perhaps `num_envs`; see `envs.make`.
        lr: of Adam, before annealing; > 0.
        lr_anneal_env_steps: env steps after which lr has fallen to 0, see `annealed`; usually the budget.
        num_steps: T, steps of each env in a rollout.
        num_epochs: passes over each rollout.
        minibatch_size: transitions an update; must divide num_steps * env.num_envs.
        gamma: discount, in [0, 1].
        gae_lambda: see `gae`.
        clip_coef: eps of `clipped_surrogate_loss`.
        clip_anneal_env_steps: the same for eps as `lr_anneal_env_steps` for lr.
        value_coef: weight of `value_loss`, >= 0.
        entropy_coef: weight of the entropy bonus, >= 0.
        max_grad_norm: gradients are scaled down to this global norm; > 0, inf for never.
        normalize_advantage: see `normalized`.
        normalize_observation, normalize_reward: see `Normaliser`.
        hidden: widths of the hidden layers, see `ActorCritic`.
        eval_episodes: of an evaluation during training, over all workers.
        test_episodes: of the final one.
        eval_deterministic: act by the mode of the policy in evaluation, else sample.
        max_eval_steps: an episode of evaluation is cut after so many steps, for envs without a time limit.

    Raises:
        ValueError: a keyword is out of its range, or a size does not divide among workers or minibatches.
    """

    def __init__(
        self,
        *,
        run: Run,
        env: Callable[..., Envs],
        lr: float = 3e-4,
        lr_anneal_env_steps: int | None = None,
        num_steps: int = 128,
        num_epochs: int = 4,
        minibatch_size: int = 256,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_coef: float = 0.2,
        clip_anneal_env_steps: int | None = None,
        value_coef: float = 0.5,
        entropy_coef: float = 0.0,
        max_grad_norm: float = 0.5,
        normalize_advantage: bool = True,
        normalize_observation: bool = False,
        normalize_reward: bool = False,
        hidden: Sequence[int] = (64, 64),
        eval_episodes: int = 10,
        test_episodes: int = 100,
        eval_deterministic: bool = True,
        max_eval_steps: int = 100_000,
    ) -> None:
        for name, value, low, high in (
            ("lr", lr, 1e-12, math.inf),
            ("lr_anneal_env_steps", lr_anneal_env_steps, 1, math.inf),
            ("num_steps", num_steps, 1, math.inf),
            ("num_epochs", num_epochs, 1, math.inf),
            ("gamma", gamma, 0, 1),
            ("gae_lambda", gae_lambda, 0, 1),
            ("clip_coef", clip_coef, 0, math.inf),
            ("clip_anneal_env_steps", clip_anneal_env_steps, 1, math.inf),
            ("value_coef", value_coef, 0, math.inf),
            ("entropy_coef", entropy_coef, 0, math.inf),
            ("max_grad_norm", max_grad_norm, 1e-12, math.inf),
            ("eval_episodes", eval_episodes, 1, math.inf),
            ("test_episodes", test_episodes, 1, math.inf),
            ("max_eval_steps", max_eval_steps, 1, math.inf),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"agent.{name}={value} must be in [{low:g}, {high:g}]")
        self.run = run
        self.envs = env(run=run, stream="train")
        self.num_steps = num_steps
        self.num_epochs = num_epochs
        self.minibatch = run.share(minibatch_size, "agent.minibatch_size")
        self.batch = num_steps * self.envs.num_envs
        if self.batch % self.minibatch:
            raise ValueError(
                f"agent.minibatch_size={minibatch_size} must divide agent.num_steps * env.num_envs = "
                f"{self.batch * run.world_size}"
            )
        self.lr = lr
        self.lr_anneal_env_steps = lr_anneal_env_steps
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.clip_coef = clip_coef
        self.clip_anneal_env_steps = clip_anneal_env_steps
        self.value_coef = value_coef
        self.entropy_coef = entropy_coef
        self.max_grad_norm = max_grad_norm
        self.normalize_advantage = normalize_advantage
        self.eval_deterministic = eval_deterministic

        self.net = ActorCritic(
            observation_space=self.envs.observation_space,
            action_space=self.envs.action_space,
            hidden=hidden,
            generator=run.generator("init"),
        ).to(run.device)
        self.train_net = run.wrap(self.net)
        self.params = list(self.net.parameters())
        self.optimizer = torch.optim.Adam(self.params, lr=lr, eps=1e-5, fused=True)
        self.scaler = run.grad_scaler()
        self.normaliser = Normaliser(
            run=run,
            observation_space=self.envs.observation_space,
            num_envs=self.envs.num_envs,
            observations=normalize_observation,
            rewards=normalize_reward,
            gamma=gamma,
        )
        self.act_rng = run.generator("act", run.rank, device=run.device)
        self.shuffle_rng = run.generator("shuffle", run.rank, device=run.device)
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self.env_steps = 0
        self.envs.reset()
        self.return_N = torch.zeros(self.envs.num_envs, device=run.device)  # so far, of the episodes in progress
        self.length_N = torch.zeros(self.envs.num_envs, device=run.device)

    def step(self) -> dict[str, Tensor]:
        lr = annealed(self.lr, self.env_steps, self.lr_anneal_env_steps)
        clip_coef = annealed(self.clip_coef, self.env_steps, self.clip_anneal_env_steps)
        self.optimizer.param_groups[0]["lr"] = lr
        rollout, metrics = self._collect()

        updates = []
        for _ in range(self.num_epochs):
            order = torch.randperm(self.batch, generator=self.shuffle_rng, device=self.run.device)
            shuffled = [tensor[order].split(self.minibatch) for tensor in rollout]
            for obs, action, old_log_prob_B, advantage_B, return_B in zip(*shuffled, strict=True):
                if self.normalize_advantage:
                    advantage_B = normalized(advantage_B)
                with self.run.autocast():
                    policy, value_B = self.train_net(obs)
                log_prob_B, entropy_B = policy.log_prob_and_entropy(action)
                log_ratio_B = log_prob_B - old_log_prob_B
                ratio_B = log_ratio_B.exp()
                policy_loss = clipped_surrogate_loss(ratio_B, advantage_B, clip_coef)
                critic_loss = value_loss(value_B, return_B)
                entropy = entropy_B.mean()
                loss = policy_loss + self.value_coef * critic_loss - self.entropy_coef * entropy

                self.optimizer.zero_grad()
                self.scaler.scale(loss).backward()
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.params, self.max_grad_norm)
                self.scaler.step(self.optimizer)
                self.scaler.update()

                kl = approx_kl(log_ratio_B.detach())
                clipped = clip_fraction(ratio_B.detach(), clip_coef)
                updates.append(
                    (loss.detach(), policy_loss.detach(), critic_loss.detach(), entropy.detach(), kl, clipped)
                )

        names = ("loss", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
        for name, values in zip(names, zip(*updates, strict=True), strict=True):
            metrics[name] = torch.stack(values).mean()
        metrics["lr"] = torch.tensor(lr, device=self.run.device)
        return metrics

    @torch.no_grad()
    def _collect(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        """One rollout: obs (normalised), action, log-probability, advantage and return, [T * N, ...] each; and its
        metrics."""
        obs, transitions = self.envs.obs, []
        for _ in range(self.num_steps):
            with self.run.autocast():
                action = self.net.policy(self.normaliser.obs(obs)).sample(self.act_rng)
            step = self.envs.step(self.net.to_env(action))
            transitions.append((obs, action, step.reward, step.terminated, step.truncated, step.next_obs))
            obs = step.obs
        self.env_steps += self.batch * self.run.world_size

        columns = [torch.stack(column) for column in zip(*transitions, strict=True)]
        raw_obs_TN, action_TN, raw_reward_TN, terminated_TN, truncated_TN, raw_next_obs_TN = columns
        ended_TN = terminated_TN | truncated_TN
        obs_TN, next_obs_TN = self.normaliser.obs(raw_obs_TN), self.normaliser.obs(raw_next_obs_TN)
        reward_TN = self.normaliser.reward(raw_reward_TN, ended_TN)
        self.normaliser.observe(raw_obs_TN)
        # Values, and the log-probabilities of the policy that acted, in one pass over the rollout: cheaper than in T.
        with self.run.autocast():
            policy, value = self.net(obs_TN.flatten(0, 1))
            next_value = self.net.value(next_obs_TN.flatten(0, 1))
        log_prob, _ = policy.log_prob_and_entropy(action_TN.flatten(0, 1))
        value_TN, next_value_TN = value.view_as(reward_TN), next_value.view_as(reward_TN)
        advantage_TN = gae(
            reward_TN, value_TN, next_value_TN, terminated_TN, ended_TN, gamma=self.gamma, lam=self.gae_lambda
        )
        return_TN = advantage_TN + value_TN

        episode_return_TN, self.return_N = running_sum(raw_reward_TN, ended_TN, self.return_N)
        episode_length_TN, self.length_N = running_sum(torch.ones_like(reward_TN), ended_TN, self.length_N)
        metrics = {
            "explained_variance": explained_variance(value_TN, return_TN),
            "episode_return": mean_where(episode_return_TN, ended_TN),
            "episode_length": mean_where(episode_length_TN, ended_TN),
        }
        rollout = [obs_TN, action_TN, log_prob.view_as(reward_TN), advantage_TN, return_TN]
        return [tensor.flatten(0, 1) for tensor in rollout], metrics

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        """See `Evaluation`."""
        return self.evaluation(self._act_in_evaluation, final=final)

    def _act_in_evaluation(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        with self.run.autocast():
            policy = self.net.policy(self.normaliser.obs(obs))
        return self.net.to_env(policy.mode() if self.eval_deterministic else policy.sample(generator))

    def counters(self) -> dict[str, float]:
        return {"env_steps": self.env_steps}

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "normaliser": self.normaliser.state_dict(),
            "env_steps": self.env_steps,
            "envs": self.envs.state_dict(),
            "return": self.return_N,
            "length": self.length_N,
            "act_rng": self.act_rng.get_state(),
            "shuffle_rng": self.shuffle_rng.get_state(),
        }

    def load_weights(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.normaliser.load_weights(state["normaliser"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.env_steps = state["env_steps"]
        begun_anew_N = self.envs.load_state_dict(state["envs"])
        self.normaliser.load_state_dict(state["normaliser"], begun_anew_N)
        self.return_N = state["return"].to(self.run.device).masked_fill(begun_anew_N, 0.0)
        self.length_N = state["length"].to(self.run.device).masked_fill(begun_anew_N, 0.0)
        self.act_rng.set_state(state["act_rng"].cpu())
        self.shuffle_rng.set_state(state["shuffle_rng"].cpu())
