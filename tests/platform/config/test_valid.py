"""The table of what values keys may hold."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

import pytest

from trivium.config import valid
from trivium.config.rules.signatures import stated_parameters
from trivium.config.rules.source import definition


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("seed", [0, 2**63 - 1], [-1, 2**63, 1.0, "1", None, True]),
        ("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"], ["gpu", "cuda:", "cuda:-1", 0, None]),
        ("compile", [True, False, "auto"], ["yes", 1, None]),
        ("threads", ["auto", 1, 64, "2"], [0, -1, 1.5, "an integer >= 1", None]),
        ("budget.epochs", [1, 0.5, None], [0, -1, math.inf, math.nan, "1"]),
        ("budget.target", ["eval/loss<=1e-3", "eval/accuracy >= 0.97", None], ["accuracy", "a=1", 3]),
        ("monitor.metric", ["eval/loss", None], ["loss", "train/loss"]),
        ("launch.gpus_per_worker", ["auto", 0, 1], [2, True, "0"]),
        ("learner.lr", [1e-3, 1, 1e6], [0, -1e-3, "1e-3", None, True, 1.1e6, 3.5e38]),
        (
            "storage",
            ["runs", "/a b/c", "s3://b/x?y=z", "gs://b", "fsspec+memory://x"],
            ["", " ", "s3://", "zz://x", None],
        ),
        ("data.split_seed", [0, 2**32 - 1], [-1, 2**32]),
        ("env.num_envs", [1, 1_000_000], [0, 1_000_001]),
        ("learner.encoder_lr", [1e-3], [0]),
        ("agent.gamma", [0, 1, 0.99], [-0.01, 1.01, math.nan]),
        ("agent.max_grad_norm", [0.5, math.inf, None], [0, -math.inf, math.nan]),
        ("agent.log_std", [0, 1], [math.nan]),
        ("model.dropout", [0, 0.999], [1, -0.1]),
        ("model.hidden", [[], [1, 2]], [3, [0], [1.0], "64", None]),
        ("data.val_fraction", [0.1], [0, 1]),
        ("agent.entropy_coef", [0, 0.01], [-0.01]),
    ],
)
def test_rules(path: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert valid.problem(path, value, default=1) is None, value
    for value in bad:
        assert valid.problem(path, value, default=1), value


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        (1, 2, None),
        (1, 2.0, None),
        (1.5, 2, "an integer"),
        (True, 2, "an integer"),
        (True, 2.0, "a number"),
        ("x", 2.0, "a number"),
        (3, "x", "a text"),
        (3, [1], "a list"),
        ("yes", True, "true or false"),
        (None, 3, None),
        (3, None, None),
    ],
)
def test_without_a_rule_the_default_gives_the_type(value: Any, default: Any, expected: str | None) -> None:
    assert valid.problem("learner.something", value, default) == expected


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [(1.5, 2, None), ([3], 2, None), ({"a": 1}, 2, None), ("x", 2, "an integer"), (2, "x", "a text"), (2, None, None)],
)
def test_a_users_own_constructor_is_told_only_numbers_from_texts(
    value: Any, default: Any, expected: str | None
) -> None:
    assert valid.wrong_scalar(value, default) == expected


def test_the_algorithms_are_those_of_rllib_that_learn_from_an_env() -> None:
    known = definition("ray.rllib.algorithms.registry", "ALGORITHMS")
    offline = definition("trivium.agents.rllib.config", "OFFLINE")
    assert known
    assert offline
    names = {key.value for key in known[1].value.keys}  # type: ignore[attr-defined]
    names -= set(ast.literal_eval(offline[1].value))  # type: ignore[attr-defined]
    stated = stated_parameters("trivium.agents.rllib.learner.RLlib")
    assert stated
    assert stated.rules["algorithm"].choices == tuple(sorted(names, key=str.upper))


def test_the_buckets_are_those_that_arrow_knows() -> None:
    fs = pytest.importorskip("pyarrow.fs")
    for scheme in [*valid.SCHEMES.replace(" or", ",").split(", "), "zz://"]:
        problem = ""
        try:
            fs.FileSystem.from_uri(scheme)
        except Exception as error:  # of the empty address
            problem = str(error)
        assert ("Unrecognized filesystem type" in problem) == (scheme == "zz://"), problem


def test_the_nearest_name_is_offered() -> None:
    rule = valid.OneOf(("PPO", "SAC", True))
    assert rule.problem("sack") == "one of PPO, SAC, true; did you mean 'SAC'?"
    assert rule.problem("xyz") == "one of PPO, SAC, true"


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
    assert [error for _, error in valid.indivisible(values, workers)] == errors
    if errors:
        with pytest.raises(ValueError, match=re.escape(errors[0])):
            valid.require_divisible(values, workers)
    else:
        valid.require_divisible(values, workers)


def test_sizes_are_shared_by_the_workers() -> None:
    assert valid.not_shared("env.num_envs", 6, 3) is None
    assert valid.not_shared("env.num_envs", 7, 3) == "env.num_envs=7 must be a positive multiple of the 3 workers"
    assert valid.not_shared("env.num_envs", 0, 1)
