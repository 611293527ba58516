"""Rules that annotations state in the source, and what the config check makes of them."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
import yaml

from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.config.library import listed_targets
from trivium.config.rules import kinds
from trivium.config.rules.annotations import Defined, rule_of
from trivium.config.rules.checked import rules_of
from trivium.config.rules.kinds import Form, Range
from trivium.config.rules.rule import ANY, Group, Items, Number, Rule, Text, Truth
from trivium.config.rules.signatures import stated_parameters
from trivium.config.rules.source import assigned, definition
from trivium.python.values import as_texts

ALIASES = {"Stem": 'Literal["imagenet", "small"]', "Depth": "Literal[18, 34]", "Deep": "Depth", "Loop": "Loop"}
NUMBER, WHOLE = Number(), Number(whole=True)


def read(annotation: str, default: str | None = None) -> Rule | None:
    def resolve(module: str, name: str) -> Defined | None:
        if hasattr(kinds, name):
            return assigned(kinds.__name__, name)
        return Defined(module, name, ast.parse(ALIASES[name], mode="eval").body) if name in ALIASES else None

    value = None if default is None else ast.parse(default, mode="eval").body
    return rule_of(ast.parse(annotation, mode="eval").body, value, "here", resolve)


@pytest.mark.parametrize(
    ("annotation", "rule"),
    [
        ("float", Rule(kinds=(NUMBER,))),
        ("bool", Rule(kinds=(Truth(),))),
        ("int | None", Rule(kinds=(WHOLE,), optional=True)),
        ("Optional[str]", Rule(kinds=(Text(),), optional=True)),
        ("Union[str, None]", Rule(kinds=(Text(),), optional=True)),
        ('Literal["a", "b"] | None', Rule(("a", "b"), optional=True)),
        ('typing.Literal["a", None]', Rule(("a",), optional=True)),
        ('Literal["auto"] | float', Rule(("auto",), (NUMBER,))),
        ("Annotated[float, Range(ge=0, lt=1.5)]", Rule(kinds=(Number(range=Range(ge=0, lt=1.5)),))),
        ("Annotated[int, Range(ge=-20, le=2**32 - 1)]", Rule(kinds=(Number(True, Range(ge=-20, le=2**32 - 1)),))),
        ("Annotated[float, Range(gt=0, le=math.inf)]", Rule(kinds=(Number(range=Range(gt=0, le=float("inf"))),))),
        ('Annotated[str, Form("a+", "some a")]', Rule(kinds=(Text(Form("a+", "some a")),))),
        ("Annotated[float, 3]", Rule(kinds=(NUMBER,))),
        ("Fraction | None", Rule(kinds=(Number(range=Range(ge=0, le=1)),), optional=True)),
        ("Sequence[Count]", Rule(kinds=(Items(Rule(kinds=(Number(True, Range(ge=1)),))),))),
        ("Widths", Rule(kinds=(Items(Rule(kinds=(Number(True, Range(ge=1)),))),))),
        ("tuple[str, ...]", Rule(kinds=(Items(Rule(kinds=(Text(),))),))),
        ("Sequence[Any]", Rule(kinds=(Items(),))),
        ("Mapping[str, float]", Rule(kinds=(Group(Rule(kinds=(NUMBER,))),))),
        ("Stem", Rule(("imagenet", "small"))),
        ("Deep | None", Rule((18, 34), optional=True)),
        ("'float | None'", Rule(kinds=(NUMBER,), optional=True)),
    ],
)
def test_annotations_that_state_a_rule(annotation: str, rule: Rule) -> None:
    assert read(annotation) == rule


@pytest.mark.parametrize(
    "annotation",
    [
        "Callable[..., Any]",
        "Tensor",
        "nn.Module",
        "float | Other",
        "Loop",
        "Any",
        "tuple[float, float]",
        "Range(ge=0)",
        "open('x')",
        "Annotated[float, Range(most=3)]",
        "'float |'",
    ],
)
def test_annotations_that_state_none(annotation: str) -> None:
    assert read(annotation) is None


def test_a_default_of_none_allows_none() -> None:
    assert read("float", "None") == Rule(kinds=(Number(False, ANY),), optional=True)
    assert read("float", "1.0") == Rule(kinds=(Number(False, ANY),))


@pytest.mark.parametrize("target", sorted(t for t in listed_targets() if t.startswith("trivium.")))
def test_the_source_states_the_same_as_the_imported_signature(target: str) -> None:
    from trivium.config import constructors

    stated = stated_parameters(target)
    assert stated is not None
    found = constructors.resolve(target)
    imported = rules_of(found.__init__ if isinstance(found, type) else found)  # type: ignore[misc]
    assert dict(stated.rules) == imported


@pytest.mark.parametrize("target", sorted(t for t in listed_targets() if t.startswith("trivium.")))
def test_the_defaults_of_a_signature_are_valid(target: str) -> None:
    import inspect

    from trivium.config import constructors

    found = constructors.resolve(target)
    rules = rules_of(found.__init__ if isinstance(found, type) else found)  # type: ignore[misc]
    defaults = {name: p.default for name, p in inspect.signature(found).parameters.items() if p.default is not p.empty}
    wrong = {name: value for name, value in defaults.items() if name in rules and not rules[name].accepts(value)}
    assert wrong == {}


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


PPO = "experiment=ppo_cartpole"


@pytest.mark.parametrize(
    ("typed", "valid"),
    [
        ("agent.memory=ltsm", "one of lstm, gru, null; did you mean 'lstm'?"),
        ("agent.images=natur", "one of nature, impala; did you mean 'nature'?"),
        ("env.vector=foo", "one of sync, async, own, envpool, null"),
        ("agent.std=stat", "one of free, state; did you mean 'state'?"),
        ("agent.max_grad_norm=null", "a number"),
    ],
)
def test_the_constructors_signature_decides(typed: str, valid: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose([PPO, typed])
    (line,) = raised.value.errors
    assert line.startswith(f"{typed}: must be {valid}")


@pytest.mark.parametrize(
    "typed", ["agent.max_grad_norm=.inf", "agent.memory=gru", "agent.memory=null", "env.vector=sync"]
)
def test_what_the_signature_allows_is_accepted(typed: str) -> None:
    compose([PPO, typed])


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("agent.lr=1", "lr", 1.0),
        ("agent.gamma=0", "gamma", 0.0),
        ("agent.max_grad_norm=.inf", "max_grad_norm", float("inf")),
        ("agent.num_steps=32.0", "num_steps", 32),
        ("agent.hidden=[64.0,1e2]", "hidden", [64, 100]),
    ],
)
def test_values_have_the_type_of_the_signature(typed: str, key: str, value: object) -> None:
    found = compose([PPO, typed])["agent"][key]
    assert found == value
    assert repr(found) == repr(value)


def test_a_whole_number_is_a_float_wherever_it_is_set(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults: [ppo_cartpole]\nagent: {lr: 1}\n"
    )
    composed = {
        "typed": compose([PPO, "agent.lr=1"]),
        "a group": compose([PPO, "agent={lr: 1}"]),
        "YAML": compose(["experiment=mine"], tmp_path),
        "a dict in Python": compose([PPO, *as_texts([{"agent.lr": 1}])]),
        "a reference": compose([PPO, "agent.lr=${agent.num_epochs}", "agent.num_epochs=1"]),
    }
    assert {name: repr(config["agent"]["lr"]) for name, config in composed.items()} == dict.fromkeys(composed, "1.0")
    assert "lr: 1.0" in yaml.safe_dump(composed["typed"])
    assert repr(composed["a reference"]["agent"]["num_epochs"]) == "1"


def test_a_users_own_literals_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_kinds.py").write_text(
        "from typing import Annotated\n\nfrom trivium.config.rules.kinds import Fraction, Range\n\n"
        "Few = Annotated[int, Range(ge=1, le=4)]\nShare = Fraction\n"
    )
    (tmp_path / "own_net.py").write_text(
        "from typing import Literal\n\nfrom own_kinds import Few as Size, Share\n\nKind = Literal['wide', 'deep']\n\n\n"
        "class Net:\n    def __init__(self, *, input_shape, num_outputs, kind: Kind = 'wide', size: Size = 3,\n"
        "                 share: Share = 0.5):\n        pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    composed = functools.partial(compose, config_dir=None)
    own = ["experiment=mlp_digits", "model._target_=own_net.Net"]
    assert repr(composed([*own, "model.kind=deep", "model.share=1"])["model"]["share"]) == "1.0"
    with pytest.raises(ConfigError) as raised:
        composed([*own, "model.kind=dep", "model.size=5", "model.share=1.5"])
    assert raised.value.errors == [
        "model.kind=dep: must be one of wide, deep; did you mean 'deep'?",
        "model.size=5: must be an integer >= 1 and <= 4",
        "model.share=1.5: must be a number >= 0 and <= 1",
    ]
