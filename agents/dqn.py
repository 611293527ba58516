"""Deep Q-learning (Nature 518, 529, 2015), and what was added to it since, each alone or all together.

- `double`: the online network chooses the next action, the target network values it (arXiv:1509.06461).
- `dueling`: Q = V + A - mean A (arXiv:1511.06581).
- `prioritized`: transitions are drawn in proportion to their errors (arXiv:1511.05952).
- `n_step`: returns of several steps (Sutton 1988), uncorrected for what explored.
- `noisy`: noise on the parameters explores, in place of epsilon (arXiv:1706.10295).
- `categorical`: the distribution of returns, C51 (arXiv:1707.06887).

All at once are Rainbow (arXiv:1710.02298). From the paper: a replay buffer, a target network, errors clipped (the Huber
loss), epsilon falling linearly. Not from it: Adam for RMSProp, several envs, rewards as they are, gradients clipped by
their global norm; truncated episodes bootstrap from their own last observation. The paper's convolutions are not here:
networks are MLPs of flattened observations.

Shapes: T rows of a rollout, N envs of this worker, B batch of this worker, A actions, K atoms.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.agents.envs import Envs
from trivium.agents.evaluation import Evaluation
from trivium.agents.q_networks import QNetwork
from trivium.agents.replay import Batch, Priorities, Replay, Transitions
from trivium.agents.returns import mean_where, running_sum
from trivium.learner import Run


def linear_schedule(start: float, end: float, env_steps: int, anneal_env_steps: int | None) -> float:
    """From `start` at 0 env steps in a straight line to `end` at `anneal_env_steps`, and `end` from there on.

    None: `start` for ever. Monotone, and exact at both ends.
    """
    if anneal_env_steps is None:
        return start
    fraction = min(env_steps / anneal_env_steps, 1.0)
    return start * (1 - fraction) + end * fraction


def next_action(target_q_BA: Tensor, online_q_BA: Tensor | None) -> Tensor:
    """The action that the target is of, int64 [B]: the target network's best, or for double Q-learning
    (arXiv:1509.06461) the online network's best; both of the next observation, float32 [B, A]."""
    return (target_q_BA if online_q_BA is None else online_q_BA).argmax(1)


def td_target(return_B: Tensor, discount_B: Tensor, next_value_B: Tensor) -> Tensor:
    """y = R + discount * Q_target(s', a'), float32 [B]; R and discount are those of `replay.Batch`.

    Where the discount is 0 the next value may be anything, also inf.
    """
    return return_B + discount_B * next_value_B.masked_fill(discount_B == 0, 0.0)


def td_loss(q_B: Tensor, target_B: Tensor, kind: Literal["huber", "mse"]) -> Tensor:
    """Of each transition, float32 [B]: with d = q - target, `mse`: d^2; `huber`: d^2 / 2 where |d| < 1, |d| - 1/2
    elsewhere, the gradient clipped to [-1, 1]."""
    if kind == "mse":
        return F.mse_loss(q_B, target_B, reduction="none")
    return F.smooth_l1_loss(q_B, target_B, reduction="none")


def categorical_projection(prob_BK: Tensor, return_B: Tensor, discount_B: Tensor, atom_K: Tensor) -> Tensor:
    """The distribution of R + discount * Z on the atoms of Z (arXiv:1707.06887, equation 7).

    m_i = sum_j p_j * max(0, 1 - |clip(R + discount * z_j, z_1, z_K) - z_i| / dz): each atom's mass goes to its two
    neighbours, in proportion to how near they are; all of it to one that it meets. A product with a [B, K, K] kernel:
    unlike sums into indexed places it is deterministic on every device.

    Args:
        prob_BK: float32 [B, K], p, the distribution of Z.
        return_B, discount_B: see `replay.Batch`.
        atom_K: float32 [K], z, equally spaced and increasing.

    Returns:
        float32 [B, K], of the same mass as p.

    Example:
        z=[0,1,2], p=[0,0,1], R=0.25, discount=0.5 -> 1.25 -> [0, 0.75, 0.25].
    """
    moved_BK = (return_B.unsqueeze(1) + discount_B.unsqueeze(1) * atom_K).clamp(atom_K[0], atom_K[-1])
    distance_BKK = (moved_BK.unsqueeze(1) - atom_K.unsqueeze(1)).abs_() / (atom_K[1] - atom_K[0])
    return ((1 - distance_BKK).clamp_(min=0.0) * prob_BK.unsqueeze(1)).sum(2)


