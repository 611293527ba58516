"""Deep Q-learning (Nature 518, 529, 2015), and what was added to it since, each alone or all together.

- `double`: the online network chooses the next action, the target network values it (arXiv:1509.06461).
- `dueling`: Q = V + A - mean A (arXiv:1511.06581).
- `prioritized`: transitions are drawn in proportion to their errors (arXiv:1511.05952).
- `n_step`: returns of several steps (Sutton 1988), uncorrected for what explored.
- `noisy`: noise on the parameters explores, in place of epsilon (arXiv:1706.10295).
- `categorical`: the distribution of returns, C51 (arXiv:1707.06887).

All at once are Rainbow (arXiv:1710.02298). From the paper: a replay buffer, a target network, errors clipped (the Huber
loss), epsilon falling linearly. Not from it: Adam for RMSProp, several envs, rewards as they are, gradients clipped by
their global norm; truncated episodes bootstrap from their own last observation.

Shapes: T rows of a rollout, N envs of this worker, B batch of this worker, A actions, K atoms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.agents.agent import Agent
from trivium.agents.envs.protocol import Envs
from trivium.agents.evaluation.acting import EpsilonGreedy
from trivium.agents.evaluation.returns import Evaluation
from trivium.agents.networks.q_networks import QNetwork
from trivium.agents.optim.flat import Flat, Optimizer, clipped
from trivium.agents.replay import Batch, Priorities, Replay
from trivium.agents.returns import (
    check_shapes,
    linear_schedule,
)
from trivium.agents.rollouts.collector import Collector, episodes
from trivium.agents.rollouts.env_runners import Begun, EnvRunners
from trivium.agents.rollouts.making import make_collector, training_envs
from trivium.config.rules.checked import checks_keywords
from trivium.config.rules.kinds import (
    Count,
    CountOrZero,
    Fraction,
    LearningRate,
    Positive,
    PositiveFraction,
    PositiveOrInfinite,
    Range,
    Widths,
)
from trivium.config.rules.sizes import require_divisible
from trivium.learner import Run
from trivium.saved import load_module


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
    check_shapes(q_B=q_B, target_B=target_B)
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
    check_shapes(log_prob_BK=log_prob_BK, target_BK=target_BK)
    return F.kl_div(log_prob_BK, target_BK, reduction="none").sum(1)


class DQN(Agent):
    """A `Learner`: each step collects `train_every_env_steps` transitions and makes `gradient_steps` updates.

    The first step collects at least `learning_starts` transitions, with random actions, before its updates: it takes
    accordingly long. Where an interval of env steps is over during the collecting, the target network is updated once,
    between collecting and updates: nothing is learnt in between. Sizes are those of the whole run; workers have equal
    shares of the envs, of the buffer and of each batch, priorities of their own, and average their gradients.

    With `env_runners` the next rollout is under way while updates are made: it acts by the weights from before them.

    Actions are chosen for each env by a draw of its own; the noise of noisy networks is one sample while collecting and
    three in each update (the online network, the target network, the choice of the next action), and is left out in
    evaluation, which is greedy. The buffer is part of `state_dict`, as far as it is filled.

    Args:
        run: where this worker runs.
        env: makes `Envs` when called with `run`, `stream` and perhaps `num_envs`; see `envs.environment.make`.
        lr: of Adam, at the start; > 0.
        lr_anneal_env_steps: env steps after which lr has fallen to 0, see `linear_schedule`; usually the budget.
        buffer_size: transitions that are kept, the newest; rounded down to a multiple of env.num_envs. Steps that
            are no transitions (see `Rollout`) take a place too, and are never drawn.
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
        images, channels: see `networks.Encoder`.
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
        env_runners: Ray actors that the envs are on, see `EnvRunners`; 0: none, they are here.
        env_timeout_s: a rollout there that takes longer has an env that hangs.
        eval_episodes: of an evaluation during training, over all workers.
        test_episodes: of the final one.
        max_eval_steps: an episode of evaluation is cut after so many steps, for envs without a time limit.

    Raises:
        ValueError: a keyword is out of its range, actions are not Discrete, or a size does not divide among workers or
            envs.
    """

    shared: ClassVar = ("batch_size", "env.num_envs")
    divides: ClassVar = {"env.num_envs": "train_every_env_steps", "env_runners": "env.num_envs / workers"}

    @checks_keywords
    def __init__(
        self,
        *,
        run: Run,
        env: Callable[..., Envs],
        lr: LearningRate = 1e-3,
        lr_anneal_env_steps: Count | None = None,
        buffer_size: Count = 100_000,
        batch_size: Count = 64,
        learning_starts: CountOrZero = 1000,
        train_every_env_steps: Count = 8,
        gradient_steps: Count = 4,
        gamma: Fraction = 0.99,
        target_update_every_env_steps: Count | None = 500,
        target_tau: PositiveFraction | None = None,
        epsilon_start: Fraction = 1.0,
        epsilon_end: Fraction = 0.05,
        epsilon_anneal_env_steps: Count = 10_000,
        loss: Literal["huber", "mse"] = "huber",
        max_grad_norm: PositiveOrInfinite = 10.0,
        hidden: Widths = (256, 256),
        images: Literal["nature", "impala"] = "nature",
        channels: Literal["first", "last"] | None = None,
        double: bool = False,
        dueling: bool = False,
        prioritized: bool = False,
        priority_alpha: Fraction = 0.6,
        priority_beta: Fraction = 0.4,
        priority_beta_anneal_env_steps: Count | None = None,
        n_step: Count = 1,
        noisy: bool = False,
        noisy_sigma: Positive = 0.5,
        categorical: bool = False,
        num_atoms: Annotated[int, Range(ge=2)] = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        env_runners: CountOrZero = 0,
        env_timeout_s: Positive = 300.0,
        eval_episodes: Count = 10,
        test_episodes: Count = 100,
        max_eval_steps: Count = 100_000,
    ) -> None:
        if (target_update_every_env_steps is None) == (target_tau is None):
            raise ValueError(
                f"agent.target_update_every_env_steps={target_update_every_env_steps} and "
                f"agent.target_tau={target_tau}: exactly one must be null"
            )
        if not v_min < v_max:
            raise ValueError(f"agent.v_min={v_min} must be less than agent.v_max={v_max}")
        self.run = run
        envs, num_envs = training_envs(run, env, env_runners)
        if not isinstance(envs.action_space, gym.spaces.Discrete):
            raise ValueError(
                f"DQN needs an env with Discrete actions, this one has the action space {envs.action_space}"
            )
        own_envs, num_envs = num_envs, num_envs * run.world_size
        sizes = {"env.num_envs": num_envs, "agent.train_every_env_steps": train_every_env_steps}
        require_divisible(self.divides, sizes, group="agent")
        dead_steps: bool = getattr(envs, "dead_steps", False)
        if buffer_size < train_every_env_steps:
            raise ValueError(
                f"agent.buffer_size={buffer_size} must be at least agent.train_every_env_steps={train_every_env_steps}"
            )
        if dead_steps and buffer_size < 2 * num_envs:
            raise ValueError(
                f"agent.buffer_size={buffer_size} must be at least 2 * env.num_envs = {2 * num_envs}: this vector env "
                "takes a step to begin an episode"
            )
        self.num_steps = train_every_env_steps // num_envs
        self.num_envs = num_envs
        self.num_actions = int(envs.action_space.n)
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
            observation_space=envs.observation_space,
            num_actions=self.num_actions,
            hidden=hidden,
            generator=run.generator("init"),
            images=images,
            channels=channels,
            dueling=dueling,
            noisy_sigma=noisy_sigma if noisy else None,
            num_atoms=num_atoms if categorical else None,
        ).to(run.device)
        self.target_net = copy.deepcopy(self.net)
        self.target_flat = Flat(self.target_net, run)
        self.target_net.requires_grad_(False)
        self.flat = Flat(self.net, run)
        self.optimizer = Optimizer(self.flat.theta, kind="adam")
        self.atom_K = torch.linspace(v_min, v_max, num_atoms, device=run.device)
        self.acting = EpsilonGreedy(self.flat, self.atom_K if categorical else None)
        self.collector = make_collector(
            run=run,
            env=env,
            envs=envs,
            act=self.acting,
            num_runners=env_runners,
            timeout_s=env_timeout_s,
        )
        self.ahead: Begun | None = None  # the rollout that env runners are at
        self.replay = Replay(num_rows=buffer_size // num_envs, obs=self.collector.obs, dead_steps=dead_steps)
        self.priorities: Priorities | None = None
        if prioritized:
            size = self.replay.num_rows * own_envs
            self.priorities = Priorities(size, alpha=priority_alpha, device=run.device)
        self.act_rng = run.generator("act", run.rank, device=run.device)
        self.noise_rng = run.generator("noise", run.rank, device=run.device)
        self.replay_rng = run.generator("replay", run.rank, device=run.device)
        self.evaluation = Evaluation(
            run=run, env=env, eval_episodes=eval_episodes, test_episodes=test_episodes, max_steps=max_eval_steps
        )
        self._compiled_updates = run.compiled(self._updates)
        # One graph of several updates; priorities must be known before the next one.
        self.block = 1 if prioritized else max(n for n in range(1, 9) if gradient_steps % n == 0)

    def epsilon(self, env_steps: int) -> float:
        """The probability of a random action after so many env steps."""
        if env_steps < self.learning_starts:
            return 1.0
        if self.noisy:
            return 0.0
        return linear_schedule(self.epsilon_start, self.epsilon_end, env_steps, self.epsilon_anneal_env_steps)

    @property
    def beta(self) -> float:
        """The exponent of the importance weights; rises to 1."""
        return linear_schedule(self.priority_beta, 1.0, self.collector.env_steps, self.priority_beta_anneal_env_steps)

    def step(self) -> dict[str, Tensor]:
        metrics = self._collect()
        env_steps, device = self.collector.env_steps, self.run.device
        lr = torch.full((), linear_schedule(self.lr, 0.0, env_steps, self.lr_anneal_env_steps), device=device)
        noise_G3Z = self.net.noise(3 * self.gradient_steps, self.noise_rng).unflatten(0, (-1, 3))
        updates = []
        for (index, weight, batch), noise_U3Z in zip(self._batches(), noise_G3Z.split(self.block), strict=True):
            of_updates, error = self._compiled_updates(batch, weight, noise_U3Z, lr)
            updates.append(of_updates)
            if self.priorities is not None:
                self.priorities.update(index, error)
        means = torch.cat(updates).mean(0)
        metrics |= dict(zip(("loss", "q_mean", "grad_norm"), means.unbind(), strict=True))
        return metrics | {"lr": lr, "epsilon": torch.full((), self.epsilon(env_steps), device=device)}

    def _collect(self) -> dict[str, Tensor]:
        """`train_every_env_steps` transitions into the buffer, more in the first step; the metrics of episodes."""
        collector = self.collector
        began_at, parts = collector.env_steps, [self._rollout()]
        while collector.env_steps < self.learning_starts:
            parts.append(self._rollout())
        every = self.target_update_every_env_steps
        if every is not None and collector.env_steps // every > began_at // every:
            self.target_flat.theta.copy_(self.flat.theta)
        # Without the observations, which may be large: the buffer has them.
        rewards, ended, live = zip(*parts, strict=True)
        live_TN = None if live[0] is None else torch.cat(live)
        metrics, collector.in_progress = episodes(torch.cat(rewards), torch.cat(ended), collector.in_progress, live_TN)
        return metrics

    def _rollout(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """T rows into the buffer; their rewards, where episodes ended, and `Rollout.live`, [T, N] each."""
        if isinstance(self.collector, Collector):
            rollout = self.collector.collect(*self._exploration())
        else:  # runners go on while this worker learns, with the weights from before it does
            if self.ahead is None:
                self.ahead = self.collector.begin(self._exploration())
            rollout = self.collector.finish(self.ahead)
            self.ahead = self.collector.begin(self._exploration())
        index = self.replay.add(rollout)
        if self.priorities is not None:
            self.priorities.add(index, rollout.live)
        return rollout.reward, rollout.ended, rollout.live

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Batch]]:
        """For each block of U updates the indices, int64 [U * B], their weights and what they are of."""
        batch_of = partial(self.replay.batch, num_steps=self.n_step, gamma=self.gamma)
        if self.priorities is None:  # what is drawn does not depend on the updates: all at once is cheaper
            size = self.block * self.batch_size
            index = self.replay.sample(self.gradient_steps * self.batch_size, self.replay_rng)
            weight = torch.ones(size, device=self.run.device)
            columns = (tensor.split(size) for tensor in (index, *batch_of(index)))
            for index_B, *tensors in zip(*columns, strict=True):
                yield index_B, weight, Batch(*tensors)
            return
        for _ in range(self.gradient_steps):
            index_B = self.priorities.sample(self.batch_size, self.replay_rng)
            weight_B = self.priorities.weights(index_B, len(self.replay), beta=self.beta)
            yield index_B, weight_B, batch_of(index_B)

    @torch.no_grad()
    def _updates(self, batch: Batch, weight: Tensor, noise_U3Z: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        """U updates, of equal parts of the batch [U * B, ...]; loss, mean Q and gradient norm of each, float32 [U, 3],
        and the errors of the transitions, [U * B]."""
        metrics, errors = [], []
        parts = zip(*(tensor.chunk(len(noise_U3Z)) for tensor in (weight, *batch)), noise_U3Z.unbind(), strict=True)
        for weight_B, *tensors, noise_3Z in parts:
            one = Batch(*tensors)
            target = self._target(one, noise_3Z)
            gradient_P, (loss, q_mean, error_B) = self.flat.gradient(self._loss, one, weight_B, target, noise_3Z[0])
            gradient_P, grad_norm = clipped(self.run.mean(gradient_P), self.max_grad_norm)
            self.optimizer.step(gradient_P, lr)
            if self.target_tau is not None:
                self.target_flat.theta.lerp_(self.flat.theta, self.target_tau)
            metrics.append(torch.stack((loss, q_mean, grad_norm)))
            errors.append(error_B)
        return torch.stack(metrics), torch.cat(errors)

    def _target(self, batch: Batch, noise_3Z: Tensor) -> Tensor:
        """What Q(obs, action) should be: float32 [B], or with atoms a distribution, float32 [B, K]."""
        output = self.target_flat(self.target_flat.theta, batch.next_obs, noise_3Z[1])
        online_q_BA = None
        if self.double:
            online_q_BA = self.acting.q(batch.next_obs, self.flat(self.flat.theta, batch.next_obs, noise_3Z[2]))
        action_B = next_action(self.acting.q(batch.next_obs, output), online_q_BA)
        output = output[torch.arange(len(output), device=output.device), action_B]
        if self.categorical:
            return categorical_projection(output.softmax(1), batch.return_, batch.discount, self.atom_K)
        return td_target(batch.return_, batch.discount, output)

    def _loss(
        self, theta: Tensor, batch: Batch, weight_B: Tensor, target: Tensor, noise_Z: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The loss; and itself, the mean Q and the error of each transition, detached."""
        output = self.flat(theta, batch.obs, noise_Z)
        output = output[torch.arange(len(output), device=output.device), batch.action]
        if self.categorical:
            log_prob_BK = output.log_softmax(1)
            loss_B = error_B = categorical_loss(log_prob_BK, target)
            q_B = (log_prob_BK.exp() * self.atom_K).sum(1)
        else:
            loss_B = td_loss(output, target, self.loss)
            q_B, error_B = output, target - output
        loss = (weight_B * loss_B).mean()
        return loss, (loss.detach(), q_B.mean().detach(), error_B.detach())

    def _exploration(self) -> tuple[Tensor, ...]:
        """The noise of the next rollout; see `EpsilonGreedy`."""
        device = self.run.device
        shape = (self.num_steps, self.collector.num_envs)
        chance_TN = torch.rand(shape, generator=self.act_rng, device=device)
        random_TNA = torch.rand(*shape, self.num_actions, generator=self.act_rng, device=device)
        env_steps = range(self.collector.env_steps, self.collector.env_steps + shape[0] * self.num_envs, self.num_envs)
        epsilon_T = torch.tensor([self.epsilon(step) for step in env_steps]).to(device, non_blocking=True)
        return chance_TN, random_TNA, epsilon_T, self.net.noise(1, self.noise_rng).expand(shape[0], -1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "target_net": self.target_net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "collector": self.collector.state_dict(),
            "ahead": None if self.ahead is None else {"noise": self.ahead.noise, "weights": self.ahead.weights},
            "replay": self.replay.state_dict(),
            "priorities": self.priorities.state_dict(len(self.replay)) if self.priorities is not None else None,
            "act_rng": self.act_rng.get_state(),
            "noise_rng": self.noise_rng.get_state(),
            "replay_rng": self.replay_rng.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_weights(state)
        load_module(self.target_net, state["target_net"], "target_net")
        self.optimizer.load_state_dict(state["optimizer"])
        self.replay.load_state_dict(state["replay"])
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        self.replay.cut(self.collector.load_state_dict(state["collector"]))
        if state["ahead"] is not None:
            assert isinstance(self.collector, EnvRunners)
            self.ahead = self.collector.begin(state["ahead"]["noise"], state["ahead"]["weights"])
        for name in ("act_rng", "noise_rng", "replay_rng"):
            getattr(self, name).set_state(state[name].cpu())
