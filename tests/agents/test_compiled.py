"""What `Run(compile=True)` promises: the same numbers, whole graphs, each compiled once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_envs  # noqa: F401  registers the ids
import torch
from contract import assert_equal_states, train
from torch._dynamo.utils import counters

from trivium.agents.a2c import A2C
from trivium.agents.dqn import DQN
from trivium.agents.envs.environment import make
from trivium.agents.ppo import PPO
from trivium.agents.reinforce import REINFORCE
from trivium.agents.rollouts import collector
from trivium.learner import Run

# Small graphs, two blocks or minibatches of each kind, and everything that is annealed.
AGENTS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "ppo": (
        PPO,
        {
            "num_steps": 4,
            "minibatch_size": 8,
            "num_epochs": 2,
            "lr_anneal_env_steps": 200,
            "clip_anneal_env_steps": 200,
            "value_clip": 0.5,
            "target_kl": 10.0,
            "normalize_reward": True,
        },
    ),
    "a2c": (A2C, {"num_steps": 4, "lr_anneal_env_steps": 200}),
    "dqn": (
        DQN,
        {
            "batch_size": 8,
            "learning_starts": 16,
            "train_every_env_steps": 16,
            "gradient_steps": 2,
            "buffer_size": 100,
            "target_update_every_env_steps": 32,
            "epsilon_anneal_env_steps": 100,
            "lr_anneal_env_steps": 200,
            "double": True,
        },
    ),
    "rainbow": (
        DQN,
        {
            "batch_size": 8,
            "learning_starts": 16,
            "train_every_env_steps": 16,
            "gradient_steps": 2,
            "buffer_size": 100,
            "target_update_every_env_steps": None,
            "target_tau": 0.1,
            "double": True,
            "dueling": True,
            "prioritized": True,
            "noisy": True,
            "categorical": True,
            "num_atoms": 5,
            "n_step": 2,
        },
    ),
    "reinforce": (REINFORCE, {"lr_anneal_env_steps": 1000}),
}
# torch's own, when inductor is imported.
pytestmark = [
    pytest.mark.compiles,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method. is deprecated:DeprecationWarning"),
]
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in AGENTS if name != "a2c"]  # which compiles soonest


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "BLOCK", 2)


def build(name: str, *, compile: bool, id: str = "CartPole-v1", precision: Any = "fp32", **of_env: Any) -> Any:
    agent, keywords = AGENTS[name]
    if name == "ppo" and id == "CartPole-v1":
        keywords = keywords | {"normalize_observation": True}
    env = partial(make, id=id, num_envs=4, **of_env)
    return agent(run=Run(compile=compile, precision=precision), env=env, hidden=[8], **keywords)


@pytest.mark.parametrize("name", ["a2c", *OTHERS])
def test_it_learns_the_same_from_whole_graphs_that_are_compiled_once(name: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    eager, compiled = (build(name, compile=compile) for compile in (False, True))
    for step in range(6):  # lr, clip_coef and epsilon are others at each
        expected, metrics = train(eager, 1)[0], train(compiled, 1)[0]
        if step == 0:
            torch.testing.assert_close(compiled.flat.theta, eager.flat.theta, rtol=1e-4, atol=1e-5)
            assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
        if step == 1:
            graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 2, "nothing was compiled"
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]
    assert (compiled.flat.theta - eager.flat.theta).abs().max() < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("id", ["CartPole-v1", "Masked-info-v0"])
def test_it_resumes_bit_for_bit_in_a_new_process(tmp_path: Path, name: str, id: str) -> None:
    """Also in an env that is not native, with masks: the policy and the update are compiled."""
    torch._dynamo.reset()
    first = build(name, compile=True, id=id)
    train(first, 2)
    torch.save(first.state_dict(), tmp_path / "half.pt")
    train(first, 2)
    subprocess.run([sys.executable, __file__, name, id, str(tmp_path)], check=True)
    resumed = torch.load(tmp_path / "whole.pt", weights_only=True)
    torch.save(first.state_dict(), tmp_path / "first.pt")
    assert_equal_states(resumed, torch.load(tmp_path / "first.pt", weights_only=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_any_gymnasium_env_gets_a_compiled_policy_and_update(name: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    eager, compiled = (build(name, compile=compile, id="Masked-info-v0") for compile in (False, True))
    train(eager, 1)
    train(compiled, 1)
    torch.testing.assert_close(compiled.flat.theta, eager.flat.theta, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] >= 2
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce"])
def test_a_squashed_policy_is_compiled_too(name: str) -> None:
    """The entropy and its gradient come out of the graph as they do without one."""
    torch._dynamo.reset()
    counters.clear()
    agent, keywords = AGENTS[name]
    eager, compiled = (
        agent(
            run=Run(compile=compile),
            env=partial(make, id="Pendulum-v1", num_envs=4, settings={}),
            hidden=[8],
            **keywords | {"squash": True, "entropy_coef": 0.1, "log_std": 1.0},
        )
        for compile in (False, True)
    )
    expected, metrics = train(eager, 1)[0], train(compiled, 1)[0]
    torch.testing.assert_close(compiled.flat.theta, eager.flat.theta, rtol=1e-4, atol=1e-5)
    assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
    assert counters["stats"]["unique_graphs"] >= 2
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_half_precision_is_compiled_too(name: str) -> None:
    """Whole graphs that learn about what single precision does: weights move, and not far from those."""
    torch._dynamo.reset()
    counters.clear()
    single, half = build(name, compile=False), build(name, compile=True, precision="bf16")
    begun = half.flat.theta.clone()
    train(single, 8)
    train(half, 8)
    assert counters["stats"]["unique_graphs"] >= 2
    assert not counters["graph_break"]
    assert half.flat.theta.isfinite().all()
    assert not torch.equal(half.flat.theta, begun)
    assert (half.flat.theta - single.flat.theta).abs().mean() < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_where_steps_are_dead_it_learns_the_same(name: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    vector = {"vector": "sync", "vector_settings": {"autoreset_mode": "next_step"}}
    eager, compiled = (build(name, compile=compile, id="Constant-v0", **vector) for compile in (False, True))
    expected, metrics = train(eager, 1)[0], train(compiled, 1)[0]
    torch.testing.assert_close(compiled.flat.theta, eager.flat.theta, rtol=1e-4, atol=1e-5)
    assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
    assert counters["stats"]["unique_graphs"] >= 2
    assert not counters["graph_break"]


class Times:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def test_what_was_compiled_for_one_learner_is_not_taken_for_another() -> None:
    torch._dynamo.reset()
    run = Run(compile=True)
    twice, thrice = run.compiled(Times(2.0)), run.compiled(Times(3.0).__call__)
    assert [f(torch.ones(2)).tolist() for f in (twice, thrice, twice)] == [[2.0, 2.0], [3.0, 3.0], [2.0, 2.0]]
    assert twice(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]


if __name__ == "__main__":  # the new process
    _, name, id, folder = sys.argv
    torch.set_num_threads(1)
    collector.BLOCK = 2
    learner = build(name, compile=True, id=id)
    learner.load_state_dict(torch.load(f"{folder}/half.pt", weights_only=True))
    train(learner, 2)
    torch.save(learner.state_dict(), f"{folder}/whole.pt")
