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

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trivium.agents.envs import Envs
from trivium.agents.evaluation import Evaluation
from trivium.agents.networks import ActorCritic
from trivium.learner import Run


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
    return_N = torch.zeros_like(reward_TN[0])
    returns = []
    for reward_N, bootstrap_N, ended_N in zip(
        reversed(reward_TN.unbind()), reversed(bootstrap_TN.unbind()), reversed(ended_TN.unbind()), strict=True
    ):
        return_N = reward_N + gamma * torch.where(ended_N, bootstrap_N, return_N)
        returns.append(return_N)
    return torch.stack(returns[::-1])


def first_episodes(ended_TN: Tensor) -> Tensor:
    """bool [T, N], the steps of each env's first episode where it ended by T; nothing of an unfinished episode.

    Example:
        ended = [0, 1, 0, 1] -> [1, 1, 0, 0]; ended = [0, 0, 0, 0] -> [0, 0, 0, 0]
    """
    ends_TN = ended_TN.cumsum(0)
    return ((ends_TN - ended_TN.long()) == 0) & (ends_TN[-1] > 0)


class REINFORCE:
    """A `Learner`: each step is one whole episode of each env, begun with the present policy, and one update.

    An episode counts whether it is short or long: taking the first to end, or all that end within so many steps, would
    prefer the short ones. An env that is done goes on until the last one is, which is thrown away; the env steps count
    it. Every worker makes one update, however many steps its episodes took; the gradient is that of the mean over the
    steps of all workers.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream` and perhaps `num_envs`; see `envs.make`.
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
        log_std: of the policy at the start, for Box actions, whose scale it should suit.
        max_steps: episodes that last longer are left out of the update, for envs without a time limit.
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
        lr: float = 3e-3,
        lr_anneal_env_steps: int | None = None,
        gamma: float = 0.99,
        baseline: bool = True,
        value_coef: float = 0.5,
        entropy_coef: float = 0.0,
        max_grad_norm: float = 0.5,
        normalize_advantage: bool = True,
        hidden: Sequence[int] = (64, 64),
        log_std: float = 0.0,
        max_steps: int = 10_000,
        eval_episodes: int = 10,
        test_episodes: int = 100,
        eval_deterministic: bool = True,
        max_eval_steps: int = 100_000,
    ) -> None:
        for name, value, low, high in (
            ("lr", lr, 1e-12, math.inf),
            ("lr_anneal_env_steps", lr_anneal_env_steps, 1, math.inf),
            ("gamma", gamma, 0, 1),
            ("value_coef", value_coef, 0, math.inf),
            ("entropy_coef", entropy_coef, 0, math.inf),
            ("max_grad_norm", max_grad_norm, 1e-12, math.inf),
            ("log_std", log_std, -20, 2),
            ("max_steps", max_steps, 1, math.inf),
            ("eval_episodes", eval_episodes, 1, math.inf),
            ("test_episodes", test_episodes, 1, math.inf),
            ("max_eval_steps", max_eval_steps, 1, math.inf),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"agent.{name}={value} must be in [{low:g}, {high:g}]")
        self.run = run
        self.envs = env(run=run, stream="train")
        self.lr = lr
        self.lr_anneal_env_steps = lr_anneal_env_steps
        self.gamma = gamma
        self.baseline = baseline
        self.value_coef = value_coef
        self.entropy_coef = entropy_coef
        self.max_grad_norm = max_grad_norm
        self.normalize_advantage = normalize_advantage
        self.max_steps = max_steps
        self.eval_deterministic = eval_deterministic
        # Asking whether all episodes have ended makes the host wait for the device.
        self.ask_every = 1 if run.device.type == "cpu" else 32

        self.net = ActorCritic(
            observation_space=self.envs.observation_space,
            action_space=self.envs.action_space,
            hidden=hidden,
            generator=run.generator("init"),
        ).to(run.device)
        if self.net.log_std_A is not None:
            nn.init.constant_(self.net.log_std_A, log_std)
        self.net.critic.requires_grad_(baseline)
        self.train_net = run.wrap(self.net)
        self.params = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.params, lr=lr, eps=1e-5, fused=True)
        self.scaler = run.grad_scaler()
        self.act_rng = run.generator("act", run.rank, device=run.device)
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self.env_steps = 0
        self.envs.reset()

    def step(self) -> dict[str, Tensor]:
        lr = self.lr
        if self.lr_anneal_env_steps is not None:
            lr *= max(0.0, 1 - self.env_steps / self.lr_anneal_env_steps)
        self.optimizer.param_groups[0]["lr"] = lr
        obs_B, action_B, return_B, whole_B, metrics = self._collect()
        # Workers hold different numbers of steps, and average their gradients: with these weights, which sum to the
        # number of workers, the average is the mean over all steps. A worker without a whole episode adds nothing.
        weight_B = whole_B * (self.run.world_size / self.run.sum(whole_B.sum()).clamp_min(1))

        with self.run.autocast():
            policy, value_B = self.train_net(obs_B)
        log_prob_B, entropy_B = policy.log_prob_and_entropy(action_B)
        advantage_B = return_B - value_B.detach() if self.baseline else return_B
        if self.normalize_advantage:
            advantage_B = self._normalized(advantage_B, whole_B)
        policy_loss = -(weight_B * log_prob_B * advantage_B).sum()
        value_loss = (weight_B * (value_B - return_B).square()).sum()
        entropy = (weight_B * entropy_B).sum()
        loss = policy_loss - self.entropy_coef * entropy
        if self.baseline:
            loss = loss + self.value_coef * value_loss

        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.params, self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

        metrics |= {"loss": loss.detach(), "policy_loss": policy_loss.detach(), "entropy": entropy.detach()}
        if self.baseline:
            metrics["value_loss"] = value_loss.detach()
        return metrics | {"grad_norm": grad_norm, "lr": torch.full((), lr, device=self.run.device)}

    def _normalized(self, advantage_B: Tensor, whole_B: Tensor) -> Tensor:
        """Mean 0 and standard deviation 1 over the whole episodes of all workers; elsewhere anything finite."""
        count = self.run.sum(whole_B.sum()).clamp_min(1)
        centred_B = advantage_B - self.run.sum((whole_B * advantage_B).sum()) / count
        variance = self.run.sum((whole_B * centred_B.square()).sum()) / count
        return centred_B / (variance.sqrt() + 1e-8)

    @torch.no_grad()
    def _collect(self) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """An episode of each env: obs, action, return and whether it belongs to the episode (float32, 1 or 0), [B, ...]
        each; and its metrics."""
        obs, transitions = self.envs.reset(), []
        running_N = torch.ones(self.envs.num_envs, dtype=torch.bool, device=self.run.device)
        for t in range(1, self.max_steps + 1):
            with self.run.autocast():
                action = self.net.policy(obs).sample(self.act_rng)
            step = self.envs.step(self.net.to_env(action))
            transitions.append((obs, action, step.reward, step.terminated, step.truncated, step.next_obs))
            obs = step.obs
            running_N = running_N & ~(step.terminated | step.truncated)
            if t % self.ask_every == 0 and not running_N.any():
                break
        steps = torch.tensor(t * self.envs.num_envs, device=self.run.device)
        self.env_steps += int(self.run.sum(steps))

        columns = [torch.stack(column) for column in zip(*transitions, strict=True)]
        obs_TN, action_TN, reward_TN, terminated_TN, truncated_TN, next_obs_TN = columns
        ended_TN = terminated_TN | truncated_TN
        whole_TN = first_episodes(ended_TN)
        bootstrap_TN = torch.zeros_like(reward_TN)
        if self.baseline:
            with self.run.autocast():
                bootstrap_TN = self.net.value(next_obs_TN.flatten(0, 1)).view_as(reward_TN)
            bootstrap_TN = bootstrap_TN.masked_fill(terminated_TN, 0.0)
        return_TN = returns_to_go(reward_TN, bootstrap_TN, ended_TN, gamma=self.gamma)

        episodes = whole_TN[0].sum()
        metrics = {
            "episode_return": (reward_TN * whole_TN).sum() / episodes,
            "episode_length": whole_TN.sum() / episodes,
        }
        rollout = [obs_TN, action_TN, return_TN, whole_TN.float()]
        obs_B, action_B, return_B, whole_B = (tensor.flatten(0, 1) for tensor in rollout)
        return obs_B, action_B, return_B, whole_B, metrics

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        """See `Evaluation`."""
        return self.evaluation(self._act_in_evaluation, final=final)

    def _act_in_evaluation(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        with self.run.autocast():
            policy = self.net.policy(obs)
        return self.net.to_env(policy.mode() if self.eval_deterministic else policy.sample(generator))

    def counters(self) -> dict[str, float]:
        return {"env_steps": self.env_steps}

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "env_steps": self.env_steps,
            "envs": self.envs.state_dict(),
            "act_rng": self.act_rng.get_state(),
        }

    def load_weights(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.env_steps = state["env_steps"]
        self.envs.load_state_dict(state["envs"])
        self.act_rng.set_state(state["act_rng"].cpu())
