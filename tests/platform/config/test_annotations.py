"""Rules that annotations state: which values they allow, and what is said of others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from trivium.config.annotations import Rule, rule_of
from trivium.config.composing import compose
from trivium.config.errors import ConfigError

ALIASES = {"Stem": 'Literal["imagenet", "small"]', "Depth": "Literal[18, 34]", "Deep": "Depth", "Loop": "Loop"}


def read(annotation: str, default: str | None = None) -> Rule | None:
    def resolve(name: str) -> ast.expr | None:
        return ast.parse(ALIASES[name], mode="eval").body if name in ALIASES else None

    value = None if default is None else ast.parse(default, mode="eval").body
    return rule_of(ast.parse(annotation, mode="eval").body, value, resolve)


@pytest.mark.parametrize(
    ("annotation", "rule"),
    [
        ("float", Rule(kinds=("float",))),
        ("int | None", Rule(kinds=("int",), optional=True)),
        ("Optional[str]", Rule(kinds=("str",), optional=True)),
        ('Literal["a", "b"] | None', Rule(("a", "b"), optional=True)),
        ('typing.Literal["a", None]', Rule(("a",), optional=True)),
        ('float | Literal["auto"]', Rule(("auto",), ("float",))),
        ("Annotated[float, Range(0, 1)]", Rule(kinds=("float",))),
        ("Stem", Rule(("imagenet", "small"))),
        ("Deep | None", Rule((18, 34), optional=True)),
        ("'float | None'", Rule(kinds=("float",), optional=True)),
    ],
)
def test_annotations_that_state_a_rule(annotation: str, rule: Rule) -> None:
    assert read(annotation) == rule


@pytest.mark.parametrize(
    "annotation", ["Sequence[int]", "Callable[..., Any]", "Tensor", "float | Other", "Loop", "Any"]
)
def test_annotations_that_state_none(annotation: str) -> None:
    assert read(annotation) is None


def test_a_default_of_none_allows_none() -> None:
    assert read("float", "None") == Rule(kinds=("float",), optional=True)
    assert read("float", "1.0") == Rule(kinds=("float",))


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("float", [1, 0.5, float("inf"), -3], [None, "a", True, [1]]),
        ("int", [1, 3.0], [1.5, None, "1", False]),
        ("bool", [True, False], [1, 0, "true", None]),
        ("str | None", ["a", None], [1, True]),
        ("Deep", [18, 34], [19, "18", 18.5, True]),
        ('Literal["a"] | int', ["a", 3], ["b", 1.5]),
    ],
)
def test_values(annotation: str, good: list[object], bad: list[object]) -> None:
    rule = read(annotation)
    assert rule is not None
    assert [value for value in good if rule.problem(value)] == []
    assert [value for value in bad if not rule.problem(value)] == []


PPO = "experiment=ppo_cartpole"


@pytest.mark.parametrize(
    ("typed", "key", "hint"),
    [
        ("agent.memory=ltsm", "agent.memory", "lstm"),
        ("agent.images=natur", "agent.images", "nature"),
        ("env.vector=foo", "env.vector", "sync, async, own, envpool, null"),
        ("agent.std=stat", "agent.std", "state"),
        ("agent.max_grad_norm=null", "agent.max_grad_norm", "a number"),
    ],
)
def test_the_constructors_signature_decides(typed: str, key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose([PPO, typed])
    (line,) = raised.value.errors
    assert line.startswith(f"{key}: ")
    assert hint in line


@pytest.mark.parametrize(
    "typed", ["agent.max_grad_norm=.inf", "agent.memory=gru", "agent.memory=null", "env.vector=sync"]
)
def test_what_the_signature_allows_is_accepted(typed: str) -> None:
    compose([PPO, typed])


def test_a_users_own_literals_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_net.py").write_text(
        "from typing import Literal\n\nKind = Literal['wide', 'deep']\n\n\n"
        "class Net:\n    def __init__(self, *, input_shape, num_outputs, kind: Kind = 'wide', size: int = 3):\n"
        "        pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ["experiment=mlp_digits", "model._target_=own_net.Net"]
    compose([*own, "model.kind=deep"])
    with pytest.raises(ConfigError, match=r"model\.kind: 'dep' is none of its values; did you mean deep\?"):
        compose([*own, "model.kind=dep"])
    with pytest.raises(ConfigError, match=r"model\.size: 1\.5; valid: a whole number"):
        compose([*own, "model.size=1.5"])
