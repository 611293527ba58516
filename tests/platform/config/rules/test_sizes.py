"""Sizes that must divide others, as a class declares them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trivium.config.problems import Kind, Problem
from trivium.config.rules.signatures import stated
from trivium.config.rules.sizes import indivisible, not_shared, require_divisible

SUPERVISED = "trivium.supervised.learner.Supervised"
PPO = "trivium.agents.ppo.PPO"


@pytest.mark.parametrize(
    ("values", "workers", "errors"),
    [
        ({"learner.accumulate": 4, "learner.batch_size": 64}, 1, []),
        (
            {"learner.accumulate": 3, "learner.batch_size": 64},
            1,
            ["learner.accumulate=3 must divide learner.batch_size = 64"],
        ),
        ({"learner.accumulate": 32, "learner.batch_size": 64}, 2, []),
        (
            {"learner.accumulate": 64, "learner.batch_size": 64},
            2,
            ["learner.accumulate=64 must divide learner.batch_size / launch.workers = 32"],
        ),
        ({"agent.minibatch_size": 12, "agent.num_steps": 6, "env.num_envs": 4}, 2, []),
        (
            {"agent.minibatch_size": 9, "agent.num_steps": 6, "env.num_envs": 4},
            1,
            ["agent.minibatch_size=9 must divide agent.num_steps * env.num_envs = 24"],
        ),
        ({"agent.minibatch_size": 4, "agent.num_steps": 6, "env.num_envs": 4, "agent.memory": None}, 1, []),
        (
            {"agent.minibatch_size": 4, "agent.num_steps": 6, "env.num_envs": 4, "agent.memory": "gru"},
            1,
            ["agent.num_steps=6 must divide agent.minibatch_size = 4, for agent.memory=gru"],
        ),
        (
            {"agent.minibatch_size": 6, "agent.num_steps": 6, "env.num_envs": 4, "agent.memory": "gru"},
            2,
            ["agent.num_steps=6 must divide agent.minibatch_size / launch.workers = 3, for agent.memory=gru"],
        ),
        ({"agent.env_runners": 0, "env.num_envs": 4}, 1, []),
        ({"agent.env_runners": 3, "env.num_envs": 4}, 1, ["agent.env_runners=3 must divide env.num_envs = 4"]),
        ({"agent.minibatch_size": None, "agent.num_steps": "x", "env.num_envs": 4}, 1, []),
    ],
)
def test_sizes_that_must_divide_others(values: dict[str, Any], workers: int, errors: list[str]) -> None:
    group = "learner" if "learner.batch_size" in values else "agent"
    divides = stated(SUPERVISED if group == "learner" else PPO, "divides")
    assert [str(problem) for problem in indivisible(divides, values, group=group, workers=workers)] == errors
    if errors:
        with pytest.raises(ValueError, match=re.escape(errors[0])):
            require_divisible(divides, values, group=group, workers=workers)
    else:
        require_divisible(divides, values, group=group, workers=workers)


def test_the_keywords_that_a_class_names_are_its_own() -> None:
    from trivium.config.library import listed_targets
    from trivium.config.rules.signatures import stated_parameters

    declared = {}
    for target in sorted(listed_targets()):
        takes = stated_parameters(target)
        sizes = [*(stated(target, "shared") or ()), *(stated(target, "divides") or ())]
        if takes and sizes:
            declared[target] = [size for size in sizes if "." not in size and size not in takes.names]
    assert len(declared) > 8
    assert not any(declared.values()), declared


def test_sizes_are_shared_by_the_workers() -> None:
    assert not_shared("env.num_envs", 6, 3) is None
    assert not_shared("env.num_envs", 7, 3) == Problem(Kind.SHARE, "env.num_envs", 7, details={"workers": 3})
    assert not_shared("env.num_envs", 0, 1)
