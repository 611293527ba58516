"""What the user typed reaches the config as it was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import trivium
from trivium import cli
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.config.overrides import OPTIMIZERS, parse_overrides
from trivium.config.problems import Found


def value_of(text: str) -> Any:
    """The value of one override."""
    found = Found()
    (override,) = parse_overrides([text], found)
    assert not found.problems
    return override.value()


# ----------------------------------------------------------------------------------------------- paths

ODD = [
    "~/r",
    "a b/c",
    "a,b",
    "it's",
    'say "hi"',
    "ü/ß",
    "a=b",
    "[x]",
    "{y}",
    "1e3",
    "a\\b\\",
    "#%?",
    " x",
    "$HOME",
    "a(b)",
]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
@example("it's, a \\' path\\")
@settings(max_examples=50, deadline=None)
def test_a_path_is_any_text(path: str) -> None:
    if "${" not in path and not (len(path) > 1 and path[0] == path[-1] and path[0] in "'\""):
        assert value_of(f"storage={path}") == path or path == "null"


@pytest.mark.parametrize("path", ODD)
def test_any_folder_may_be_the_storage(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of mine")
    assert compose([f"storage={path}"])["storage"] == path.replace("~", "/home/of mine")


def test_a_path_may_be_quoted_and_refer_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK", "/w, x")
    assert value_of("storage='a, b'") == "a, b"
    assert value_of('data.path="a, b"') == "a, b"
    assert value_of("data.path=null") is None
    assert value_of("data.files=[a,b]") == ["a", "b"]
    assert compose(["storage=${oc.env:WORK}/it's"])["storage"] == "/w, x/it's"


def test_only_what_is_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError) as refusal:
        compose(["data=mnist", "data.path=~/mnist"])
    (line,) = refusal.value.errors
    assert line.startswith(f"data.path={tmp_path}/mnist: must be a file or folder that exists")
    (tmp_path / "mnist").mkdir()
    assert compose(["data=mnist", "data.path=~/mnist"])["data"]["path"] == f"{tmp_path}/mnist"


def test_a_run_lives_and_goes_on_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    short = ["budget.updates=1", "budget.epochs=null", "tracking.wandb=false"]
    run = trivium.train("storage=~/it's, a=[b]{c} #%~", *short)
    assert run.dir.parent == tmp_path / "it's, a=[b]{c} #%~" / "mlp_digits"
    assert trivium.resume(run.dir, "budget.updates=2").updates == 2
    assert cli.main(["evaluate", f"~/{run.dir.relative_to(tmp_path)}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dir"] == str(run.dir)
    assert trivium.train(*short, dir="~/there").dir == tmp_path / "there"


# ----------------------------------------------------------------------------------------------- texts, words


def test_a_value_that_the_grammar_cannot_read_is_a_text() -> None:
    assert value_of("budget.target=eval/accuracy>=0.97") == "eval/accuracy>=0.97"
    assert value_of("data.title=it's") == "it's"
    assert value_of("model.hidden=[64,64]") == [64, 64]
    assert value_of("algorithm=SAC") == "SAC"


# ----------------------------------------------------------------------------------------------- constructors

SGD = "learner.optimizer._target_=torch.optim.SGD"
PARTIAL_SGD = {"_target_": "torch.optim.SGD", "_partial_": True}


@pytest.mark.parametrize(
    ("typed", "optimizer"),
    [
        ([SGD], PARTIAL_SGD),
        ([SGD, "learner.optimizer.momentum=0.9"], {**PARTIAL_SGD, "momentum": 0.9}),
        ([SGD, "+learner.optimizer.momentum=0.9"], {**PARTIAL_SGD, "momentum": 0.9}),
        (["learner.optimizer.momentum=0.9", SGD], {**PARTIAL_SGD, "momentum": 0.9}),
        (["learner.optimizer.weight_decay=1", SGD], {**PARTIAL_SGD, "weight_decay": 1}),
        (["learner.optimizer={_target_: torch.optim.SGD, momentum: 0.9}"], {**PARTIAL_SGD, "momentum": 0.9}),
        (["learner.optimizer=sgd", "learner.optimizer.momentum=0.9"], {**PARTIAL_SGD, "momentum": 0.9}),
        (["learner.optimizer=SGD"], PARTIAL_SGD),
        ([SGD, "~learner.optimizer.fused"], PARTIAL_SGD),  # it is gone already, and that is what was asked for
        (["experiment=vae_digits", SGD], PARTIAL_SGD),
    ],
)
def test_another_constructor_begins_with_its_own_defaults(typed: list[str], optimizer: dict[str, Any]) -> None:
    config = compose(typed)
    assert config["learner"]["optimizer"] == optimizer
    assert config["learner"]["lr"] == compose([t for t in typed if "optimizer" not in t])["learner"]["lr"]


def test_the_same_constructor_keeps_what_yaml_sets() -> None:
    assert compose(["learner.optimizer._target_=torch.optim.AdamW"]) == compose()
    optimizer = compose(["learner.optimizer.betas=[0.8,0.9]"])["learner"]["optimizer"]
    assert optimizer == {**compose()["learner"]["optimizer"], "betas": [0.8, 0.9]}


def test_another_model_does_not_get_the_former_ones_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("nets_of_mine.py").write_text("def tiny(*, input_shape, num_outputs, dropout='low'): ...\n")
    assert compose(["model._target_=nets_of_mine.tiny"])["model"] == {
        "_target_": "nets_of_mine.tiny",
        "_partial_": True,
    }
    model = compose(["model._target_=nets_of_mine.tiny", "model.dropout=high"])["model"]
    assert model["dropout"] == "high", "the type of the former one's says nothing about it"


def experiment(name: str, text: str) -> None:
    path = Path("mine/experiment") / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package _global_\n# Mine.\n{text}")


def test_an_experiment_that_names_another_constructor_begins_with_its_defaults_too() -> None:
    experiment("lower", "defaults: [mlp_digits]\nlearner: {optimizer: {_target_: torch.optim.SGD, momentum: 0.5}}\n")
    experiment("upper", "defaults: [lower]\nlearner: {lr: 0.2, optimizer: {nesterov: true, momentum: 0.9}}\n")
    assert compose(["experiment=lower"], "mine")["learner"]["optimizer"] == {**PARTIAL_SGD, "momentum": 0.5}
    learner = compose(["experiment=upper"], "mine")["learner"]
    assert learner["optimizer"] == {**PARTIAL_SGD, "nesterov": True, "momentum": 0.9}
    assert learner["lr"] == 0.2
    assert learner["decay_epochs"] == 100, "the rest is that of the lower experiments"
    adam = compose(["experiment=upper", "learner.optimizer._target_=torch.optim.Adam"], "mine")["learner"]["optimizer"]
    assert adam == {"_target_": "torch.optim.Adam", "_partial_": True}


def test_a_learner_that_an_experiment_writes_out_may_get_another_optimizer() -> None:
    node = "{_target_: torch.optim.AdamW, _partial_: true, betas: [0, 0]}"
    learner = f"{{_target_: trivium.supervised.learner.Supervised, batch_size: 9, lr: 1, optimizer: {node}}}"
    groups = "defaults: [override /model: mlp, override /data: digits]"
    experiment("whole", f"{groups}\nbudget: {{epochs: 1}}\nlearner: {learner}\n")
    learner = compose(["experiment=whole", SGD], "mine")["learner"]
    assert learner["optimizer"] == PARTIAL_SGD
    assert learner["batch_size"] == 9


def test_a_keyword_that_the_constructor_lacks_is_told_with_those_it_has() -> None:
    with pytest.raises(ConfigError) as refusal:
        compose([SGD, "learner.optimizer.momentu=0.9", "learner.optimizer.betas=[0,0]"])
    near, none = refusal.value.errors
    assert "'learner.optimizer.momentum'" in near
    assert "learner.optimizer.betas: there is no such key; valid: " in none
    assert "nesterov" in none


@pytest.mark.parametrize(
    ("name", "said"),
    [("sdg", "did you mean 'learner.optimizer=sgd'?"), ("banana", "valid: sgd, adam, adamw, rmsprop, adagrad")],
)
def test_an_optimizer_that_there_is_not(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose([f"learner.optimizer={name}", "seed=x"])
    assert said in raised.value.errors[0]
    assert len(raised.value.errors) == 2


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_short_name_makes_an_optimizer(name: str) -> None:
    made = compose([f"learner.optimizer={name}"])["learner"]["optimizer"]
    kind = getattr(torch.optim, made["_target_"].rpartition(".")[2])
    assert kind([torch.nn.Parameter(torch.zeros(2, 2))], lr=0.1).param_groups[0]["lr"] == 0.1
