"""What a hint names can be typed as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trivium.config import hints
from trivium.config.composing import compose, keys
from trivium.config.library import Library
from trivium.config.problems import Kind

CLASSIFIER = {
    "seed": 0,
    "budget": {"epochs": None, "env_steps": None, "updates": None, "target": None},
    "log": {"every_updates": 50},
    "tracking": {"wandb": True},
    "learner": {
        "_target_": "trivium.supervised.learner.Supervised",
        "lr": 0.1,
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "nesterov": True},
    },
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sed", "seed"),
        ("epochs", "budget.epochs"),
        ("bugdet.epochs", "budget.epochs"),
        ("lr", "learner.lr"),
        ("learner.learning_rate", "learner.lr"),  # another library's name for it
        ("learner.optimizer.momentu", "learner.optimizer.momentum"),  # which only the constructor names
        ("learner.optimizer.lr", "learner.lr"),  # the learner hands it down: it would overrule the optimizer's
        ("learner.optimizer.xyz", None),  # that it stands beside them makes no key near
        ("learner.optimizer.params", None),  # given by the learner
        ("anything", None),
    ],
)
def test_the_nearest_key(typed: str, meant: str | None) -> None:
    assert hints.nearest_key(typed, CLASSIFIER) == meant


def test_a_key_without_a_near_one_is_told_what_the_constructor_accepts() -> None:
    problem = hints.unknown_key("learner.optimizer.xyz", CLASSIFIER, "a.yaml")
    assert (problem.kind, problem.nearest, problem.file) == (Kind.KEY, (), "a.yaml")
    assert problem.valid[0] == "nesterov"
    assert "momentum" in problem.valid
    assert not {"params", "_target_"} & set(problem.valid)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("mlp_digits", "experiment=mlp_digits"),
        ("mlp_digit", "experiment=mlp_digits"),
        ("PPO", "agent=ppo"),
        ("vae", "learner=vae"),
        ("mnist", "data=mnist"),
        ("sac", "agent=rllib algorithm=SAC"),
        ("DREAMERV3", "agent=rllib algorithm=DreamerV3"),
        ("CartPole-v1", "env.id=CartPole-v1"),
        ("mymodule:My-v0", "env.id=mymodule:My-v0"),
        ("seed", "seed=<value>"),
        ("budget.epochs", "budget.epochs=<value>"),
        ("experiment/mlp_digits", "experiment=mlp_digits"),
        ("configs/agent/ppo.yaml", "agent=ppo"),
        ("model/nothing.yaml", None),
        ("banana", None),
        ("1", None),
    ],
)
def test_a_bare_word(word: str, meant: str | None) -> None:
    assert hints.for_word(word) == meant


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed", "1"], [("seed 1", ("seed=1",))]),
        (["experiment", "=", "mlp_digits"], [("experiment = mlp_digits", ("experiment=mlp_digits",))]),
        (["budget.epochs", "=5"], [("budget.epochs =5", ("budget.epochs=5",))]),
        (["mlp_digits", "banana"], [("mlp_digits", ("experiment=mlp_digits",)), ("banana", ())]),
    ],
)
def test_words_that_belong_together_are_one_mistake(words: list[str], said: list[tuple[str, tuple[str, ...]]]) -> None:
    found = list(hints.not_overrides(words, Library()))
    assert [(problem.key, problem.nearest) for problem in found] == said
    assert {problem.kind for problem in found} == {Kind.FORM}


@pytest.mark.parametrize(
    ("group", "option", "meant", "goes_on_with"),
    [
        *(("agent", name, f"agent=rllib algorithm={right}", "rllib") for name, right in (
            ("sac", "SAC"), ("SAC", "SAC"), ("appo", "APPO"), ("impala", "IMPALA"), ("dreamerv3", "DreamerV3"))),
        ("agent", "PPO", "ppo", "ppo"),
        ("agent", "dqqn", "dqn", "dqn"),
        ("agent", "trpo", None, None),
        ("agent", "classifier", "learner=classifier", None),
        ("learner", "ppo", "agent=ppo", None),
        ("experiment", "ppo", "ppo_acrobot", "ppo_acrobot"),
        ("experiment", "reinforce", "reinforce_cartpole", "reinforce_cartpole"),
        ("env", "CartPole-v1", "env.id=CartPole-v1", None),
        ("model", "mymodels.Tiny", "model._target_=mymodels.Tiny", None),
        ("launch", None, None, None),
        ("experiment", "mlp_digits.yaml", "experiment=mlp_digits", None),
        ("experiment", "configs/experiment/mlp_digits", "experiment=mlp_digits", None),
    ],
)  # fmt: skip
def test_an_option_that_a_group_lacks(group: str, option: Any, meant: str | None, goes_on_with: str | None) -> None:
    problem, near = hints.no_such_option(group, option, Library())
    assert (problem.kind, problem.key, problem.value) == (Kind.OPTION, group, option)
    assert next(iter(problem.nearest), None) == meant
    assert problem.valid == tuple(Library().options(group))
    assert near == goes_on_with


def test_several_overrides_in_one_word_are_written_apart() -> None:
    problem, near = hints.no_such_option("experiment", "mlp_digits seed=1", Library())
    assert (problem.kind, near) == (Kind.SEVERAL_OVERRIDES, None)
    assert problem.details["parts"] == "'experiment=mlp_digits' 'seed=1'"


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("--seed", "1", "seed=1"),
        ("-seed", "1", "seed=1"),
        ("--budget.epochs", "5", "budget.epochs=5"),
        ("--epochs", "5", "budget.epochs=5"),
        ("--every-updates", "5", "log.every_updates=5"),
        ("--learning-rate", "1e-3", "learner.lr=1e-3"),
        ("--experiment", "mlp_digits", "experiment=mlp_digits"),
        ("--env", "CartPole-v1", "env.id=CartPole-v1"),
        ("--agent", "", "agent=<option>"),
        ("--budget", "5", "budget.epochs=5"),
        ("--wandb", "", "tracking.wandb=true"),
        ("--no-wandb", "", "tracking.wandb=false"),
        ("--seed", "", "seed=<value>"),
        ("--banana", "3", None),
    ],
)
def test_an_option_that_is_a_key(name: str, value: str, meant: str | None) -> None:
    assert hints.for_option(name, value, CLASSIFIER, Library(), exactly=False) == meant


def test_a_value_for_a_whole_group() -> None:
    assert hints.for_group("budget", 100, CLASSIFIER["budget"]) == "budget.epochs=100"
    assert hints.for_group("budget", 100, CLASSIFIER["budget"], skip=("epochs",)) == "budget.env_steps=100"
    assert hints.for_group("budget", "eval/loss<=1", CLASSIFIER["budget"]) == "budget.target=eval/loss<=1"
    meant = hints.for_group("learner.optimizer", "adam", CLASSIFIER["learner"]["optimizer"])
    assert meant == "learner.optimizer._target_=torch.optim.Adam"
    assert hints.for_group("budget", [1], CLASSIFIER["budget"]) is None


@pytest.mark.parametrize("hint", ["seed=1", "agent=rllib algorithm=SAC budget.updates=1", "budget.epochs=5"])
def test_what_hints_name_can_be_typed(hint: str) -> None:
    compose(hint.split())


def test_the_keys_there_are_with_what_is_chosen_even_wrongly() -> None:
    assert "gae_lambda" in keys(["agent=ppo", "sed=1", "banana"])["agent"]
    assert keys(["experiment=zzzzz"])["seed"] == 0


def test_a_yaml_of_ones_own_leads_to_its_folder() -> None:
    file = Path("it's mine/model/tiny.yaml")
    file.parent.mkdir(parents=True)
    file.touch()
    assert hints.for_word(str(file)) == """--config-dir 'it'"'"'s mine' model=tiny"""
    for place in (file, file.parent):
        problem = Library(place).folder_problem()
        assert problem is not None
        assert problem.nearest == ("""'it'"'"'s mine'""",)
    problem = Library(Path("nowhere")).folder_problem()
    assert problem is not None
    assert (problem.kind, problem.nearest) == (Kind.FOLDER, ())


# ----------------------------------------------------------------------------------------------- run folders


@pytest.fixture
def runs() -> Path:
    for i, name in enumerate(["mlp/one", "mlp/two", "it's ppo/three"]):
        run = Path("runs") / name
        (run / "checkpoints/step-000000000001").mkdir(parents=True)
        (run / "config.yaml").touch()
        os.utime(run / "config.yaml", (i, i))
    return Path("runs").absolute()


def test_what_is_no_run_folder_leads_to_one(runs: Path) -> None:
    assert hints.no_run_folder(runs / "mlp/oen").endswith(f"did you mean {runs}/mlp/one?")
    assert hints.no_run_folder(runs / "mlp/one/config.yaml").endswith(f"it lies in one: {runs}/mlp/one")
    assert hints.no_run_folder(runs / "mlp/one/checkpoints/step-000000000001").endswith(f"in one: {runs}/mlp/one")
    assert hints.no_run_folder(runs / "mlp").endswith(f"it has no config.yaml; the newest below it is {runs}/mlp/two")
    assert "the newest below it is '" in hints.no_run_folder(runs), "a path with an apostrophe is quoted for a shell"
    assert hints.no_run_folder(runs / "nowhere").endswith("there is no such folder")
    for word in (f"{runs}/mlp/one", f"{runs}/mlp/one/config.yaml"):
        (problem,) = hints.not_overrides([word], Library())
        assert (problem.kind, problem.key) == (Kind.RUN_FOLDER, word)
        assert problem.details["place"] == f"{runs}/mlp/one"
    (runs / "notes.txt").touch()
    assert hints.no_run_folder(runs / "notes.txt").endswith("it is a file")
    assert "three" in hints.newest_run()


def test_a_large_folder_is_not_looked_through(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "MOST_LOOKED_AT", 0)
    assert hints.no_run_folder(runs).endswith("it has no config.yaml")