def categorical_loss(log_prob_BK: Tensor, target_BK: Tensor) -> Tensor:
    """KL(target || p) of each transition in nats, float32 [B], whose gradient is that of the cross-entropy; both
    float32 [B, K], the target constant. It is 0 where nothing is to be learnt, which makes it Rainbow's priority."""
    return F.kl_div(log_prob_BK, target_BK, reduction="none").sum(1)


class DQN:
    """A `Learner`: each step collects `train_every_env_steps` transitions and makes `gradient_steps` updates.

    The first step collects at least `learning_starts` transitions, with random actions, before its updates: it takes
    accordingly long. Where an interval of env steps is over during the collecting, the target network is updated once,
    between collecting and updates: nothing is learnt in between. Sizes are those of the whole run; workers have equal
    shares of the envs, of the buffer and of each batch, priorities of their own, and average their gradients.

    Actions are chosen for each env by a draw of its own; the noise of noisy networks is one sample while collecting and
    three in each update (the online network, the target network, the choice of the next action), and is left out in
    evaluation, which is greedy. The buffer is part of `state_dict`, as far as it is filled.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream` and perhaps `num_envs`; see `envs.make`.
        lr: of Adam, at the start; > 0.
        lr_anneal_env_steps: env steps after which lr has fallen to 0, see `linear_schedule`; usually the budget.
        buffer_size: transitions that are kept, the newest; rounded down to a multiple of env.num_envs.
        batch_size: transitions an update.
        learning_starts: env steps before the first update; random actions meanwhile.
        train_every_env_steps: env steps collected in a step; a multiple of env.num_envs.
        gradient_steps: updates in a step.
        gamma: discount, in [0, 1].
        target_update_every_env_steps: env steps between two copies of the network to the target network; null where
            `target_tau` is given.
        target_tau: the part of the way that the target network goes towards the network after each update, in (0, 1].
        epsilon_start: the probability of a random action at first, see `linear_schedule`; without effect if `noisy`.
        epsilon_end: and in the end.
        epsilon_anneal_env_steps: and when that is.
        loss: `huber` or `mse`, see `td_loss`; without effect if `categorical`.
        max_grad_norm: gradients are scaled down to this global norm; > 0, inf for never.
        hidden: widths of the hidden layers, see `QNetwork`.
        double: see `next_action`.
        dueling: see `QNetwork`.
        prioritized: see `Priorities`.
        priority_alpha: its alpha, in [0, 1].
        priority_beta: how much of the bias is undone at first, in [0, 1].
        priority_beta_anneal_env_steps: when all of it is, see `linear_schedule`; usually the budget.
        n_step: steps that a return looks ahead, see `n_step_return`.
        noisy: see `NoisyLinear`.
        noisy_sigma: its sigma, > 0.
        categorical: see `categorical_projection`.
        num_atoms: K, at least 2.
        v_min: the least return that the atoms can express.
        v_max: and the largest.
        eval_episodes: of an evaluation during training, over all workers.
        test_episodes: of the final one.
        max_eval_steps: an episode of evaluation is cut after so many steps, for envs without a time limit.

    Raises:
        ValueError: a keyword is out of its range, actions are not Discrete, or a size does not divide among workers or
            envs.
    """

    def __init__(
        self,
        *,
        run: Run,
        env: Callable[..., Envs],
        lr: float = 1e-3,
        lr_anneal_env_steps: int | None = None,
        buffer_size: int = 100_000,
        batch_size: int = 64,
        learning_starts: int = 1000,
        train_every_env_steps: int = 8,
        gradient_steps: int = 4,
        gamma: float = 0.99,
        target_update_every_env_steps: int | None = 500,
        target_tau: float | None = None,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_anneal_env_steps: int = 10_000,
        loss: Literal["huber", "mse"] = "huber",
        max_grad_norm: float = 10.0,
        hidden: Sequence[int] = (256, 256),
        double: bool = False,
        dueling: bool = False,
        prioritized: bool = False,
        priority_alpha: float = 0.6,
        priority_beta: float = 0.4,
        priority_beta_anneal_env_steps: int | None = None,
        n_step: int = 1,
        noisy: bool = False,
        noisy_sigma: float = 0.5,
        categorical: bool = False,
        num_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        eval_episodes: int = 10,
        test_episodes: int = 100,
        max_eval_steps: int = 100_000,
    ) -> None:
        for name, value, low, high in (
            ("lr", lr, 1e-12, math.inf),
            ("lr_anneal_env_steps", lr_anneal_env_steps, 1, math.inf),
            ("learning_starts", learning_starts, 0, math.inf),
            ("gradient_steps", gradient_steps, 1, math.inf),
            ("gamma", gamma, 0, 1),
            ("target_update_every_env_steps", target_update_every_env_steps, 1, math.inf),
            ("target_tau", target_tau, 1e-12, 1),
            ("epsilon_start", epsilon_start, 0, 1),
            ("epsilon_end", epsilon_end, 0, 1),
            ("epsilon_anneal_env_steps", epsilon_anneal_env_steps, 1, math.inf),
            ("max_grad_norm", max_grad_norm, 1e-12, math.inf),
            ("priority_alpha", priority_alpha, 0, 1),
            ("priority_beta", priority_beta, 0, 1),
            ("priority_beta_anneal_env_steps", priority_beta_anneal_env_steps, 1, math.inf),
            ("n_step", n_step, 1, math.inf),
            ("noisy_sigma", noisy_sigma, 1e-12, math.inf),
            ("num_atoms", num_atoms, 2, math.inf),
            ("eval_episodes", eval_episodes, 1, math.inf),
            ("test_episodes", test_episodes, 1, math.inf),
            ("max_eval_steps", max_eval_steps, 1, math.inf),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"agent.{name}={value} must be in [{low:g}, {high:g}]")
        if (target_update_every_env_steps is None) == (target_tau is None):
            raise ValueError(
                f"agent.target_update_every_env_steps={target_update_every_env_steps} and "
                f"agent.target_tau={target_tau}: exactly one must be null"
            )
        if loss not in ("huber", "mse"):
            raise ValueError(f"agent.loss={loss!r} must be 'huber' or 'mse'")
        if not v_min < v_max:
            raise ValueError(f"agent.v_min={v_min} must be less than agent.v_max={v_max}")
        self.run = run
        self.envs = env(run=run, stream="train")
        action_space = self.envs.action_space
        if not isinstance(action_space, gym.spaces.Discrete):
            raise ValueError(f"DQN needs an env with Discrete actions, this one has the action space {action_space}")
        num_envs = self.envs.num_envs * run.world_size
        if train_every_env_steps < 1 or train_every_env_steps % num_envs:
            raise ValueError(
                f"agent.train_every_env_steps={train_every_env_steps} must be a positive multiple of "
                f"env.num_envs={num_envs}"
            )
        if buffer_size < train_every_env_steps:
            raise ValueError(
                f"agent.buffer_size={buffer_size} must be at least agent.train_every_env_steps={train_every_env_steps}"
            )
        self.num_steps = train_every_env_steps // num_envs
        self.num_envs = num_envs
        self.num_actions = int(action_space.n)
        self.batch_size = run.share(batch_size, "agent.batch_size")
        self.lr = lr
        self.lr_anneal_env_steps = lr_anneal_env_steps
        self.learning_starts = learning_starts
        self.gradient_steps = gradient_steps
        self.gamma = gamma
        self.target_update_every_env_steps = target_update_every_env_steps
        self.target_tau = target_tau
        self.epsilon_start = epsilon_start
        self.epsilon_end = epsilon_end
        self.epsilon_anneal_env_steps = epsilon_anneal_env_steps
        self.loss = loss
        self.max_grad_norm = max_grad_norm
        self.double = double
        self.priority_beta = priority_beta
        self.priority_beta_anneal_env_steps = priority_beta_anneal_env_steps
        self.n_step = n_step
        self.noisy = noisy
        self.categorical = categorical

        self.net = QNetwork(
            observation_space=self.envs.observation_space,
            num_actions=self.num_actions,
            hidden=hidden,
            generator=run.generator("init"),
            dueling=dueling,
            noisy_sigma=noisy_sigma if noisy else None,
            num_atoms=num_atoms if categorical else None,
        ).to(run.device)
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)
        self.train_net = run.wrap(self.net)
        self.params = list(self.net.parameters())
        self.target_params = list(self.target_net.parameters())
        self.optimizer = torch.optim.Adam(self.params, lr=lr, fused=True)
        self.scaler = run.grad_scaler()
        self.atom_K = torch.linspace(v_min, v_max, num_atoms, device=run.device)
        obs = self.envs.reset()
        self.replay = Replay(num_rows=buffer_size // num_envs, obs=obs)
        self.priorities: Priorities | None = None
        if prioritized:
            size = self.replay.num_rows * self.envs.num_envs
            self.priorities = Priorities(size, alpha=priority_alpha, device=run.device)
        self.act_rng = run.generator("act", run.rank, device=run.device)
        self.noise_rng = run.generator("noise", run.rank, device=run.device)
        self.replay_rng = run.generator("replay", run.rank, device=run.device)
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self.env_steps = 0
        self.return_N = torch.zeros(self.envs.num_envs, device=run.device)  # so far, of the episodes in progress
        self.length_N = torch.zeros(self.envs.num_envs, device=run.device)

    @property
    def epsilon(self) -> float:
        """The probability of a random action."""
        if self.env_steps < self.learning_starts:
            return 1.0
        if self.noisy:
            return 0.0
        return linear_schedule(self.epsilon_start, self.epsilon_end, self.env_steps, self.epsilon_anneal_env_steps)

    @property
    def beta(self) -> float:
        """How much of the bias of prioritised replay is undone."""
        return linear_schedule(self.priority_beta, 1.0, self.env_steps, self.priority_beta_anneal_env_steps)

    def step(self) -> dict[str, Tensor]:
        lr = linear_schedule(self.lr, 0.0, self.env_steps, self.lr_anneal_env_steps)
        self.optimizer.param_groups[0]["lr"] = lr
        metrics = self._collect()
        updates = []
        for index_B, weight_B, batch in self._batches():
            target = self._target(batch)
            with self.run.autocast():
                output = self.train_net(batch.obs, self.net.sample_noise(self.noise_rng))
            output = output[torch.arange(len(output), device=output.device), batch.action]
            if self.categorical:
                log_prob_BK = output.log_softmax(1)
                loss_B = error_B = categorical_loss(log_prob_BK, target)
                q_B = (log_prob_BK.detach().exp() * self.atom_K).sum(1)
            else:
                loss_B = td_loss(output, target, self.loss)
                q_B, error_B = output.detach(), target - output.detach()
            loss = loss_B.mean() if weight_B is None else (weight_B * loss_B).mean()

            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            grad_norm = nn.utils.clip_grad_norm_(self.params, self.max_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()

            if self.priorities is not None:
                self.priorities.update(index_B, error_B.detach())
            if self.target_tau is not None:
                self._move_target(self.target_tau)
            updates.append((loss.detach(), q_B.mean(), grad_norm))

        for name, values in zip(("loss", "q_mean", "grad_norm"), zip(*updates, strict=True), strict=True):
            metrics[name] = torch.stack(values).mean()
        metrics["lr"] = torch.tensor(lr, device=self.run.device)
        metrics["epsilon"] = torch.tensor(self.epsilon, device=self.run.device)
        return metrics

    def _batches(self) -> Iterator[tuple[Tensor, Tensor | None, Batch]]:
        """For each update the indices, the weights if prioritised, and what they are of."""
        if self.priorities is None:  # what is drawn does not depend on the updates: all at once is cheaper
            index = self.replay.sample(self.gradient_steps * self.batch_size, self.replay_rng)
            batch = self.replay.batch(index, num_steps=self.n_step, gamma=self.gamma)
            parts = zip(*(tensor.split(self.batch_size) for tensor in (index, *batch)), strict=True)
            for index_B, *tensors in parts:
                yield index_B, None, Batch(*tensors)
            return
        for _ in range(self.gradient_steps):
            index_B = self.priorities.sample(self.batch_size, self.replay_rng)
            weight_B = self.priorities.weights(index_B, len(self.replay), beta=self.beta)
            yield index_B, weight_B, self.replay.batch(index_B, num_steps=self.n_step, gamma=self.gamma)

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """What Q(obs, action) should be: float32 [B], or with atoms a distribution, float32 [B, K]."""
        with self.run.autocast():
            output = self.target_net(batch.next_obs, self.target_net.sample_noise(self.noise_rng))
            online_q_BA = self._q(self.net, batch.next_obs, explore=True) if self.double else None
        action_B = next_action(self._expectation(output), online_q_BA)
        output = output[torch.arange(len(output), device=output.device), action_B]
        if self.categorical:
            return categorical_projection(output.softmax(1), batch.return_, batch.discount, self.atom_K)
        return td_target(batch.return_, batch.discount, output)

    def _expectation(self, output: Tensor) -> Tensor:
        """Q values, float32 [B, A], from what a `QNetwork` returned."""
        return (output.softmax(2) * self.atom_K).sum(2) if self.categorical else output

    def _q(self, net: QNetwork, obs: Tensor, *, explore: bool) -> Tensor:
        return self._expectation(net(obs, net.sample_noise(self.noise_rng) if explore else []))

    @torch.no_grad()
    def _move_target(self, tau: float) -> None:
        for target, param in zip(self.target_params, self.params, strict=True):
            target.lerp_(param, tau)

    @torch.no_grad()
    def _collect(self) -> dict[str, Tensor]:
        """`train_every_env_steps` transitions into the buffer, more in the first step; the metrics of episodes."""
        began_at, parts = self.env_steps, [self._rollout()]
        while self.env_steps < self.learning_starts:
            parts.append(self._rollout())
        every = self.target_update_every_env_steps
        if every is not None and self.env_steps // every > began_at // every:
            self._move_target(1.0)

        reward_TN, ended_TN = (torch.cat(part) for part in zip(*parts, strict=True))
        episode_return_TN, self.return_N = running_sum(reward_TN, ended_TN, self.return_N)
        episode_length_TN, self.length_N = running_sum(torch.ones_like(reward_TN), ended_TN, self.length_N)
        return {
            "episode_return": mean_where(episode_return_TN, ended_TN),
            "episode_length": mean_where(episode_length_TN, ended_TN),
        }

    def _rollout(self) -> tuple[Tensor, Tensor]:
        """T rows into the buffer: rewards, and where episodes ended, [T, N] each."""
        shape, device = (self.num_steps, self.envs.num_envs), self.run.device
        chance_TN = torch.rand(shape, generator=self.act_rng, device=device)
        random_TN = torch.randint(self.num_actions, shape, generator=self.act_rng, device=device)
        noise = self.net.sample_noise(self.noise_rng)
        obs, transitions = self.envs.obs, []
        for chance_N, random_N in zip(chance_TN, random_TN, strict=True):
            action_N, epsilon = random_N, self.epsilon
            if epsilon < 1:
                with self.run.autocast():
                    q_NA = self._expectation(self.net(obs, noise))
                action_N = torch.where(chance_N < epsilon, random_N, q_NA.argmax(1))
            step = self.envs.step(action_N)
            transitions.append((obs, action_N, step.reward, step.terminated, step.truncated, step.next_obs))
            obs = step.obs
            self.env_steps += self.num_envs
        rollout = Transitions(*(torch.stack(column) for column in zip(*transitions, strict=True)))
        index = self.replay.add(rollout)
        if self.priorities is not None:
            self.priorities.add(index)
        return rollout.reward, rollout.terminated | rollout.truncated

    def evaluate(self, *, final: bool = False) -> dict[str, float]:
        """Greedily, without noise; see `Evaluation`."""
        return self.evaluation(self._act_in_evaluation, final=final)

    def _act_in_evaluation(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        with self.run.autocast():
            return self._expectation(self.net(obs, [])).argmax(1)

    def counters(self) -> dict[str, float]:
        return {"env_steps": self.env_steps}

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "target_net": self.target_net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "env_steps": self.env_steps,
            "envs": self.envs.state_dict(),
            "return": self.return_N,
            "length": self.length_N,
            "replay": self.replay.state_dict(),
            "priorities": self.priorities.state_dict(len(self.replay)) if self.priorities is not None else None,
            "act_rng": self.act_rng.get_state(),
            "noise_rng": self.noise_rng.get_state(),
            "replay_rng": self.replay_rng.get_state(),
        }

    def load_weights(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_weights(state)
        self.target_net.load_state_dict(state["target_net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.env_steps = state["env_steps"]
        self.replay.load_state_dict(state["replay"])
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        begun_anew_N = self.envs.load_state_dict(state["envs"])
        self.replay.cut(begun_anew_N)
        self.return_N = state["return"].to(self.run.device).masked_fill(begun_anew_N, 0.0)
        self.length_N = state["length"].to(self.run.device).masked_fill(begun_anew_N, 0.0)
        for name in ("act_rng", "noise_rng", "replay_rng"):
            getattr(self, name).set_state(state[name].cpu())
