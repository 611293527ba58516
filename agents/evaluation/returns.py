"""How well an agent acts: the returns of whole episodes in environments of their own.

Shapes: N envs of this worker, M numbers in the state of a memory, E episodes of this worker.
"""

from __future__ import annotations

import inspect
import io
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trivium.agents.attributes import same, to_arrays, to_tensors
from trivium.agents.envs.episodes import NONE
from trivium.agents.envs.protocol import Envs
from trivium.agents.envs.wrapper_state import State
from trivium.learner import Run

log = logging.getLogger("trivium")

CUT_S = 5.0  # of an evaluation that may pass before it is said that episodes did not end

Generators = torch.Generator | Sequence[torch.Generator]  # one for all envs, or one for each

Act = Callable[[Tensor, Tensor, Generators], tuple[Tensor, Tensor]]
"""From observations [N, ...], the memory's state [N, M] (0 where an episode begins) and generators to actions as the
envs take them, and the next state."""


EVALUATED = {
    "return_mean": "max",
    "return_std_err": None,
    "return_min": "max",
    "return_max": "max",
    "length_mean": None,  # balancing takes long episodes, reaching a goal short ones
}
"""The metrics of an agent's evaluation, and which way each is better."""


class Evaluation:
    """Plays episodes of a list, the same ones at each call and whatever the number of envs; the envs are kept between
    calls.

    Args:
        run: where this worker runs; the episodes are shared out among the workers.
        env: makes `Envs`, see `envs.environment.make`; one that takes no `episodes` is asked for an env for each.
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
        self.last_returns: list[float] = []  # of the episodes of the last call, over all workers
        self.kept: State = {}  # what wrappers begin each episode with, see `wrapper_state`; rank 0's counts
        self._began: dict[str, tuple[State, Tensor]] = {}  # by stream, what the last evaluation began with
        self._warned = self._warned_of_cut = False
        self._envs: tuple[str, Any] | None = None  # those of one stream: two would be twice as many as were asked for

    @torch.no_grad()
    def __call__(self, act: Act, *, final: bool, state_size: int = 0) -> dict[str, float]:
        """The undiscounted return of whole episodes: `return_mean`, its standard error `return_std_err` (NaN for one
        episode), `return_min`, `return_max`; and `length_mean` in env steps. The same on every worker.

        Args:
            act: see `Act`; its generators are begun anew at each call.
            state_size: M.
            final: `test_episodes` of the stream `test`, else `eval_episodes` of the stream `eval`.
        """
        total = self.test_episodes if final else self.eval_episodes
        rank, size = self.run.rank, self.run.world_size
        episodes = range(total * rank // size, total * (rank + 1) // size)
        self.kept = self._of_rank_0(self.kept)
        began = time.monotonic()
        result_E3 = torch.zeros(0, 3, dtype=torch.float64, device=self.run.device)
        if episodes:
            stream = "test" if final else "eval"
            envs = self._envs_of(stream, episodes)
            getattr(envs, "freeze", lambda kept: None)(self.kept)
            if getattr(envs, "playing_N", None) is None:
                result_E3 = self._play_at_once(stream, envs, act, state_size)
            else:
                result_E3 = self._play_in_turn(stream, envs, episodes, act, state_size)
        returns, lengths, cut = self.run.gather(result_E3).unbind(1)
        self._warn_of_cut(int(cut.sum()), total, time.monotonic() - began)
        self.last_returns = returns.tolist()
        std_err = returns.std().item() / math.sqrt(total) if total > 1 else math.nan
        values = (returns.mean().item(), std_err, returns.min().item(), returns.max().item(), lengths.mean().item())
        return dict(zip(EVALUATED, values, strict=True))

    def _warn_of_cut(self, cut: int, total: int, passed_s: float) -> None:
        """Say so, once, where most of the time went into episodes that do not end."""
        if cut and passed_s > CUT_S and not self._warned_of_cut and self.run.rank == 0:
            self._warned_of_cut = True
            log.warning(
                "an evaluation took %.0f s: %d of its %d episodes did not end and were cut after "
                "agent.max_eval_steps=%d steps; with fewer they are cut sooner",
                passed_s,
                cut,
                total,
                self.max_steps,
            )

    def _say(self, ended: int, episodes: int, steps: int) -> None:
        of = "" if self.run.world_size == 1 else " of this worker"
        self.run.doing(
            f"evaluating: {ended} of {episodes} episodes{of}, now at step {steps:,} of at most {self.max_steps:,}"
        )

    def close(self) -> None:
        """End what the envs hold beside memory; another call makes new ones."""
        if self._envs is not None:
            getattr(self._envs[1], "close", lambda: None)()
            self._envs = None

    def _compare(self, stream: str, obs: Tensor) -> None:
        """Say so, once, where what may differ between evaluations is the same and the episodes are not."""
        before, self._began[stream] = self._began.get(stream), (self.kept, obs.cpu().clone())
        if before is None or self._warned or not same(before[0], self.kept) or torch.equal(before[1], obs.cpu()):
            return
        self._warned = True
        log.warning(
            "evaluations are not of the same episodes: env.id=%r begins others with the same seeds; it keeps something "
            "over their ends that can't be seen from outside",
            getattr(self.make_env, "keywords", {}).get("id"),
        )

    def _of_rank_0(self, kept: State) -> State:
        if self.run.world_size == 1:
            return kept
        buffer = io.BytesIO()
        if self.run.rank == 0:
            torch.save(to_tensors(kept), buffer)
        told = torch.tensor(list(buffer.getvalue()), dtype=torch.uint8, device=self.run.device)
        told = self.run.gather(told).cpu()
        return to_arrays(torch.load(io.BytesIO(told.numpy().tobytes()), weights_only=True))  # type: ignore[no-any-return]

    def _envs_of(self, stream: str, episodes: range) -> Any:
        """Envs that play these episodes of the stream."""
        if self._envs is not None and self._envs[0] == stream:
            return self._envs[1]
        self.close()
        envs: Any = None
        if "episodes" in inspect.signature(self.make_env).parameters:
            envs = self.make_env(run=self.run, stream=stream, episodes=episodes)
        else:
            envs = self.make_env(run=self.run, stream=stream, num_envs=len(episodes))
        self._envs = stream, envs
        return envs

    def _play_at_once(self, stream: str, envs: Envs, act: Act, state_size: int) -> Tensor:
        """The first episode of each env: float64 [N, 3], return, length, and 1 where it was cut."""
        device, episodes, doing = self.run.device, envs.num_envs, self.run.doing
        generator = self.run.generator("act", stream, self.run.rank, device=device)
        obs = envs.reset(reseed=True)
        result_N2 = torch.zeros(episodes, 2, dtype=torch.float64, device=device)
        running_N = torch.ones(episodes, dtype=torch.bool, device=device)
        state_NM = torch.zeros(episodes, state_size, device=device)
        for t in range(self.max_steps):
            action, state_NM = act(obs, state_NM, generator)
            step = envs.step(action)
            gain_N2 = torch.stack((step.reward, torch.ones_like(step.reward)), 1)
            result_N2 += gain_N2.masked_fill(~running_N.unsqueeze(1), 0.0)
            running_N &= ~(step.terminated | step.truncated)
            obs = step.obs
            if not running_N.any():
                break
            if doing.due():
                self._say(episodes - int(running_N.sum()), episodes, t + 1)
        return torch.cat((result_N2, running_N.unsqueeze(1)), 1)

    def _play_in_turn(self, stream: str, envs: Any, episodes: range, act: Act, state_size: int) -> Tensor:
        """All episodes, by envs that may be fewer: float64 [E, 3] as above."""
        device, doing = self.run.device, self.run.doing
        obs = envs.reset(reseed=True)
        self._compare(stream, obs)
        result_E3 = np.zeros((len(episodes) + 1, 3))  # the last row is for envs without an episode
        state_NM = torch.zeros(envs.num_envs, state_size, device=device)
        generators = [torch.Generator(device) for _ in range(envs.num_envs)]
        before_N = np.full(envs.num_envs, NONE)
        while (envs.playing_N != NONE).any():
            playing_N = envs.playing_N.copy()
            begun_N = playing_N != before_N
            if begun_N.any():
                state_NM = state_NM.masked_fill(torch.from_numpy(begun_N).to(device).unsqueeze(1), 0.0)
                for i in np.flatnonzero(begun_N & (playing_N != NONE)):
                    generators[i].manual_seed(self.run.seed_for("act", stream, episodes[playing_N[i]]))
            action, state_NM = act(obs, state_NM, generators)
            step = envs.step(action)
            result_E3[playing_N, 0] += step.reward.cpu().numpy()
            result_E3[playing_N, 1] += 1
            obs, before_N = step.obs, playing_N
            long_N = (result_E3[playing_N, 1] >= self.max_steps) & (envs.playing_N == playing_N) & (playing_N != NONE)
            if long_N.any():
                result_E3[playing_N[long_N], 2] = 1
                obs = envs.skip(long_N)
            if doing.due():
                now = envs.playing_N[envs.playing_N != NONE]
                ended = int((result_E3[:-1, 1] > 0).sum()) - int((result_E3[now, 1] > 0).sum())
                self._say(ended, len(episodes), int(result_E3[now, 1].max(initial=0)))
        return torch.from_numpy(result_E3[:-1]).to(device)
