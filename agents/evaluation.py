"""How well an agent acts: the returns of whole episodes in environments of their own.

Shapes: N envs of this worker, M numbers in the state of a memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trivium.agents.envs import Envs
from trivium.learner import Run

Act = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""From observations [N, ...], the memory's state [N, M] and a generator to actions as the envs take them, and the next
state."""


EVALUATED = {
    "return_mean": "max",
    "return_std_err": None,
    "return_min": "max",
    "return_max": "max",
    "length_mean": None,  # balancing takes long episodes, reaching a goal short ones
}
"""The metrics of an agent's evaluation, and which way each is better."""


class Evaluation:
    """Plays the first episode of each of so many envs, the same ones at each call; the envs are kept between calls.

    Args:
        run: where this worker runs; the episodes are shared out among the workers.
        env: makes `Envs`, see `envs.make`.
        eval_episodes: of an evaluation during training, over all workers, >= 1.
        test_episodes: of the final one, >= 1.
        max_steps: an episode is cut after so many steps, for envs without a time limit.
    """

    def __init__(
        self, *, run: Run, env: Callable[..., Envs], eval_episodes: int, test_episodes: int, max_steps: int
    ) -> None:
        self.run = run
        self.make_env = env
        self.eval_episodes = eval_episodes
        self.test_episodes = test_episodes
        self.max_steps = max_steps
        self.envs: dict[str, Envs] = {}
        self.last_returns: list[float] = []  # of the episodes of the last call, over all workers

    @torch.no_grad()
    def __call__(self, act: Act, *, final: bool, state_size: int = 0) -> dict[str, float]:
        """The undiscounted return of whole episodes: `return_mean`, its standard error `return_std_err` (NaN for one
        episode), `return_min`, `return_max`; and `length_mean` in env steps. The same on every worker.

        Args:
            act: see `Act`; its generator is begun anew at each call.
            state_size: M.
            final: `test_episodes` of the stream `test`, else `eval_episodes` of the stream `eval`.
        """
        total = self.test_episodes if final else self.eval_episodes
        episodes = total // self.run.world_size + (self.run.rank < total % self.run.world_size)
        result = torch.zeros(0, 2, dtype=torch.float64, device=self.run.device)
        if episodes:
            result = self._play("test" if final else "eval", episodes, act, state_size)
        returns, lengths = self.run.gather(result).unbind(1)
        self.last_returns = returns.tolist()
        std_err = returns.std().item() / math.sqrt(total) if total > 1 else math.nan
        values = (returns.mean().item(), std_err, returns.min().item(), returns.max().item(), lengths.mean().item())
        return dict(zip(EVALUATED, values, strict=True))

    def close(self) -> None:
        """End what the envs hold beside memory; another call makes new ones."""
        for envs in self.envs.values():
            getattr(envs, "close", lambda: None)()
        self.envs.clear()

    def _play(self, stream: str, episodes: int, act: Act, state_size: int) -> Tensor:
        """The first episode of each of so many envs: float64 [episodes, 2], return and length."""
        if stream not in self.envs:
            self.envs[stream] = self.make_env(run=self.run, stream=stream, num_envs=episodes)
        envs = self.envs[stream]
        generator = self.run.generator("act", stream, self.run.rank, device=self.run.device)
        obs = envs.reset(reseed=True)
        result_N2 = torch.zeros(episodes, 2, dtype=torch.float64, device=self.run.device)
        running_N = torch.ones(episodes, dtype=torch.bool, device=self.run.device)
        state_NM = torch.zeros(episodes, state_size, device=self.run.device)
        for _ in range(self.max_steps):
            action, state_NM = act(obs, state_NM, generator)
            step = envs.step(action)
            gain_N2 = torch.stack((step.reward, torch.ones_like(step.reward)), 1)
            result_N2 += gain_N2.masked_fill(~running_N.unsqueeze(1), 0.0)
            running_N &= ~(step.terminated | step.truncated)
            obs = step.obs
            if not running_N.any():
                break
        return result_N2
