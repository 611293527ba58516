"""What is typed becomes a checked search, or all that is wrong with it, a line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from trivium.config.errors import ConfigError
from trivium.search.settings import Search, Settings, check

LR = "learner.lr=loguniform(1e-4,1e-1)"


def test_a_search_is_read_from_what_is_typed() -> None:
    search, config = check(["experiment=mlp_digits", LR, "search=asha", "search.num_trials=5", "budget.epochs=2"])
    assert search.overrides == ["experiment=mlp_digits", "budget.epochs=2", "threads=1"]
    assert search.expressions == {"learner.lr": "loguniform(1e-4,1e-1)"}
    assert search.settings == Settings(algorithm="asha", num_trials=5, metric="eval/loss", mode="min")
    assert search.name == config["name"] == "mlp_digits"
    assert Search.from_dict(search.as_dict()) == search


def test_whole_numbers_may_be_typed_as_floats() -> None:
    settings = check([LR, "search.num_trials=1e1", "search.minutes=2"])[0].settings
    assert (settings.num_trials, settings.minutes) == (10, 2.0)
    assert isinstance(settings.num_trials, int)


def test_the_metric_and_its_direction_are_the_learners() -> None:
    search, _ = check([LR, "search.metric=eval/accuracy"])
    assert search.settings.mode == "max"
    assert check([LR, "search.metric=eval/accuracy", "search.mode=min"])[0].settings.mode == "min"


def test_architectures_are_searched_like_numbers() -> None:
    search, _ = check(["experiment=mlp_digits", "model=choice(mlp,lenet)", LR])
    assert list(search.expressions) == ["model", "learner.lr"]


def test_a_key_may_be_searched_for_one_architecture_only() -> None:
    search, _ = check(
        ["experiment=mlp_digits", "model.hidden=choice([32],[64]) if model == mlp", "model=choice(lenet,mlp)"]
    )
    assert list(search.space) == ["model", "model.hidden"]
    assert Search.from_dict(search.as_dict()).space == search.space


def experiment(folder: Path, *lines: str) -> Path:
    (folder / "experiment").mkdir(parents=True)
    head = "# @package _global_\n# Digits.\ndefaults:\n  - mlp_digits\nsearch:\n"
    (folder / "experiment/mine.yaml").write_text(head + "".join(f"  {line}\n" for line in lines))
    return folder


def test_an_experiment_may_say_what_is_searched_and_how(tmp_path: Path) -> None:
    space = ["space:", "  learner.lr: loguniform(1e-4, 1e-1)", "  model.hidden: choice([32], [64])"]
    conf = experiment(tmp_path / "conf", "algorithm: asha", "num_trials: 7", "metric: [eval/accuracy]", *space)
    search, _ = check(["experiment=mine"], conf)
    assert search.settings == Settings(algorithm="asha", num_trials=7, metric=["eval/accuracy"], mode=["max"])
    assert list(search.space) == ["learner.lr", "model.hidden"]

    typed = ["experiment=mine", "search=bayes", "search.metric=eval/loss", "learner.lr=uniform(0.1,0.2)"]
    search, config = check([*typed, "model.hidden=[8]"], conf)
    assert (search.settings.algorithm, search.settings.num_trials) == ("bayes", 7)
    assert search.expressions == {"learner.lr": "uniform(0.1,0.2)"}
    assert config["model"]["hidden"] == [8]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["num_trails: 3", "space: {learner.lr: 'uniform(0.1,1)'}"], "did you mean search.num_trials?"),
        (["num_trials: -3", "space: {learner.lr: 'uniform(0.1,1)'}"], "search.num_trials=-3"),
        (["space: {learner.lr: 3}"], "search.space: must be expressions by key"),
        (["space: [learner.lr]"], "search.space: must be expressions by key"),
        (["space: {learner.lr: 'uniform(1,0.5)'}"], "1 must be below 0.5"),
        (["space: {learner.lrr: 'uniform(0.1,1)'}"], "learner.lrr"),
    ],
)
def test_what_is_wrong_in_an_experiments_search(lines: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        check(["experiment=mine"], experiment(tmp_path / "conf", *lines))
    assert len(raised.value.errors) == 1, raised.value.errors
    assert expected in raised.value.errors[0]


def test_several_metrics_have_a_direction_each() -> None:
    search, _ = check([LR, "search.metric=[eval/loss,eval/accuracy]"])
    assert (search.settings.metrics, search.settings.modes) == (["eval/loss", "eval/accuracy"], ["min", "max"])
    search, _ = check([LR, "search.metric=[eval/loss,eval/accuracy]", "search.mode=[max,min]"])
    assert search.settings.modes == ["max", "min"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["experiment=mlp_digits"], ["the search space is empty"]),
        ([LR, "search=asa"], ["did you mean search=asha?"]),
        ([LR, "search.num_trails=3"], ["did you mean search.num_trials?"]),
        ([LR, "search.num_trials=0"], ["search.num_trials=0; valid: a whole number >= 1"]),
        ([LR, "search.num_trials=.inf"], ["search.num_trials=inf; valid: a whole number >= 1"]),
        ([LR, "search.num_trials=true"], ["search.num_trials=True; valid: a whole number >= 1"]),
        ([LR, "search.seeds=1.5", "search.minutes=-1"], ["search.seeds=1.5", "search.minutes=-1"]),
        ([LR, "search.metric=eval/acuracy"], ["did you mean eval/accuracy?"]),
        ([LR, "search.metric=train/loss"], ["search.metric=train/loss; valid: a metric of evaluations"]),
        (["learner.lr=loguniform(0,1)", "model.hidden=choice()"], ["must begin above 0", "nothing to choose from"]),
        ([LR, LR], ["learner.lr is searched twice"]),
        ([LR, "search.metric=[eval/loss,eval/loss]"], ["the same metric is given twice"]),
        ([LR, "search.metric=[eval/loss,eval/acuracy]"], ["did you mean eval/accuracy?"]),
        ([LR, "search.metric=[eval/loss,eval/accuracy]", "search.mode=[min]"], ["one for each of the 2 metrics"]),
        ([LR, "search.metric=[eval/loss,eval/accuracy]", "search=asha"], ["valid for several: random, grid, bayes"]),
        (["model=choice(mlp,lenet)", "model.hidden=choice([32],[64])"], ["hidden"]),
        (["model.hidden=choice([8],[9]) if model == mlp"], ["model is not among the searched choices"]),
        (["learner.lrr=uniform(0,1)"], ["did you mean 'learner.lr'?"]),
        (["model.dropout=uniform(0.5,1.5)"], ["model.dropout=1.5"]),
        (["model=choice(mlp,lenett)"], ["lenett"]),
        ([LR, "budget.epoch=2"], ["did you mean 'budget.epochs'?"]),
    ],
)
def test_everything_wrong_is_reported_before_anything_starts(typed: list[str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        check(typed)
    assert len(raised.value.errors) == len(expected), raised.value.errors
    for line, part in zip(raised.value.errors, expected, strict=True):
        assert part in line
        assert "\n" not in line


@pytest.mark.parametrize(
    "change",
    [
        {"settings": None},
        {"overrides": "seed=1"},
        {"overrides": [1]},
        {"expressions": []},
        {"settings": {"num_trials": -1}},
        {"settings": {"algorithm": "other"}},
        {"unknown": 1},
        {"expressions": {"learner.lr": "uniform(2,1)"}},
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, object]) -> None:
    data = check([LR])[0].as_dict()
    if isinstance(change.get("settings"), dict):
        change = {"settings": {**data["settings"], **change["settings"]}}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r".+"):
        Search.from_dict({**data, **change})
