"""What every agent promises as a `Learner`, checked; `build(**keywords)` makes one, `saved` is the fixture."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor

from trivium.agents.rollouts.collector import Rollout
from trivium.learner import Learner, Run

CONFIGS = Path(__file__).parents[2] / "configs"
Build = Callable[..., Any]


def train(learner: Learner, updates: int) -> list[dict[str, float]]:
    return [{name: value.item() for name, value in learner.step().items()} for _ in range(updates)]


def collect(learner: Any) -> Rollout:
    """A rollout of an on-policy agent, as its step collects it."""
    collector = learner.collector
    return collector.collect(learner.actions.noise(learner.num_steps, collector.envs.num_envs, learner.act_rng))


def gradients(learner: Any) -> list[Tensor]:
    """The list to which every update from now on adds what its optimizer is given, float32 [P]."""
    seen: list[Tensor] = []
    step = learner.optimizer.step

    def recorded(gradient_P: Tensor, lr: Tensor) -> None:
        seen.append(gradient_P.clone())
        step(gradient_P, lr)

    learner.optimizer.step = recorded
    return seen


def features(learner: Any) -> list[Tensor]:
    """The list to which every forward pass from now on adds what its encoder made of observations, [B, D]."""
    seen: list[Tensor] = []
    learner.net.encoder.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    return seen


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict of leaves."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in items for k, v in flat(value, f"{prefix}/{key}").items()}
    return {prefix: state}


def assert_equal_states(first: Any, second: Any) -> None:
    a, b = flat(first), flat(second)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]) if isinstance(value, Tensor) else value == b[name], name


def check_metrics(build: Build, names: set[str]) -> None:
    learner = build()
    assert isinstance(learner, Learner)
    for _ in range(3):
        metrics = learner.step()
        assert set(metrics) == names
        assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())


def check_resumes(build: Build, saved: Callable[[Any], Any]) -> None:
    whole = build()
    metrics = train(whole, 6)

    first = build()
    train(first, 3)
    state = saved(first.state_dict())
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    second = build()
    train(second, 1)  # whatever it was before is forgotten
    second.load_state_dict(state)
    assert_equal_states(saved(second.state_dict()), state)
    assert str(train(second, 3)) == str(metrics[3:])
    assert_equal_states(saved(second.state_dict()), saved(whole.state_dict()))


def check_seeds(build: Build) -> None:
    states = []
    for seed, other in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(other)
        learner = build(seed=seed)
        train(learner, 2)
        states.append(learner.net.state_dict())
    assert_equal_states(states[0], states[1])
    assert not torch.equal(states[0]["actor.0.weight"], states[2]["actor.0.weight"])


def check_evaluation(build: Build, saved: Callable[[Any], Any]) -> None:
    """Touches nothing, repeats itself, and depends on the weights only."""
    keywords = {"eval_episodes": 3, "test_episodes": 5, "max_eval_steps": 50}
    learner = build(**keywords)
    train(learner, 1)
    before, rngs = saved(learner.state_dict()), (random.getstate(), str(np.random.get_state()), torch.get_rng_state())
    result, final = learner.evaluate(), learner.evaluate(final=True)
    assert learner.evaluate() == result
    assert learner.evaluate(final=True) == final
    assert_equal_states(saved(learner.state_dict()), before)
    assert (random.getstate(), str(np.random.get_state())) == rngs[:2]
    assert torch.equal(torch.get_rng_state(), rngs[2])

    resumed = build(**keywords)
    resumed.load_weights(before)
    assert resumed.evaluate() == result


def check_normalised_evaluation(build: Build) -> None:
    """`build` makes an agent that normalises observations: evaluation normalises them too, by frozen statistics."""
    learner = build()
    train(learner, 1)
    result, mean = learner.evaluate(), learner.net.encoder.mean
    assert mean.any()
    assert learner.evaluate() == result
    mean += 100
    assert learner.evaluate() != result


def check_learns_from_what_its_policy_saw(build: Build) -> None:
    """`build` makes an agent that normalises observations: the update finds the very numbers that were acted on, though
    by then the statistics could have taken the rollout in."""
    learner = build()
    train(learner, 1)
    raw, seen, mean = learner.collector.obs, features(learner), learner.net.encoder.mean.clone()
    learner.step()
    steps, num_envs = learner.num_steps, len(raw)
    acted, valued, next_valued = torch.stack(seen[:steps]), seen[steps], seen[steps + 1]
    assert torch.equal(acted.flatten(0, 1), valued)
    assert torch.equal(next_valued[:-num_envs], valued[num_envs:]), "the next observations too"
    assert not torch.equal(acted[0], raw)
    assert acted.abs().max() <= 10
    assert not torch.equal(learner.net.encoder.mean, mean), "the next rollout is normalised anew"


def check_entropy_bonus(build: Build, updates: int) -> None:
    """With nothing but the bonus to learn from, a squashed Gaussian nears the uniform distribution; its deviation,
    which begins above that, does not grow."""
    learner = build("Free-v0", squash=True, entropy_coef=1.0, log_std=1.5, lr=0.05, num_envs=8)
    metrics = train(learner, updates)
    assert metrics[-1]["entropy"] == pytest.approx(math.log(2), abs=0.03)
    assert learner.net.log_std_A.exp().item() == pytest.approx(0.87, abs=0.2)


def check_yaml(path: str, target: Callable[..., Any]) -> None:
    """Its keys and values are the keywords and defaults of the constructor."""
    yaml = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{path}.yaml"))
    assert isinstance(yaml, dict)
    keywords = {name: value for name, value in yaml.items() if not str(name).startswith("_")}
    parameters = inspect.signature(target).parameters
    assert set(keywords) == set(parameters) - {"run", "env"}
    for name, value in keywords.items():
        default = parameters[name].default
        if isinstance(value, str) and value.startswith("${"):  # from elsewhere in the config, where it may be null
            assert default is None, name
            continue
        assert value == (list(default) if isinstance(default, tuple) else default), name


def work(rank: int, folder: str, build: Build) -> None:
    """One of two workers, for `forked.spawn`: two steps, and one, a resume and another."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    run = Run(rank=rank, world_size=2)
    whole = build(run=run)
    train(whole, 2)
    half = build(run=run)
    train(half, 1)
    resumed = build(run=run)
    resumed.load_state_dict(half.state_dict())
    train(resumed, 1)
    result = {"whole": whole.state_dict(), "resumed": resumed.state_dict(), "eval": whole.evaluate()}
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def check_workers(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """After `work`: equal weights from other episodes, exact resumes, one evaluation; returns what they saved."""
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert_equal_states(first["whole"]["net"], second["whole"]["net"])
    collectors = [worker["whole"]["collector"] for worker in (first, second)]
    assert collectors[0]["env_steps"] == collectors[1]["env_steps"]
    assert not torch.equal(*(collector["envs"]["state"] for collector in collectors))
    assert not torch.equal(first["whole"]["act_rng"], second["whole"]["act_rng"])
    assert first["eval"] == second["eval"]
    for worker in (first, second):
        assert_equal_states(worker["whole"], worker["resumed"])
    return first, second
