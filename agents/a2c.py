"""Advantage actor-critic: the synchronous form of A3C (arXiv:1602.01783), with generalized advantage estimation.

As in the paper: a short rollout in each env, n-step returns (`gae_lambda` = 1), an entropy bonus, RMSprop, one update a
rollout. From OpenAI's baselines: all envs in step instead of asynchronous workers, gradients clipped by their global
norm, RMSprop with eps 1e-5. Not in either: separate networks for actor and critic, Adam by choice, normalised
advantages by choice, and truncated episodes bootstrap from their own last observation.

Shapes: T time, N envs of this worker, B = T * N, A see `policies`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trivium.agents.envs import Envs
from trivium.agents.evaluation import Evaluation
from trivium.agents.networks import ActorCritic
from trivium.agents.normalise import Normaliser
from trivium.agents.returns import explained_variance, gae, mean_where, running_sum
from trivium.learner import Run


def policy_gradient_loss(log_prob_B: Tensor, advantage_B: Tensor) -> Tensor:
    """-mean(log pi(a) A), 0-d: its gradient is that of the expected return, negated.

    Args:
        log_prob_B: float32 [B], log pi(a).
        advantage_B: float32 [B], A, constants.
    """
    return -(log_prob_B * advantage_B).mean()


def value_loss(value_B: Tensor, return_B: Tensor) -> Tensor:
    """mean((V - R)^2), 0-d; both float32 [B], the returns constants."""
    return (value_B - return_B).square().mean()


class A2C:
    """A `Learner`: each step is one rollout of `num_steps` in each env, and one update.

    Sizes are those of the whole run. Workers hold equal shares; gradients are averaged over them, while advantages
    are normalised by each over its own rollout.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream` and perhaps `num_envs`; see `envs.make`.
        optimizer: `rmsprop` (alpha 0.99) or `adam`, both with eps 1e-5.
        lr: > 0, before annealing.
        lr_anneal_env_steps: env steps after which lr has fallen linearly to 0; usually the budget. None: never.
        num_steps: T, steps of each env in a rollout.
        gamma: discount, in [0, 1].
        gae_lambda: see `gae`; 1 gives the n-step returns of the paper.
        value_coef: weight of `value_loss`, >= 0.
        entropy_coef: weight of the entropy bonus, >= 0.
        max_grad_norm: gradients are scaled down to this global norm; > 0, inf for never.
        normalize_advantage: to mean 0 and standard deviation 1 in each rollout.
        normalize_observation, normalize_reward: see `Normaliser`.
        hidden: widths of the hidden layers, see `ActorCritic`.
        log_std: of the policy at the start, for Box actions, whose scale it should suit.
        eval_episodes: of an evaluation during training, over all workers.
        test_episodes: of the final one.
        eval_deterministic: act by the mode of the policy in evaluation, else sample.
        max_eval_steps: an episode of evaluation is cut after so many steps, for envs without a time limit.

    Raises:
        ValueError: a keyword is out of its range, a space is not supported, or env.num_envs does not divide among the
            workers.
    """

    def __init__(
        self,
        *,
        run: Run,
        env: Callable[..., Envs],
        optimizer: Literal["rmsprop", "adam"] = "rmsprop",
        lr: float = 7e-4,
        lr_anneal_env_steps: int | None = None,
        num_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        value_coef: float = 0.5,
        entropy_coef: float = 0.0,
        max_grad_norm: float = 0.5,
        normalize_advantage: bool = False,
        normalize_observation: bool = False,
        normalize_reward: bool = False,
        hidden: Sequence[int] = (64, 64),
        log_std: float = 0.0,
        eval_episodes: int = 10,
        test_episodes: int = 100,
        eval_deterministic: bool = True,
        max_eval_steps: int = 100_000,
    ) -> None:
        for name, value, low, high in (
            ("lr", lr, 1e-12, math.inf),
            ("lr_anneal_env_steps", lr_anneal_env_steps, 1, math.inf),
            ("num_steps", num_steps, 1, math.inf),
            ("gamma", gamma, 0, 1),
            ("gae_lambda", gae_lambda, 0, 1),
            ("value_coef", value_coef, 0, math.inf),
            ("entropy_coef", entropy_coef, 0, math.inf),
            ("max_grad_norm", max_grad_norm, 1e-12, math.inf),
            ("log_std", log_std, -20, 2),
            ("eval_episodes", eval_episodes, 1, math.inf),
            ("test_episodes", test_episodes, 1, math.inf),
            ("max_eval_steps", max_eval_steps, 1, math.inf),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"agent.{name}={value} must be in [{low:g}, {high:g}]")
        if optimizer not in ("rmsprop", "adam"):
            raise ValueError(f"agent.optimizer={optimizer!r} must be rmsprop or adam")
        self.run = run
        self.envs = env(run=run, stream="train")
        self.num_steps = num_steps
        self.lr = lr
        self.lr_anneal_env_steps = lr_anneal_env_steps
        self.gamma = gamma
        self.gae_lambda = gae_lambda
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
        if self.net.log_std_A is not None:
            nn.init.constant_(self.net.log_std_A, log_std)
        self.train_net = run.wrap(self.net)
        self.params = list(self.net.parameters())
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.RMSprop(self.params, lr=lr, alpha=0.99, eps=1e-5, foreach=True)
            if optimizer == "rmsprop"
            else torch.optim.Adam(self.params, lr=lr, eps=1e-5, fused=True)
        )
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
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self.env_steps = 0
        self.envs.reset()
        self.return_N = torch.zeros(self.envs.num_envs, device=run.device)  # so far, of the episodes in progress
        self.length_N = torch.zeros(self.envs.num_envs, device=run.device)

    def step(self) -> dict[str, Tensor]:
        lr = self.lr
        if self.lr_anneal_env_steps is not None:
            lr *= max(0.0, 1 - self.env_steps / self.lr_anneal_env_steps)
        self.optimizer.param_groups[0]["lr"] = lr
        obs_TN, action_TN, reward_TN, next_value_TN, terminated_TN, ended_TN, metrics = self._collect()

        with self.run.autocast():
            policy, value_B = self.train_net(obs_TN.flatten(0, 1))
        log_prob_B, entropy_B = policy.log_prob_and_entropy(action_TN.flatten(0, 1))
        value_TN = value_B.detach().view_as(reward_TN)
        advantage_TN = gae(
            reward_TN, value_TN, next_value_TN, terminated_TN, ended_TN, gamma=self.gamma, lam=self.gae_lambda
        )
        return_TN = advantage_TN + value_TN
        if self.normalize_advantage and advantage_TN.numel() > 1:
            std, mean = torch.std_mean(advantage_TN)
            advantage_TN = (advantage_TN - mean) / (std + 1e-8)

        policy_loss = policy_gradient_loss(log_prob_B, advantage_TN.flatten())
        critic_loss = value_loss(value_B, return_TN.flatten())
        entropy = entropy_B.mean()
        loss = policy_loss + self.value_coef * critic_loss - self.entropy_coef * entropy

        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.params, self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

        return metrics | {
            "loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "value_loss": critic_loss.detach(),
            "entropy": entropy.detach(),
            "grad_norm": grad_norm,
            "explained_variance": explained_variance(value_TN, return_TN),
            "lr": torch.full((), lr, device=self.run.device),
        }

    @torch.no_grad()
    def _collect(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """One rollout: obs, action, reward, V(next obs), terminated, ended, [T, N, ...] each, observations and rewards
        normalised; and its metrics."""
        obs, transitions = self.envs.obs, []
        for _ in range(self.num_steps):
            with self.run.autocast():
                action = self.net.policy(self.normaliser.obs(obs)).sample(self.act_rng)
            step = self.envs.step(self.net.to_env(action))
            transitions.append((obs, action, step.reward, step.terminated, step.truncated, step.next_obs))
            obs = step.obs
        self.env_steps += self.num_steps * self.envs.num_envs * self.run.world_size

        columns = [torch.stack(column) for column in zip(*transitions, strict=True)]
        raw_obs_TN, action_TN, raw_reward_TN, terminated_TN, truncated_TN, raw_next_obs_TN = columns
        ended_TN = terminated_TN | truncated_TN
        obs_TN, next_obs_TN = self.normaliser.obs(raw_obs_TN), self.normaliser.obs(raw_next_obs_TN)
        reward_TN = self.normaliser.reward(raw_reward_TN, ended_TN)
        self.normaliser.observe(raw_obs_TN)
        with self.run.autocast():
            next_value_B = self.net.value(next_obs_TN.flatten(0, 1))

        episode_return_TN, self.return_N = running_sum(raw_reward_TN, ended_TN, self.return_N)
        episode_length_TN, self.length_N = running_sum(torch.ones_like(reward_TN), ended_TN, self.length_N)
        metrics = {
            "episode_return": mean_where(episode_return_TN, ended_TN),
            "episode_length": mean_where(episode_length_TN, ended_TN),
        }
        return obs_TN, action_TN, reward_TN, next_value_B.view_as(reward_TN), terminated_TN, ended_TN, metrics

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
