"""The table of what values keys may hold."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trivium import valid


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
        ("learner.lr", [1e-3, 1], [0, -1e-3, "1e-3", None, True]),
        ("learner.encoder_lr", [1e-3], [0]),
        ("agent.gamma", [0, 1, 0.99], [-0.01, 1.01]),
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


def test_whole_numbers_become_integers_only_where_nothing_else_is_valid() -> None:
    tree = {"budget": {"samples": 1e6, "epochs": 3.0}, "learner": {"lr": 1.0, "batch_size": 64.0, "x": 2.5}}
    changed = valid.with_integers(tree)
    assert changed == tree
    assert type(changed["budget"]["samples"]) is int
    assert type(changed["learner"]["batch_size"]) is int
    assert type(changed["budget"]["epochs"]) is float
    assert type(changed["learner"]["lr"]) is float
    assert type(tree["budget"]["samples"]) is float


def test_values_are_shown_as_they_are_typed() -> None:
    assert [valid.show(v) for v in (True, None, 0.5, "x")] == ["true", "null", "0.5", "x"]


def test_the_activations_are_those_of_the_mlp() -> None:
    from trivium.supervised.models.mlp import ACTIVATIONS

    assert valid.BY_NAME["activation"] == valid.OneOf(tuple(ACTIVATIONS))
