"""A config is composed in one pass: Hydra composes at most once, and an experiment's files are merged in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from trivium import cli
from trivium.config.composing import compose
from trivium.config.errors import ConfigError


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What Hydra was asked to compose."""
    asked: list[Any] = []
    original = ConfigLoaderImpl.load_configuration

    def count(self: Any, config_name: str | None, overrides: list[str], *args: Any, **keywords: Any) -> Any:
        asked.append(overrides)
        return original(self, config_name, overrides, *args, **keywords)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", count)
    return asked


def test_a_training_composes_once(
    composed: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The report composes the command that it shows again, to prove that it repeats the run.
    monkeypatch.setattr("trivium.report.writing.repeat_command", lambda *_, **__: None)
    typed = ["budget.updates=1", "budget.epochs=null", "tracking.wandb=false", "threads=1", "--quiet"]
    assert cli.main(["train", "experiment=mlp_digits", *typed]) == 0, capsys.readouterr().err
    assert len(composed) == 1


@pytest.mark.parametrize(
    ("typed", "times"),
    [
        (
            "experiment=ppo_cartpole agent=a2c launch=ray launch.workers=0 learner=null",
            1,
        ),  # other options than the experiment's
        ("experiment=ppo_cartpol agent.gama=0.9 precison=bf16 seed=x", 1),
        ("experiment=mlp_digits model.hiden=3 learner.lr=fast", 1),
        ("budget=3", 1),
        ("--epochs 5", 1),
        ("experiment=zzzzz sed=1", 0),  # it is unclear what is trained
        ("experiment=mlp_digits data=zzzzz", 0),
    ],
)
def test_mistakes_compose_no_more(composed: list[Any], typed: str, times: int) -> None:
    assert cli.main(["train", *typed.split()]) == 2
    assert len(composed) == times


def experiment(name: str, text: str) -> None:
    path = Path("mine/experiment") / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package _global_\n# Mine.\n{text}")


def test_an_experiment_has_the_last_word_over_those_that_it_is_based_on() -> None:
    experiment("lower", "defaults: [mlp_digits, {override /model: lenet}]\nseed: 1\nmodel: {}\nbudget: {epochs: 2}\n")
    experiment("upper", "defaults: [lower, {override /model: mlp}]\nseed: 2\n")
    experiment("first", "defaults: [_self_, lower, {override /model: mlp}]\nseed: 2\nbudget: {epochs: 9}\n")
    upper, first = (compose([f"experiment={name}"], "mine") for name in ("upper", "first"))
    assert (upper["seed"], upper["budget"]["epochs"]) == (2, 2)
    assert (first["seed"], first["budget"]["epochs"]) == (1, 2), "`_self_` comes first: the others overrule it"
    assert upper["model"]["_target_"] == first["model"]["_target_"] == "trivium.supervised.models.mlp.MLP"


def test_what_an_experiment_sets_for_its_own_options_is_not_meant_for_others() -> None:
    experiment("upper", "defaults: [mlp_digits]\nseed: 2\n")
    model = compose(["experiment=upper", "model=lenet"], "mine")["model"]
    assert "hidden" not in model, "which mlp_digits, two files below, sets for its MLP"


def test_a_mistake_is_found_in_the_file_that_holds_it() -> None:
    experiment("lower", "defaults: [mlp_digits]\nlearner: {lr: -1, batchsize: 3}\n")
    experiment("upper", "defaults: [lower]\nseed: none\n")
    with pytest.raises(ConfigError) as refusal:
        compose(["experiment=upper"], "mine")
    folder = Path("mine/experiment").absolute()
    assert {line.split(" (")[0].split(":")[0]: line.endswith(f"({folder}/{file}.yaml)")
            for line, file in zip(sorted(refusal.value.errors), ("lower", "lower", "upper"), strict=True)} == {
        "learner.batchsize": True, "learner.lr=-1": True, "seed=none": True}  # fmt: skip


def test_an_experiment_that_is_based_on_itself_is_refused() -> None:
    experiment("one", "defaults: [two]\n")
    experiment("two", "defaults: [one]\n")
    with pytest.raises(ConfigError, match="one: the experiment is based on itself"):
        compose(["experiment=one"], "mine")
