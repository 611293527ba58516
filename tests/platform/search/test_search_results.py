"""Trials, their records, the ranking and the best settings as an experiment file; no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trivium.boundary import strict_json
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.search import driver, results
from trivium.search.settings import Search, Settings, check
from trivium.search.trial import best_of, end_records, evaluations, name_of, read_records, run_trial

SHORT = ["experiment=mlp_digits", "budget.epochs=2", "evaluation.every_updates=20", "tracking.wandb=false"]


@pytest.fixture(scope="module")
def search() -> Search:
    return check([*SHORT, "learner.lr=loguniform(1e-4,1e-1)", "model.hidden=choice([16],[32])"])[0]


VALUES = {"learner.lr": "0.01", "model.hidden": "[16]"}


def record(score: float | None, lr: str = "0.01", **other: Any) -> dict[str, Any]:
    return {"values": {**VALUES, "learner.lr": lr}, "score": score, "state": "finished", "name": lr, **other}


def write_run(folder: Path, *losses: float, name: str = "eval/loss") -> None:
    folder.mkdir(parents=True)
    rows = [{"step": i, name: loss} for i, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_equal_settings_have_one_name_whatever_their_order() -> None:
    assert name_of(VALUES) == name_of(dict(reversed(VALUES.items())))
    assert name_of(VALUES) != name_of({**VALUES, "learner.lr": "0.02"})


def test_the_best_evaluation_is_a_runs_score() -> None:
    assert best_of([3.0, 1.0, 2.0], "min") == 1.0
    assert best_of([3.0, float("nan"), float("inf")], "max") == 3.0
    assert best_of([float("nan")], "max") is None


def test_evaluations_are_read_from_the_metrics_and_damaged_rows_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 3.0, 1.0)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train/loss": 1}\n[1]\n{"eval/loss": "x"}\n{"eval/lo')
    assert evaluations(tmp_path / "run", "eval/loss") == [3.0, 1.0]
    assert evaluations(tmp_path / "none", "eval/loss") == []


def test_a_trial_trains_reports_and_is_not_trained_again(search: Search, tmp_path: Path) -> None:
    folder, reported = tmp_path / "trials" / "a", []

    def report(score: float, final: bool) -> bool:
        reported.append((score, final))
        return False

    (tmp_path / "trials").mkdir()
    score = run_trial(VALUES, search=search, folder=folder, report=report)
    found = evaluations(folder, "eval/loss")
    assert score == min(found)
    assert reported == [*((value, False) for value in found), (score, True)]
    (only,) = read_records(tmp_path / "trials")
    assert (only["state"], only["score"], only["values"]) == ("finished", score, VALUES)

    before, reported[:] = (folder / "metrics.jsonl").stat().st_mtime_ns, []
    assert run_trial(VALUES, search=search, folder=folder, report=report) == score
    assert reported == [*((value, False) for value in found), (score, True)]
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_trial_that_is_stopped_early_has_a_checkpoint_and_can_be_continued(search: Search, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    folder = tmp_path / "trials" / "a"
    run_trial(VALUES, search=search, folder=folder, report=lambda score, final: True)
    (only,) = read_records(tmp_path / "trials")
    assert only["state"] == "stopped"
    assert len(evaluations(folder, "eval/loss")) == 1
    run_trial(VALUES, search=search, folder=folder, report=lambda score, final: False)
    (only,) = read_records(tmp_path / "trials")
    assert only["state"] == "finished"
    assert len(evaluations(folder, "eval/loss")) > 1


def test_a_trial_of_two_seeds_has_the_mean_as_its_score(search: Search, tmp_path: Path) -> None:
    two = Search(**{**vars(search), "settings": Settings(**{**vars(search.settings), "seeds": 2})})
    (tmp_path / "trials").mkdir()
    folder = tmp_path / "trials" / "a"
    score = run_trial(VALUES, search=two, folder=folder, report=lambda score, final: False)
    scores = [min(evaluations(folder / f"seed-{i}", "eval/loss")) for i in range(2)]
    assert scores[0] != scores[1]
    assert score == pytest.approx(sum(scores) / 2)


def test_a_trial_that_fails_says_why(search: Search, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    bad = {**VALUES, "model.hidden": "[0]"}
    with pytest.raises(ConfigError):
        run_trial(bad, search=search, folder=tmp_path / "trials" / "a", report=lambda score, final: False)
    (only,) = read_records(tmp_path / "trials")
    assert only["state"] == "failed"
    assert "model.hidden" in only["reason"]


def test_records_of_lost_processes_are_completed_from_their_runs(search: Search, tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    write_run(trials / "a", 3.0, 2.0)
    running = {"values": VALUES, "state": "running", "score": None, "scores": [], "began": 1.0}
    for name in ("a", "b"):
        (trials / f"{name}.json").write_text(strict_json.dumps(running))
    end_records(search, trials)
    first, second = read_records(trials)
    assert (first["state"], first["score"]) == ("stopped", 2.0)
    assert (second["state"], second["score"]) == ("failed", None)


def test_damaged_records_are_left_out(tmp_path: Path) -> None:
    for name, text in {"a": "{", "b": "[]", "c": '{"values": 1}', "d": '{"values": {}, "began": "x"}'}.items():
        (tmp_path / f"{name}.json").write_text(text)
    assert [found["name"] for found in read_records(tmp_path)] == ["d"]


def test_the_ranking_has_the_best_first_and_leaves_out_what_has_no_score() -> None:
    records = [record(2.0, "a"), record(None, "b"), record(1.0, "c")]
    assert [each["name"] for each in results.ranked(records, "min")] == ["c", "a"]
    assert [each["name"] for each in results.ranked(records, "max")] == ["a", "c"]


def test_the_best_settings_are_an_experiment_that_composes_to_the_same_config(search: Search, tmp_path: Path) -> None:
    values = {"learner.lr": "0.0123", "model.hidden": "[32]"}
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/best.yaml").write_text(results.as_experiment(search, values, "The best."))
    again = compose(["experiment=best"], tmp_path / "conf")
    assert again == compose(results.overrides_of(search, values))
    assert again["learner"]["lr"] == 0.0123


def test_another_model_is_another_default_of_the_experiment(tmp_path: Path) -> None:
    search = check(["experiment=lenet_digits", "model=choice(lenet,resnet)", "budget.epochs=1"])[0]
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/best.yaml").write_text(results.as_experiment(search, {"model": "resnet"}, "Best."))
    assert compose(["experiment=best"], tmp_path / "conf") == compose(
        ["experiment=lenet_digits", "model=resnet", "budget.epochs=1", "threads=1"]
    )


def test_importance_finds_the_key_that_matters(search: Search) -> None:
    records = [
        {**record(float(i)), "values": {"learner.lr": repr(10 ** (-4 + 3 * i / 19)), "model.hidden": "[16]"}}
        for i in range(20)
    ]
    found = results.importance(search, records)
    assert found["learner.lr"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    assert results.importance(search, records[:3]) == {}


def test_results_are_written_and_shown(search: Search, tmp_path: Path) -> None:
    result = results.write(search, tmp_path, [record(2.0, "0.01"), record(1.0, "0.02"), record(None, "0.03")])
    assert json.loads((tmp_path / "results.json").read_text()) == result
    assert result["best"]["score"] == 1.0
    assert "learner.lr=0.02" in result["command"]
    headings, first, *_ = results.table(result)
    assert headings.split() == ["learner.lr", "model.hidden", "eval/loss", "state", "run"]
    assert first.split()[:4] == ["1", "0.02", "[16]", "1"]
    assert results.table({**result, "trials": []}) == []


def test_a_folder_holds_one_search(search: Search, tmp_path: Path) -> None:
    driver.begin(search, tmp_path / "s")
    assert driver.read(tmp_path / "s") == search
    with pytest.raises(ConfigError, match="holds a search"):
        driver.begin(search, tmp_path / "s")
    (tmp_path / "s/search.json").write_text('{"overrides": 1}')
    with pytest.raises(ConfigError, match="is damaged"):
        driver.read(tmp_path / "s")
    with pytest.raises(ConfigError, match="is not the folder of a search"):
        driver.read(tmp_path)
